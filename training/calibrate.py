"""Temperature, bias and thresholds from scored development rows (`guardian eval --out`), sources weighted alike.

    python training/calibrate.py out/dev/scores.jsonl --curves model/operating.json > out/calibration.json

`--curves` writes the scores' distribution, safe and unsafe rows apart, from which the demo draws what a threshold means.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

BINS = 100
# The largest share of safe rows that each preset may flag.
FPR = {"permissive": 0.02, "balanced": 0.04, "strict": 0.1}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, help="scores of a file exported without calibration (temperature 1)")
    parser.add_argument("--curves", type=Path, help="where to write the distribution of calibrated scores")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.scores.read_text().splitlines()]
    score = np.clip(np.array([row["score"] for row in rows]), 1e-6, 1 - 1e-6)
    margin = np.log(score) - np.log1p(-score)
    label = np.array([row["unsafe"] for row in rows])
    # In what a score means, a row of a source of n counts n^-1/4, so that ours, the most, do not decide alone; in the thresholds each
    # source and class counts the same, so that neither the largest source nor the commoner class does.
    sources = Counter(row["source"] for row in rows)
    tempered = np.array([sources[row["source"]] ** -0.25 for row in rows])
    counts = Counter((row["source"], row["unsafe"]) for row in rows)
    weight = np.array([1 / counts[row["source"], row["unsafe"]] for row in rows])

    def loss(scaling: tuple[float, float]) -> float:
        temperature, bias = scaling
        return float((tempered * np.logaddexp(0, np.where(label, bias - margin, margin - bias) / temperature)).sum() / tempered.sum())

    temperature, bias = min(((t, b) for t in np.geomspace(0.3, 6, 100) for b in np.linspace(-4, 4, 161)), key=loss)
    calibrated = 1 / (1 + np.exp((bias - margin) / temperature))
    result = {"temperature": round(float(temperature), 4), "bias": round(float(bias), 4)}
    safe, unsafe = ~label, label
    order = np.argsort(-calibrated[safe])
    share = np.cumsum(weight[safe][order]) / weight[safe].sum()
    for preset, bound in FPR.items():
        cut = calibrated[safe][order][min(int((share <= bound).sum()), len(order) - 1)]
        result[preset] = round(float(np.clip(cut + 1e-4, 0.01, 0.99)), 4)
    if args.curves:
        bins = lambda chosen: np.histogram(calibrated[chosen], BINS, (0, 1), weights=weight[chosen] / weight[chosen].sum())[0].round(5).tolist()
        sources = sorted({row["source"] for row in rows})
        args.curves.write_text(json.dumps({"source": f"{len(rows)} development rows, {len(sources)} sources weighted alike",
                                           "bins": BINS, "safe": bins(safe), "unsafe": bins(unsafe)}) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
