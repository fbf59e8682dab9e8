"""Draws losses and held-out figures of a run, or of several on each other.

    python training/plot.py out/run1/log.jsonl [out/run2/log.jsonl ...] training/loss.png
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import data

STYLES = ("-", "--", ":", "-.")


def main():
    *logs, out = map(Path, sys.argv[1:])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    count = 0
    for log, style in zip(logs, STYLES):
        rows = data.read_jsonl(log)
        steps = [row for row in rows if "loss" in row]
        # An evaluation stands between two lines that say how many tokens were read.
        tokens = {row["step"]: row["tokens"] / 1e6 for row in steps}
        at = lambda step: max((read for known, read in tokens.items() if known <= step), default=0)
        checks = [(at(row["step"]), row[key]) for row in rows for key in ("evaluation", "final") if key in row]
        prefix = f"{log.parent.name}: " if len(logs) > 1 else ""
        for color, name in enumerate(("label", "category", "reply")):
            shown = [row for row in steps if name in row]
            left.plot([row["tokens"] / 1e6 for row in shown], [row[name] for row in shown], style, color=f"C{color}", linewidth=1, label=prefix + name)
        for color, name in enumerate(("f1", "recall", "fpr", "category")):
            right.plot([read for read, _ in checks], [check[name] for _, check in checks], style, color=f"C{color}", marker="o", label=prefix + name)
        count = checks[-1][1]["rows"] if checks else count
    left.set(xlabel="million tokens", ylabel="cross-entropy, mean of 10 steps (nats per token)", yscale="log", title="Training loss")
    right.set(xlabel="million tokens", ylim=(0, 1), title=f"{count} held-out rows of our own, margin 0")
    for axis in (left, right):
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
