"""Writes replies to JSON lines {"id", "prompt" or "messages"} with a trained model in PyTorch, greedily, all side by side.

    python training/write.py --model out/ablations/base/model --force training/test/queries.jsonl > out/replies.jsonl
    python training/replies.py training/test/queries.jsonl out/replies.jsonl

`guardian reply` writes what is shipped; this compares runs on the machine that trained them, without exporting each.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import data
from protocol import Protocol


@torch.inference_mode()
def write(model, prefixes: list[list[int]], protocol: Protocol, most: int) -> list[str]:
    width = max(map(len, prefixes))
    # Padding stands in front, so that all end where their replies begin.
    ids = torch.tensor([[protocol.im_end] * (width - len(prefix)) + prefix for prefix in prefixes], device=model.device)
    mask = torch.tensor([[0] * (width - len(prefix)) + [1] * len(prefix) for prefix in prefixes], device=model.device)
    written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False,
                             eos_token_id=protocol.im_end, pad_token_id=protocol.im_end)
    replies = (row[:row.index(protocol.im_end)] if protocol.im_end in row else row for row in written[:, width:].tolist())
    return [protocol.tokenizer.decode(reply) for reply in replies]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--force", action="store_true", help="<|expl|><|harm|> instead of <|expl|>")
    parser.add_argument("--max-tokens", type=int, default=110)
    args = parser.parse_args()
    protocol = Protocol()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    rows = data.read_jsonl(args.queries)
    asked = [protocol.expl, protocol.harm] if args.force else [protocol.expl]
    replies = write(model.to(device).eval(), [protocol.prefix(row) + asked for row in rows], protocol, args.max_tokens)
    for row, reply in zip(rows, replies):
        print(json.dumps({"id": row["id"], "force": args.force, "reply": reply}))


if __name__ == "__main__":
    main()
