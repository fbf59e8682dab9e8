"""Counts our own rows: prints the tables of DATASHEET.md.

    python training/datasheet.py
"""

from collections import Counter
from pathlib import Path

import data
from protocol import CATEGORIES, messages_of

HERE = Path(__file__).parent


def style(row: dict) -> str:
    return "conversation" if len(messages_of(row)) > 1 else row.get("style", "not recorded")


def main():
    rows = data.own_rows(HERE / "data")
    unsafe = [row for row in rows if row["label"] == "unsafe"]
    safe = [row for row in rows if row["label"] == "safe"]
    paired = {row["pair"] for row in safe if row.get("pair")}
    print(f"{len(rows)} rows: {len(unsafe)} harmful, {len(safe)} harmless; {sum('reply' in row for row in unsafe)} safeguard replies, "
          f"{sum('reason' in row for row in safe)} reasons, {sum(len(messages_of(row)) > 1 for row in rows)} conversations, "
          f"{len(paired)} harmful rows with a minimal pair.\n")
    print("| category | harmful | with a reply | with a minimal pair | harmless, alike |\n|---|---|---|---|---|")
    for name in CATEGORIES:
        mine = [row for row in unsafe if row["category"] == name]
        print(f"| {name} | {len(mine)} | {sum('reply' in row for row in mine)} | {sum(row['id'] in paired for row in mine)} "
              f"| {sum(row.get('near') == name for row in safe)} |")
    print(f"| none | | | | {sum(row.get('near') is None for row in safe)} |\n")
    counts = {label: Counter(style(row) for row in part) for label, part in (("harmful", unsafe), ("harmless", safe))}
    print("| style | harmful | harmless |\n|---|---|---|")
    for name, _ in (counts["harmful"] + counts["harmless"]).most_common():
        print(f"| {name} | {counts['harmful'][name]} | {counts['harmless'][name]} |")
    openings = Counter(" ".join(row["reply"].split()[:5]).lower() for row in unsafe if "reply" in row)
    words, count = openings.most_common(1)[0]
    print(f"\nThe commonest five-word opening of a reply, {words!r}, stands {count} times.")


if __name__ == "__main__":
    main()
