"""Shows that packing changes nothing: each example's loss packed beside others equals its loss computed alone. And that
weights are rounded in training as the export rounds them.

    python training/check.py
"""

import json
from pathlib import Path

import gguf
import torch
from gguf.quants import dequantize, quantize

import data
from protocol import Protocol
from score import q5_0
from train import Guardian, losses

HERE = Path(__file__).parent


def main():
    values = torch.randn(64, 576)
    values[3, 32:64] = 0
    kind = gguf.GGMLQuantizationType.Q5_0
    exported = torch.from_numpy(dequantize(quantize(values.numpy(), kind), kind))
    assert torch.equal(q5_0(values), exported), "training rounds otherwise than the export"
    print("rounding to Q5_0 as the export does")
    settings = json.loads((HERE / "settings.json").read_text()) | {"bf16": False}
    protocol = Protocol()
    guardian = Guardian(protocol, settings, torch.device("cpu"))
    rows = data.own_rows(HERE / "data")
    for first in (False, True):
        compare(guardian, rows[:: len(rows) // 8][:8], protocol, settings | {"task_first": first})


@torch.inference_mode()
def compare(guardian: Guardian, rows: list[dict], protocol: Protocol, settings: dict):
    examples = [data.example(protocol, row, settings) for row in rows]
    packed = losses(guardian, data.place(data.pack(examples, 512), "cpu"), len(examples), settings)[0].item()
    alone = 0.0
    for item in examples:
        # Each branch by itself, as the program runs it: prefix, then the branch.
        for branch in sorted(set(item.branches) - {0}):
            keep = [i for i, owner in enumerate(item.branches) if owner in (0, branch)]
            single = data.Example(**{name: [getattr(item, name)[i] for i in keep] for name in vars(item)})
            single.branches = [0] * len(keep)
            alone += losses(guardian, data.place(data.pack([single], 512), "cpu"), len(examples), settings)[0].item()
    print(f"{len(examples)} examples, task token {'first' if settings['task_first'] else 'last'}: loss packed {packed:.6f}, alone {alone:.6f}")
    assert abs(packed - alone) < 1e-4 * alone, "packing changes the loss"


if __name__ == "__main__":
    main()
