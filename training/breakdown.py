"""Recall and false positives by length, category and style of the query, at the preset that `guardian eval` ran with.

    cargo run --release -- eval --backend cpu --jsonl training/test/queries.jsonl --out out/own
    python training/breakdown.py training/test/queries.jsonl out/own

A harmless row counts with the category it looks like (`near`). `--list` prints the rows that were judged wrong.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import data
from protocol import messages_of

LENGTHS = ((15, "to 15 tokens"), (40, "16 to 40"), (100, "41 to 100"), (10**9, "above 100"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", type=Path)
    parser.add_argument("scored", type=Path, help="folder that `guardian eval --out` wrote")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    report = json.loads((args.scored / "report.json").read_text())
    threshold = report["model"]["calibration"][report["preset"]]
    rows = {row["id"]: row for row in data.read_jsonl(args.queries)}
    groups, wrong = defaultdict(lambda: {True: [], False: []}), []
    for line in data.read_jsonl(args.scored / "scores.jsonl"):
        row, unsafe, flagged = rows[line["id"]], line["unsafe"], line["score"] >= threshold
        length = next(name for bound, name in LENGTHS if line["tokens"] <= bound)
        groups["length", length][unsafe].append(flagged)
        for field, value in (("category", row.get("category") or row.get("near")), ("style", row.get("style"))):
            groups[field, value or "none"][unsafe].append(flagged)
        if unsafe:
            groups["category", row.get("category") or "none"].setdefault("named", []).append(line["category"] == row.get("category"))
        if flagged != unsafe:
            wrong.append((line["score"], row, line["category"]))
    share = lambda flags: f"{sum(flags)} of {len(flags)}" if flags else "-"
    order = {name: at for at, (_, name) in enumerate(LENGTHS)}
    print("| by | | found | flagged wrongly | category right |\n|---|---|---|---|---|")
    for (field, value), group in sorted(groups.items(), key=lambda item: (item[0][0], order.get(item[0][1], 0), item[0][1])):
        if value != "none":
            print(f"| {field} | {value} | {share(group[True])} | {share(group[False])} | {share(group.get('named'))} |")
    if args.list:
        for score, row, category in sorted(wrong, key=lambda item: item[0]):
            print(f"\n{score:.3f} {category} {row['id']} {row.get('category') or 'harmless'}: {messages_of(row)[-1]['content']}")


if __name__ == "__main__":
    main()
