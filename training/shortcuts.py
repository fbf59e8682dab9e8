"""How well single surface features tell our harmful rows from our harmless ones: the more, the more a model learns the surface.

    python training/shortcuts.py [--top 25]

Each feature is a yes or no question about the last user turn: does it end in "?", begin with this word, hold this word, is it
longer than so many words? Its accuracy is that of the better of the two rules "yes means unsafe" and "yes means safe", with both
labels weighted alike: 50 % is chance. Exits with 1 if one is above --bar.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

import data
from protocol import messages_of

HERE = Path(__file__).parent


def features(row: dict) -> set[str]:
    turns = messages_of(row)
    text = turns[-1]["content"]
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
    found = {f"word {word!r}" for word in words}
    found |= {f"longer than {count} words" for count in (4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60, 80) if len(words) > count}
    if words:
        found |= {f"first word {words[0]!r}", f"last word {words[-1]!r}"}
    questions = {
        "ends in '?'": text.rstrip().endswith("?"), "ends in '.'": text.rstrip().endswith("."), "no closing mark": text.rstrip()[-1:].isalnum(),
        "begins in lower case": text[:1].islower(), "all lower case": text == text.lower(), "holds a digit": any(c.isdigit() for c in text),
        "holds a quote": any(c in text for c in "\"“”'‘’"), "holds a line break": "\n" in text, "holds '!'": "!" in text, "not ASCII": not text.isascii(),
        "a conversation": len(turns) > 1,
    }
    return found | {name for name, holds in questions.items() if holds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--top", type=int, default=25)
    parser.add_argument("--bar", type=float, default=0.60)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    args = parser.parse_args()
    rows = data.own_rows(args.data)
    totals = Counter(row["label"] for row in rows)
    counts = {"safe": Counter(), "unsafe": Counter()}
    for row in rows:
        counts[row["label"]].update(features(row))
    ranked = []
    for feature in counts["safe"].keys() | counts["unsafe"].keys():
        safe, unsafe = (counts[label][feature] / totals[label] for label in ("safe", "unsafe"))
        ranked.append((0.5 + abs(unsafe - safe) / 2, feature, safe, unsafe))
    ranked.sort(reverse=True)
    print(f"{totals['safe']} safe rows, {totals['unsafe']} unsafe, {len(ranked)} features\n\n| feature | accuracy | of safe rows | of unsafe rows |\n|---|---|---|---|")
    for accuracy, feature, safe, unsafe in ranked[:args.top]:
        print(f"| {feature} | {accuracy:.1%} | {safe:.1%} | {unsafe:.1%} |")
    sys.exit(ranked[0][0] > args.bar)


if __name__ == "__main__":
    main()
