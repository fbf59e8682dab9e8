"""Trains small models that differ in one setting each, and scores them all on the same rows.

    python training/sample.py ../shared/data/dev.jsonl --per-source 120 > out/dev.jsonl
    python training/ablate.py --dev out/dev.jsonl --out out/ablations
    python training/ablate.py --table

A run sees half our rows and their part of the public ones once, or as many tokens, with the shipped model's settings but for what
its name says; seed 1. Its line in results/ablations.jsonl makes it done: called again, what is missing runs. On a GPU,
`--jobs 5` runs so many side by side; on a CPU `--share 0.1 --set step_tokens=750` takes a tenth of the rows, in steps that are as many as to learn in.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import data
from protocol import CATEGORIES, Protocol
from score import load_model, score

HERE = Path(__file__).parent
# Half our rows and half the public ones (0.3 to one of ours), seen once, in steps half as long as the shipped model's, or there were few.
BASE = {"epochs": 1, "own_share": 0.5, "step_tokens": 4000, "public_per_own": 0.3, "round_from": 1, "harm_rate": 0.3}
RUNS = {
    "base": {},
    "seed 2": {"seed": 2},
    "detection alone": {"tasks": "detect"},
    # About the base's tokens again.
    "public rows alone": {"own_share": 0.0, "epochs": 2.5},
    "our rows alone": {"public_per_own": 0.0, "epochs": 1.25},
    "15 of 30 layers": {"layers": 15, "freeze_layers": 2},
    "15 of 30 layers, all the rows three times": {"layers": 15, "freeze_layers": 2, "own_share": 1.0, "epochs": 3},
    "all the rows": {"own_share": 1.0},
    "a quarter of the rows, twice": {"own_share": 0.25, "epochs": 2},
    "an eighth of the rows, four times": {"own_share": 0.125, "epochs": 4},
    "harm token never": {"harm_rate": 0.0, "harm_safe": 0.0},
    "reply alone": {"tasks": "reply"},
    "no change of surface": {"augment": 0.0, "pad": 0.0},
    "task token first": {"task_first": True},
    "15 layers frozen": {"freeze_layers": 15},
    "all layers and the embedding trained": {"freeze_layers": 0, "train_embedding": True},
    "input rows of the five tokens as they were": {"input_rows": False},
    "harm token never forced on safe queries": {"harm_safe": 0.0},
}
# Whose weights are kept: their replies are compared.
KEPT = ("base", "harm token never")
DEV_ROWS = 20
REPLY_ROWS = 120


def average_precision(unsafe: np.ndarray, margins: np.ndarray) -> float:
    hits = unsafe[np.argsort(-margins, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def figures(unsafe: np.ndarray, margins: np.ndarray) -> dict[str, float]:
    """At margin 0, but for AUPRC."""
    flagged = margins > 0
    tp, fp, fn = (flagged & unsafe).sum(), (flagged & ~unsafe).sum(), (~flagged & unsafe).sum()
    return {"accuracy": (flagged == unsafe).mean(), "f1": 2 * tp / max(1, 2 * tp + fp + fn), "recall": tp / unsafe.sum(),
            "fpr": fp / (~unsafe).sum(), "auprc": average_precision(unsafe, margins)}


def rounded(values: dict) -> dict:
    return {name: round(float(value), 4) for name, value in values.items()}


def against(unsafe: np.ndarray, margins: np.ndarray, base: np.ndarray, draws: int = 1000) -> dict:
    """95 % bootstrap intervals of the differences to the base on the same rows: the noise of the rows, not of the seed."""
    rng = np.random.default_rng(1)
    differences = []
    for _ in range(draws):
        at = rng.integers(len(unsafe), size=len(unsafe))
        ours, theirs = figures(unsafe[at], margins[at]), figures(unsafe[at], base[at])
        differences.append([ours[name] - theirs[name] for name in ("accuracy", "auprc")])
    low, high = np.percentile(differences, [2.5, 97.5], axis=0).round(4).tolist()
    return {"accuracy": [low[0], high[0]], "auprc": [low[1], high[1]]}


@torch.inference_mode()
def reply_loss(model, rows: list[dict], protocol: Protocol, settings: dict) -> float:
    """Nats per token of held-out texts, all without <|harm|>, so that every run answers the same question."""
    settings = settings | {"tasks": "reply", "harm_rate": 0.0}
    examples = sorted((data.example(protocol, row, settings) for row in rows), key=len)
    total = tokens = 0
    for at in range(0, len(examples), 12):
        batch = data.place(data.pack(examples[at:at + 12], settings["row_tokens"]), model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=settings["bf16"]):
            states = model.model(input_ids=batch["ids"], position_ids=batch["positions"], attention_mask=batch["mask"])[0]
            logits = model.lm_head(states.flatten(0, 1)[batch["reply_at"]])
        total += F.cross_entropy(logits.float(), batch["reply_target"], reduction="sum").item()
        tokens += len(batch["reply_target"])
    return total / tokens


def measure(folder: Path, settings: dict, dev: list[dict], protocol: Protocol) -> tuple[dict, dict]:
    """(figures, margins on the test sets) of the run in `folder`."""
    model = load_model(folder / "model", torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    log = data.read_jsonl(folder / "log.jsonl")
    last = [line for line in log if "padding" in line][-1]
    final = log[-1]["final"]
    result = {"tokens": last["tokens"], "steps": log[-1]["step"], "minutes": round(log[-1]["seconds"] / 60, 1)}
    margins_of = {}
    if settings["tasks"] != "reply":
        result["held_out"] = {name: final[name] for name in ("rows", "accuracy", "f1", "recall", "fpr", "category")}
        for name, rows in (("own_test", data.read_jsonl(HERE / "test/queries.jsonl")),
                           ("unseen", data.read_jsonl(HERE / "test/unseen.jsonl")), ("dev", dev)):
            prefixes = [protocol.prefix(row, settings["max_query_tokens"]) for row in rows]
            margins, categories = score(model, prefixes, protocol, settings["bf16"], settings["task_first"])
            unsafe = np.array([row["label"] == "unsafe" for row in rows])
            margins_of[name] = margins.numpy()
            result[name] = {"rows": len(rows), **rounded(figures(unsafe, margins_of[name]))}
            if name != "dev":
                named = [CATEGORIES[best] == row["category"] for best, row in zip(categories.argmax(-1).tolist(), rows)
                         if row["label"] == "unsafe"]
                result[name]["category"] = round(sum(named) / len(named), 4)
            base = folder.parent / "base" / "margins.npz"
            if base.exists():
                result[name]["against_base"] = against(unsafe, margins_of[name], np.load(base)[name])
    if settings["tasks"] != "detect":
        held = data.held_out(data.own_rows(HERE / "data"), settings)[1]
        for label, name in (("unsafe", "reply_nats"), ("safe", "reason_nats")):
            rows = data.sample([row for row in held if row["label"] == label and data.text_of(row)], REPLY_ROWS)
            result[name] = round(reply_loss(model, rows, protocol, settings), 4)
    return result, margins_of


def table(results: list[dict]) -> str:
    percent = lambda part, name: f"{100 * part[name]:.1f}" if part else "-"
    span = lambda part, name: "[{:+.1f}, {:+.1f}]".format(*(100 * end for end in part["against_base"][name])) if part and "against_base" in part else "-"
    lines = ["| run | tokens | minutes | accuracy | against base | F1 | recall | FPR | AUPRC | against base | category "
             "| held-out F1 | dev AUPRC | dev F1 | dev FPR | unseen AUPRC | reply nats | reason nats |", "|---" * 18 + "|"]
    for line in results:
        own, held, dev, unseen = (line.get(name) for name in ("own_test", "held_out", "dev", "unseen"))
        lines.append("| " + " | ".join([
            line["name"], f"{line['tokens']:,}", str(line["minutes"]), percent(own, "accuracy"), span(own, "accuracy"),
            *(percent(own, name) for name in ("f1", "recall", "fpr", "auprc")), span(own, "auprc"), percent(own, "category"),
            percent(held, "f1"), *(percent(dev, name) for name in ("auprc", "f1", "fpr")), percent(unseen, "auprc"),
            *(f"{line[name]:.3f}" if name in line else "-" for name in ("reply_nats", "reason_nats"))]) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", type=Path, help="development rows; at most 20 of each source and label are scored")
    parser.add_argument("--out", type=Path, default=HERE.parent / "out/ablations", help="folder of logs and weights")
    parser.add_argument("--results", type=Path, default=HERE / "results/ablations.jsonl")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")
    parser.add_argument("--public", type=Path, default=HERE.parent / "../shared/data/train.jsonl", help="openly licensed rows")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--share", type=float, default=1, help="of the rows that a run would see")
    parser.add_argument("--set", type=setting, action="append", default=[], metavar="KEY=VALUE", help="overrides one setting of every run (JSON value)")
    parser.add_argument("--eval-rows", type=int, default=10**9, help="of our held-out rows, scored at the end of a run")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    args = parser.parse_args()
    done = data.read_jsonl(args.results) if args.results.exists() else []
    if args.table:
        print(table(done))
        return
    # Our held-out rows are all measured at the end of training, more of them than a sample would hold.
    dev = data.sample([row for row in data.read_jsonl(args.dev) if row["source"] != "own"], DEV_ROWS)
    protocol = Protocol()
    # The base first: the others are held against it. Each is scored while later ones train.
    todo = sorted((name for name in args.only if name not in (line["name"] for line in done)), key=lambda name: name != "base")
    with ThreadPoolExecutor(args.jobs) as pool:
        for name, _ in zip(todo, pool.map(lambda name: train(args, name), todo)):
            record(args, name, dev, protocol)


def changes(args, name: str) -> dict:
    """What a run has other than settings.json."""
    settings = BASE | dict(args.set) | RUNS[name]
    # Without ours an epoch is all the public rows, so there are fewer epochs instead.
    key = "own_share" if settings["own_share"] else "epochs"
    return settings | {key: settings[key] * args.share}


def train(args, name: str):
    folder = args.out / name.replace(" ", "-")
    if (folder / "model/model.safetensors").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    overrides = [part for key, value in changes(args, name).items() for part in ("--set", f"{key}={json.dumps(value)}")]
    subprocess.run([sys.executable, HERE / "train.py", "--out", folder, "--public", args.public, "--save-minutes", "1e9", "--eval-minutes", "1e9",
                    "--eval-rows", str(args.eval_rows), *overrides], check=True)
    (folder / "checkpoint.pt").unlink()


def setting(text: str) -> tuple:
    key, value = text.split("=", 1)
    return key, json.loads(value)


def record(args, name: str, dev: list[dict], protocol: Protocol):
    folder, began = args.out / name.replace(" ", "-"), time.monotonic()
    result, margins = measure(folder, json.loads((HERE / "settings.json").read_text()) | changes(args, name), dev, protocol)
    np.savez(folder / "margins.npz", **margins)
    if name not in KEPT:
        shutil.rmtree(folder / "model")
    args.results.parent.mkdir(exist_ok=True)
    with args.results.open("a") as out:
        out.write(json.dumps({"name": name, "changed": changes(args, name), **result}) + "\n")
    print(f"{name}: scored in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
