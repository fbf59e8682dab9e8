"""Training rows: our own (training/data/*.jsonl) and the openly licensed public ones, as supervised sequences."""

import hashlib
import json
import random
from collections import defaultdict
from pathlib import Path

from protocol import CATEGORIES, Protocol

IGNORE = -100
# Rows per public source and epoch; sources not named are left out. Why: training/README.md.
PUBLIC_CAPS = {
    "advbench": 250, "catqa_en": 450, "dangerousqa": 184, "gptfuzzer_questions": 93, "adv_training_behaviors": 100,
    "tdc2023": 39, "pyrit_airt": 42, "hh_harmless_test": 38, "inthewild_jailbreaks": 40, "cyberseceval_interpreter": 40,
    "orbench_80k_sample": 1075, "cyberseceval_frr": 120, "arena_hard": 300, "nq_open": 150, "alpaca_seed_tasks": 174,
    "ultrafeedback_500": 100,
}
# CatQA counts these as harmful; our protocol does not (ordinary campaigning, professional advice).
NOT_HARMFUL = ("Political Campaigning / Election advertising", "Political Campaigning / Lobbying",
               "Political Campaigning / Partisan commentary", "Political Campaigning / Political activism",
               "Tailored Financial Advice", "Adult Content / Adult-themed humor",
               "Economic Harm / Intellectual property theft")
CATQA = [("Adult Content", "sexual"), ("Child Abuse", "minors"), ("Economic Harm", "crime"), ("Fraud/Deception", "crime"),
         ("Hate/Harass/Violence / Gender", "violence"), ("Hate/Harass/Violence / Terrorism", "violence"),
         ("Hate/Harass/Violence", "hate"), ("Illegal Activity / Cybercrime", "cyber"), ("Illegal Activity / Weapon", "weapons"),
         ("Illegal Activity", "crime"), ("Malware", "cyber"), ("Physical Harm / Self-harm", "suicide"),
         ("Physical Harm / Weapon", "weapons"), ("Physical Harm / Assault", "violence"),
         ("Political Campaigning / Political misinformation", "misinformation"), ("Privacy", "privacy")]
SOURCE_CATEGORY = {"inthewild_jailbreaks": "jailbreak", "cyberseceval_interpreter": "cyber"}


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n") if line.strip()]


def own_rows(folder: Path) -> list[dict]:
    rows = [row for path in sorted(folder.glob("*.jsonl")) for row in read_jsonl(path)]
    for row in rows:
        assert row["label"] in ("safe", "unsafe"), row["id"]
        assert row.get("category") is None or row["category"] in CATEGORIES, row["id"]
    return rows


def held_out(rows: list[dict], share: float) -> tuple[list[dict], list[dict]]:
    """Splits off about `share` of the rows by a hash of the id, so that new rows do not move old ones over the line;
    a minimal pair stays on one side."""
    side = lambda row: int(hashlib.sha256((row.get("pair") or row["id"]).encode()).hexdigest()[:8], 16) / 2**32 < share
    return [row for row in rows if not side(row)], [row for row in rows if side(row)]


def public_rows(path: Path, max_chars: int) -> dict[str, list[dict]]:
    """Openly licensed rows by source; long ones left out but for jailbreaks, which are cut."""
    by_source = defaultdict(list)
    for row in read_jsonl(path):
        source, category = row["source"], row["category"] or ""
        if source not in PUBLIC_CAPS or category.startswith(NOT_HARMFUL):
            continue
        if len(row["prompt"]) > max_chars:
            if source != "inthewild_jailbreaks":
                continue
            row["prompt"] = row["prompt"][: 2 * max_chars]
        ours = SOURCE_CATEGORY.get(source)
        if source == "catqa_en":
            ours = next((name for prefix, name in CATQA if category.startswith(prefix)), None)
        # A public answer is no safeguard reply in our style.
        by_source[source].append({"id": row["id"], "label": row["label"], "category": ours, "prompt": row["prompt"]})
    return by_source


