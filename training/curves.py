"""Draws how true scores are and what they cost: a reliability plot and precision-recall curves.

    python training/curves.py "development rows=out/dev/scores.jsonl" "own test=out/own/scores.jsonl" --out model

Each file is what `guardian eval --out` wrote. Prints what each preset finds and flags wrongly, and the expected calibration
error over 15 bins, as the program has it.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import data

BINS = 15
# Fewer rows in a bin than this say nothing and are not drawn; they still count in the error.
FEW = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=SCORES")
    parser.add_argument("--out", type=Path, required=True, help="folder of reliability.png and precision-recall.png")
    args = parser.parse_args()
    reliability, left = plt.subplots(figsize=(5.5, 5))
    curves, right = plt.subplots(figsize=(5.5, 5))
    print("| set | rows | ECE | permissive: recall, FPR | balanced | strict |\n|---|---|---|---|---|---|")
    left.plot([0, 1], [0, 1], color="grey", linestyle=":", label="a score that means its share")
    for item in args.sets:
        name, path = item.split("=", 1)
        rows = data.read_jsonl(Path(path))
        score = np.array([row["score"] for row in rows])
        unsafe = np.array([row["unsafe"] for row in rows])
        bins = np.minimum((score * BINS).astype(int), BINS - 1)
        points = [(score[bins == i].mean(), unsafe[bins == i].mean(), (bins == i).sum()) for i in range(BINS) if (bins == i).any()]
        error = sum(abs(mean - share) * count for mean, share, count in points) / len(rows)
        drawn = [point for point in points if point[2] >= FEW]
        left.plot([mean for mean, *_ in drawn], [share for _, share, _ in drawn], marker="o", label=f"{name} (ECE {error:.3f})")
        hits = np.cumsum(unsafe[np.argsort(-score, kind="stable")])
        right.plot(hits / unsafe.sum(), hits / np.arange(1, len(hits) + 1), label=f"{name} ({unsafe.mean():.0%} unsafe)")
        calibration = json.loads(Path(path).with_name("report.json").read_text())["model"]["calibration"]
        presets = [score >= calibration[preset] for preset in ("permissive", "balanced", "strict")]
        print(f"| {name} | {len(rows)} | {error:.3f} | "
              + " | ".join(f"{flagged[unsafe].mean():.1%}, {flagged[~unsafe].mean():.1%}" for flagged in presets) + " |")
    left.set(xlabel="mean score of a bin", ylabel="share of its rows that are unsafe", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    for figure, axis, file in ((reliability, left, "reliability.png"), (curves, right, "precision-recall.png")):
        axis.legend(fontsize=8, loc="lower left" if axis is right else "upper left")
        axis.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(args.out / file, dpi=110)


if __name__ == "__main__":
    main()
