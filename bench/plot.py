"""Draws DIR/bench.json: latency against length (latency.png), and ours against the peers (peers.png).

    python bench/plot.py DIR
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, PEER = "#0b6e4f", "#8d99ae"


def latency(bench: dict, path: Path):
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for name, lengths in bench["screen"].items():
        points = sorted((found["tokens"], found["median"]) for found in lengths.values())
        ours = name.startswith("ours")
        style = "s-" if "WebGPU" in name else "o:" if "plain" in name else "o-"
        axes.plot(*zip(*points), style, label=name, color=OURS if ours else None, linewidth=2.5 if ours else 1.2)
    if "native" in bench:
        points = sorted((int(length), ms) for length, ms in bench["native"]["prefill_ms"].items())
        axes.plot(*zip(*points), "k--", label="llama.cpp, native, 2 threads")
    axes.set(xscale="log", yscale="log", xlabel="tokens of the sequence", ylabel="ms until the verdict (median)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    axes.set_title("Screening a prompt in the browser", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def peers(bench: dict, path: Path):
    figure, pair = plt.subplots(1, 2, figsize=(9, 3))
    screen = {name: lengths["20"]["median"] for name, lengths in bench["screen"].items() if "20" in lengths}
    decode = {name: found["perSecond"] for name, found in bench["decode"].items()}
    if "native" in bench:
        screen["llama.cpp, native, 2 threads"] = bench["native"]["prefill_ms"]["29"]
        decode["llama.cpp, native, 2 threads"] = bench["native"]["decode_per_second"]
    for axes, figures, title in ((pair[0], screen, "ms for 29 tokens"), (pair[1], decode, "tokens/s decoded")):
        names = list(figures)[::-1]
        bars = axes.barh(names, [figures[name] for name in names], color=[OURS if name.startswith("ours") else PEER for name in names])
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    folder = Path(sys.argv[1])
    bench = json.loads((folder / "bench.json").read_text())
    latency(bench, folder / "latency.png")
    peers(bench, folder / "peers.png")


if __name__ == "__main__":
    main()
