"""Draws development rows, at most so many of each source and label, so that no large source dominates; with --own, adds
our own held-out rows as the source "own".

    python training/sample.py dev.jsonl --per-source 150 --own > out/dev.jsonl
"""

import argparse
import json
from pathlib import Path

import data

HERE = Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jsonl", type=Path)
    parser.add_argument("--per-source", type=int, required=True)
    parser.add_argument("--own", action="store_true", help="add the rows of training/data that training holds out")
    args = parser.parse_args()
    rows = data.sample(data.read_jsonl(args.jsonl), args.per_source)
    if args.own:
        settings = json.loads((HERE / "settings.json").read_text())
        rows += [{**row, "source": "own"} for row in data.held_out(data.own_rows(HERE / "data"), settings)[1]]
    for row in rows:
        print(json.dumps({key: row[key] for key in ("id", "source", "prompt", "messages", "label") if key in row}))


if __name__ == "__main__":
    main()
