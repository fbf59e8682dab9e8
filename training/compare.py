"""What one scored run of the same rows is worth against another, with 95 % bootstrap intervals of the differences.

    python training/export.py --weights out/run1/model/model.safetensors --out out/f32 --type f32 --embed-type f32 --calibration out/calibration.json
    cargo run --release -- eval --model out/f32 --backend cpu --jsonl training/test/queries.jsonl --out out/own-f32
    python training/compare.py out/own-f32 out/own

Both are folders that `guardian eval --out` wrote; each counts at the threshold of its own file, rows in both alone. The last
line compares them where they flag as many harmless rows.
"""

import json
import sys
from pathlib import Path

import numpy as np

import data
from ablate import average_precision


def load(folder: Path) -> tuple[dict, float]:
    report = json.loads((folder / "report.json").read_text())
    return {row["id"]: row for row in data.read_jsonl(folder / "scores.jsonl")}, report["model"]["calibration"][report["preset"]]


def figures(unsafe: np.ndarray, score: np.ndarray, threshold: float) -> list[float]:
    flagged = score >= threshold
    tp, fp, fn = (flagged & unsafe).sum(), (flagged & ~unsafe).sum(), (~flagged & unsafe).sum()
    return [2 * tp / (2 * tp + fp + fn), tp / unsafe.sum(), fp / (~unsafe).sum(), average_precision(unsafe, score)]


def main():
    (before, first), (after, second) = (load(Path(folder)) for folder in sys.argv[1:3])
    ids = [name for name in before if name in after]
    unsafe = np.array([before[name]["unsafe"] for name in ids])
    old, new = (np.array([rows[name]["score"] for name in ids]) for rows in (before, after))
    rng = np.random.default_rng(1)
    draws = [rng.integers(len(ids), size=len(ids)) for _ in range(2000)]
    spread = [np.subtract(figures(unsafe[at], new[at], second), figures(unsafe[at], old[at], first)) for at in draws]
    low, high = np.percentile(spread, [2.5, 97.5], axis=0)
    print(f"{len(ids)} rows\n\n| | {sys.argv[1]} | {sys.argv[2]} | difference |\n|---|---|---|---|")
    for at, name in enumerate(("F1", "recall", "FPR", "AUPRC")):
        a, b = figures(unsafe, old, first)[at], figures(unsafe, new, second)[at]
        print(f"| {name} | {100 * a:.1f} | {100 * b:.1f} | {100 * (b - a):+.1f} [{100 * low[at]:+.1f}, {100 * high[at]:+.1f}] |")
    print(f"\nScores differ by {abs(old - new).mean():.3f} on average, {abs(old - new).max():.3f} at most; "
          f"{((old >= first) != (new >= second)).sum()} verdicts differ.")
    # The first one's lowest threshold that flags no more harmless rows than the second flags at its own.
    alike = np.sort(old[~unsafe])[::-1][((new >= second) & ~unsafe).sum():][:1]
    at = min(score for score in old if score > alike)
    f1, recall, fpr, _ = figures(unsafe, old, at)
    print(f"At {at:.4f} {sys.argv[1]} has F1 {100 * f1:.1f}, recall {100 * recall:.1f}, FPR {100 * fpr:.1f}.")


if __name__ == "__main__":
    main()
