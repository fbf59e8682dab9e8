"""Safety tuning: detection, category, reply, forced reply and reason jointly, on CPU (bf16 autocast) or CUDA.

    python training/train.py --out out/run1 --minutes 60
    python training/train.py --out out/run1 --minutes 60 --resume
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import data as data_module
from protocol import CATEGORIES, GGUF_NAME, Protocol, base_dir

HERE = Path(__file__).parent


def load_base(protocol: Protocol):
    """The base in f32, with the five tokens' rows set near words that mean alike (they are untrained in the base)."""
    model = AutoModelForCausalLM.from_pretrained(base_dir(), gguf_file=GGUF_NAME, dtype=torch.float32)
    rows = model.get_input_embeddings().weight.data
    alike = {protocol.pred: " classify", protocol.expl: " explain", protocol.safe: " safe", protocol.unsafe: " unsafe",
             protocol.harm: " harmful"}
    for token, word in alike.items():
        rows[token] = rows[protocol.text(word)].mean(0)
    model.config.use_cache = False
    return model


def collate(batch: list, pad: int, device):
    width = max(len(ids) for ids, _, _ in batch)
    make = lambda index, fill: torch.tensor([e[index] + [fill] * (width - len(e[index])) for e in batch], device=device)
    # Padding stands at the end, so causal attention never sees it from a real token.
    return make(0, pad), make(1, data_module.IGNORE), make(2, 0)


def losses(model, batch, protocol: Protocol, device, settings: dict):
    """Mean loss of each kind, the LM head run at supervised positions only."""
    ids, targets, kinds = collate(batch, protocol.im_end, device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings["bf16"]):
        states = model.model(input_ids=ids).last_hidden_state
        chosen = targets != data_module.IGNORE
        logits = model.lm_head(states[chosen]).float()
    targets, kinds = targets[chosen], kinds[chosen]
    token_loss = F.cross_entropy(logits, targets, reduction="none", label_smoothing=0.0)
    # The verdict is a softmax over the two label rows, so that softmax is trained too; the same for the categories.
    label = kinds == 1
    smoothing = settings["label_smoothing"]
    pair = logits[label][:, [protocol.safe, protocol.unsafe]]
    extra_label = F.cross_entropy(pair, (targets[label] == protocol.unsafe).long(), label_smoothing=smoothing) if label.any() else 0.0
    parts = {}
    for kind, name in ((1, "label"), (2, "category"), (3, "reply")):
        mask = kinds == kind
        if mask.any():
            parts[name] = token_loss[mask].mean()
    rows = len(batch)
    weights = {"label": int(label.sum()), "category": int((kinds == 2).sum()),
               "reply": sum(any(k == 3 for k in e[2]) for e in batch)}
    total = sum(parts[name] * weights[name] * settings["weight_" + name] for name in parts)
    total = (total + extra_label * weights["label"] * settings["weight_label"]) / rows
    return total, {name: float(value.detach()) for name, value in parts.items()}


