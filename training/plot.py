"""Draws a run's losses and its held-out figures.

    python training/plot.py out/run1/log.jsonl training/loss.png
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main():
    log, out = map(Path, sys.argv[1:3])
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    checks = [(row["step"], row[key]) for row in rows for key in ("evaluation", "final") if key in row]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name in ("label", "category", "reply"):
        left.plot([row["step"] for row in steps if name in row], [row[name] for row in steps if name in row], label=name)
    left.set(xlabel="step", ylabel="cross-entropy, mean of 10 steps (nats per token)", yscale="log", title="Training loss")
    for name in ("f1", "recall", "fpr", "category"):
        right.plot([step for step, _ in checks], [check[name] for _, check in checks], marker="o", label=name)
    right.set(xlabel="step", ylim=(0, 1), title=f"{checks[-1][1]['rows']} held-out rows of our own, margin 0" if checks else "")
    for axis in (left, right):
        axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
