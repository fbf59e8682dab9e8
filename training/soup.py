"""Averages the weights of finished runs that began at the same model; `train.py --from` goes on from there.

    python training/soup.py out/run1 out/run2 out/run3 --out out/soup
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that train.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    states = [load_file(run / "model/model.safetensors") for run in args.runs]
    mean = {name: sum(state[name] for state in states) / len(states) for name in states[0]}
    # The settings and the tokenizer are the same in all of them.
    shutil.copytree(args.runs[0] / "model", args.out / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(mean, args.out / "model/model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
