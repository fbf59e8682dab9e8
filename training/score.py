"""Scores JSON lines {"id","source","prompt","label"} with a trained model in PyTorch: raw margins and category probabilities.

    python training/score.py --model out/run1/model --jsonl ../shared/data/dev.jsonl --out out/dev-scores.jsonl --per-source 200

Raw text only: the program's normalising and windows are measured by `guardian eval`; here a query is cut at 512 tokens.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import data
from protocol import CATEGORIES, Protocol

WINDOW = 512


def q5_0(values: torch.Tensor) -> torch.Tensor:
    """The values as the shipped format keeps them: blocks of 32 by a scale in f16 and five bits, the largest one exact."""
    blocks = values.view(-1, 32)
    scale = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -16
    # The levels come from the exact scale, the values from the stored one.
    levels = (blocks / torch.where(scale == 0, 1, scale) + 16.5).floor_().clamp_(0, 31).sub_(16)
    return (levels * scale.half().float()).view_as(values)


def load_model(folder: Path, device, rounded: bool = False):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    for parameter in model.parameters() if rounded else ():
        if parameter.ndim > 1:
            parameter.data = q5_0(parameter.data)
    return model


@torch.inference_mode()
def score(model, prefixes: list[list[int]], protocol: Protocol, bf16: bool, task_first: bool = False, budget: int = 4096):
    """(margins [n], category probabilities [n, categories]) in the order given; margin = l_unsafe - l_safe.

    `prefix <|pred|> <|unsafe|>` (`<|pred|> prefix <|unsafe|>` with `task_first`) gives both in one pass; of the LM head
    only those 14 rows are read."""
    device = model.device
    head = model.get_input_embeddings().weight
    label_rows, category_rows = head[[protocol.safe, protocol.unsafe]], head[protocol.categories]
    order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
    margins, categories = torch.empty(len(order)), torch.empty(len(order), len(CATEGORIES))
    while order:
        width = len(prefixes[order[-1]]) + 2
        part = order[-max(1, budget // width):]
        del order[-len(part):]
        lengths = torch.tensor([len(prefixes[i]) for i in part], device=device)
        asked = [[protocol.pred] + prefixes[i] if task_first else prefixes[i] + [protocol.pred] for i in part]
        # Padding stands at the end, where causal attention hides it from every real token.
        ids = torch.tensor([(item + [protocol.unsafe] + [0] * width)[:width] for item in asked], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            states = model.model(input_ids=ids).last_hidden_state
        row = torch.arange(len(part), device=device)
        with torch.autocast(device.type, enabled=False):
            label = states[row, lengths].float() @ label_rows.T
            category = states[row, lengths + 1].float() @ category_rows.T
        margins[part] = (label[:, 1] - label[:, 0]).cpu()
        categories[part] = category.softmax(-1).cpu()
    return margins, categories


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder that train.py wrote")
    parser.add_argument("--jsonl", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-source", type=int, help="at most that many rows of each source and label, drawn by seed")
    parser.add_argument("--no-bf16", action="store_true")
    parser.add_argument("--rounded", action="store_true", help="matrices rounded to Q5_0, as they are shipped")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = data.read_jsonl(args.jsonl)
    if args.per_source:
        rows = data.sample(rows, args.per_source)
    protocol = Protocol()
    model = load_model(args.model, device, args.rounded)
    prefixes = [protocol.prefix(row, WINDOW) for row in rows]
    began, tokens, done = time.monotonic(), 0, 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w") as out:
        # In blocks, so that a long run shows its progress and what it has is on disk.
        for at in range(0, len(rows), 512):
            margins, categories = score(model, prefixes[at:at + 512], protocol, not args.no_bf16)
            for row, margin, category in zip(rows[at:at + 512], margins.tolist(), categories.tolist()):
                named = {name: round(p, 4) for name, p in zip(CATEGORIES, category)}
                out.write(json.dumps({"id": row["id"], "source": row.get("source"), "label": row["label"],
                                      "margin": round(margin, 4), "categories": named}) + "\n")
            out.flush()
            tokens += sum(map(len, prefixes[at:at + 512]))
            done += len(margins)
            print(f"{done} of {len(rows)} rows, {tokens / (time.monotonic() - began):.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