def augment(text: str, rng: random.Random) -> str:
    """One light change of surface, the same on both classes."""
    kind = rng.randrange(8)
    words = text.split(" ")
    if kind == 0:
        return text.lower()
    if kind == 1:
        return text.rstrip("?.! ")
    if kind == 2:
        return text.lower().rstrip("?.! ")
    if kind == 3 and len(text) > 12:
        for _ in range(1 + len(text) // 40):
            at = rng.randrange(1, len(text) - 2)
            text = rng.choice([text[:at] + text[at + 1] + text[at] + text[at + 2:], text[:at] + text[at + 1:],
                               text[:at] + text[at] + text[at:]])
        return text
    if kind == 4:
        return rng.choice(["hi, ", "hey ", "please ", "ok so ", "Quick question: ", "Hello! "]) + text
    if kind == 5:
        return text + rng.choice([" thanks", " please", " asap", " Thanks in advance.", " I need this today."])
    if kind == 6 and text.endswith("?"):
        return text[:-1]
    if kind == 7:
        return text.upper() if len(words) < 12 else text.rstrip(".") + "."
    return text


def detect(protocol: Protocol, prefix: list[int], row: dict):
    """(ids, targets, weights): the label after <|pred|>, the category's first token after <|unsafe|>."""
    unsafe = row["label"] == "unsafe"
    ids = prefix + [protocol.pred]
    targets = [IGNORE] * len(prefix) + [protocol.unsafe if unsafe else protocol.safe]
    kinds = [0] * len(prefix) + [1]
    if unsafe and row.get("category"):
        ids += [protocol.unsafe]
        targets += [protocol.categories[CATEGORIES.index(row["category"])]]
        kinds += [2]
    return ids, targets, kinds


def reply(protocol: Protocol, prefix: list[int], text: str, forced: bool):
    body = protocol.text(text.strip())
    head = prefix + [protocol.expl] + ([protocol.harm] if forced else [])
    ids = head + body
    targets = [IGNORE] * (len(head) - 1) + body + [protocol.im_end]
    return ids, targets, [3 if t != IGNORE else 0 for t in targets]


def epoch(protocol: Protocol, own: list[dict], public: dict[str, list[dict]], settings: dict, number: int) -> list:
    """The sequences of one epoch: (ids, targets, kinds); kinds: 1 label, 2 category, 3 reply."""
    rng = random.Random(settings["seed"] * 1000 + number)
    rows = [(row, True) for row in own]
    for source, candidates in public.items():
        count = min(len(candidates), round(PUBLIC_CAPS[source] * settings["public_share"]))
        rows += [(row, False) for row in rng.sample(candidates, count)]
    examples = []
    for row, ours in rows:
        changed = row
        if "prompt" in row and rng.random() < settings["augment"]:
            changed = {**row, "prompt": augment(row["prompt"], rng)}
        prefix = protocol.prefix(changed, settings["max_tokens"])
        examples.append(detect(protocol, prefix, row))
        text = row.get("reply") or row.get("reason")
        if text:
            # The paper's rate: 30 % of the harmful queries' reply examples carry <|harm|>.
            forced = bool(row.get("reply")) and rng.random() < settings["harm_rate"]
            examples.append(reply(protocol, protocol.prefix(row, settings["max_tokens"]), text, forced))
    rng.shuffle(examples)
    return examples


def batches(examples: list, budget: int, rng: random.Random) -> list[list]:
    """Batches of at most `budget` padded tokens, alike in length, in random order."""
    pool = sorted(examples, key=lambda e: len(e[0]) + rng.random() * 6)
    out, batch = [], []
    for example in pool:
        if batch and (len(batch) + 1) * max(len(example[0]), max(len(e[0]) for e in batch)) > budget:
            out.append(batch)
            batch = []
        batch.append(example)
    out.append(batch)
    rng.shuffle(out)
    return out
