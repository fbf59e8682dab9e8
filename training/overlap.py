"""Looks for rows of ours that stand twice, or in a benchmark: the same words, or eight words running. Exits with 1 if any.

    python training/overlap.py public.jsonl
"""

import re
import sys
from pathlib import Path

import data
from protocol import messages_of

HERE = Path(__file__).parent
GRAM = 8


def grams(text: str) -> set[tuple[str, ...]]:
    """Every run of eight words; of a shorter text, the whole."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i:i + GRAM]) for i in range(max(1, len(words) - GRAM + 1))}


def main():
    text = lambda row: "\n".join(message["content"] for message in messages_of(row))
    benchmark = {gram: row["id"] for path in sys.argv[1:] for row in data.read_jsonl(Path(path)) for gram in grams(text(row))}
    # A text without a word (emoji, digits in other scripts) has the empty gram.
    benchmark.pop((), None)
    rows, seen, found = data.own_rows(HERE / "data"), {}, 0
    for row in rows:
        twin = seen.setdefault(" ".join(text(row).lower().split()), row["id"])
        copied = next((gram for gram in grams(text(row)) if gram in benchmark), None)
        for what in ([f"repeats {twin}"] if twin != row["id"] else []) + ([f"overlaps {benchmark[copied]}"] if copied else []):
            print(f"{row['id']} {what}: {text(row)!r}")
            found += 1
    print(f"{len(rows)} rows, {found} found")
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