@torch.no_grad()
def evaluate(model, rows: list[dict], protocol: Protocol, device, settings: dict) -> dict:
    model.eval()
    hits = {"tp": 0, "fp": 0, "fn": 0, "tn": 0}
    named = right = 0
    examples = [(data_module.detect(protocol, protocol.prefix(row), row), row) for row in rows]
    examples.sort(key=lambda e: len(e[0][0]))
    for start in range(0, len(examples), 32):
        part = examples[start:start + 32]
        batch = [([*protocol.prefix(row), protocol.pred, protocol.unsafe], [0], [0]) for _, row in part]
        width = [len(e[0]) for e in batch]
        ids = torch.tensor([e[0] + [protocol.im_end] * (max(width) - len(e[0])) for e in batch], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings["bf16"]):
            states = model.model(input_ids=ids).last_hidden_state
            at = torch.tensor(width, device=device)
            index = torch.arange(len(part), device=device)
            head = model.lm_head.weight
            pair = (states[index, at - 2] @ head[[protocol.safe, protocol.unsafe]].T).float()
            cats = (states[index, at - 1] @ head[protocol.categories].T).float().argmax(-1)
        for (_, row), margin, cat in zip(part, (pair[:, 1] - pair[:, 0]).tolist(), cats.tolist()):
            flagged, unsafe = margin > 0, row["label"] == "unsafe"
            hits[("t" if flagged == unsafe else "f") + ("p" if flagged else "n")] += 1
            if unsafe and row.get("category"):
                named += 1
                right += CATEGORIES[cat] == row["category"]
    model.train()
    tp, fp, fn, tn = hits["tp"], hits["fp"], hits["fn"], hits["tn"]
    return {"f1": 2 * tp / max(1, 2 * tp + fp + fn), "recall": tp / max(1, tp + fn), "fpr": fp / max(1, fp + tn),
            "category": right / max(1, named), "rows": len(rows)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, log and final model")
    parser.add_argument("--own", type=Path, default=HERE / "data", help="our own rows (*.jsonl)")
    parser.add_argument("--public", type=Path, default=HERE.parent.parent / "shared/data/train.jsonl", help="openly licensed rows")
    parser.add_argument("--settings", type=Path, default=HERE / "settings.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")
    parser.add_argument("--minutes", type=float, default=60, help="wall-clock budget; the learning rate reaches 0 at its end")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    settings = json.loads(args.settings.read_text())
    settings |= {key: json.loads(value) for key, value in (item.split("=", 1) for item in args.set)}
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings["seed"])

    protocol = Protocol()
    own, dev = data_module.held_out(data_module.own_rows(args.own), settings["held_out"])
    public = data_module.public_rows(args.public, settings["max_chars"])
    model = load_base(protocol).to(device).train()
    decay = [p for p in model.parameters() if p.ndim > 1 and p.shape[0] != model.config.vocab_size]
    plain = [p for p in model.parameters() if p.ndim == 1 or p.shape[0] == model.config.vocab_size]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": settings["weight_decay"]},
                                   {"params": plain, "weight_decay": 0.0}], lr=settings["lr"], betas=(0.9, 0.98), fused=True)
    state = {"step": 0, "epoch": 0, "seconds": 0.0, "tokens": 0}
    checkpoint = args.out / "checkpoint.pt"
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    log = (args.out / "log.jsonl").open("a")
    note = lambda entry: (print(json.dumps(entry), flush=True), log.write(json.dumps(entry) + "\n"), log.flush())
    note({"settings": settings, "own": len(own), "held_out": len(dev), "public": {k: len(v) for k, v in public.items()}})

    def save():
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").rename(checkpoint)

    budget = args.minutes * 60
    began = time.monotonic() - state["seconds"]
    last_eval = last_save = time.monotonic()
    done = False
    while not done:
        own, dev = data_module.held_out(data_module.own_rows(args.own), settings["held_out"])
        rng = random.Random(settings["seed"] * 77 + state["epoch"])
        plan = data_module.batches(data_module.epoch(protocol, own, public, settings, state["epoch"]), settings["batch_tokens"], rng)
        for index, batch in enumerate(plan):
            elapsed = time.monotonic() - began
            epochs = state["epoch"] + index / len(plan)
            fraction = max(elapsed / budget, epochs / settings["epochs"])
            if fraction >= 1:
                done = True
                break
            warm = min(1.0, (state["step"] + 1) / settings["warmup"])
            rate = settings["lr"] * warm * 0.5 * (1 + math.cos(math.pi * fraction))
            for group in optimizer.param_groups:
                group["lr"] = rate
            total, parts = losses(model, batch, protocol, device, settings)
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state["step"] += 1
            state["tokens"] += sum(len(e[0]) for e in batch)
            state["seconds"] = time.monotonic() - began
            if state["step"] % 10 == 0:
                note({"step": state["step"], "epoch": round(epochs, 3), "loss": round(float(total.detach()), 4), "lr": rate,
                      **{k: round(v, 4) for k, v in parts.items()}, "seconds": round(state["seconds"], 1),
                      "tokens_per_second": round(state["tokens"] / state["seconds"], 1)})
            if time.monotonic() - last_eval > settings["eval_minutes"] * 60:
                note({"step": state["step"], "held_out": evaluate(model, dev, protocol, device, settings)})
                last_eval = time.monotonic()
            if time.monotonic() - last_save > settings["save_minutes"] * 60:
                save()
                last_save = time.monotonic()
        else:
            state["epoch"] += 1
    note({"step": state["step"], "final": evaluate(model, dev, protocol, device, settings)})
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"},
              args.out / "model.safetensors")
    save()


if __name__ == "__main__":
    main()
