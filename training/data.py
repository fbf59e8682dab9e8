"""Training rows, our own (training/data/*.jsonl) and openly licensed public ones, as packed supervised sequences.

A row becomes one sequence, a prefix with up to three branches that do not see each other:

    prefix                        <|im_start|>user ... assistant\\n       branch 0, positions 0 .. p-1
    detection                     <|pred|> [<|unsafe|>]                   branch 1, positions p ..
    reply or reason, if any       <|expl|> [<|harm|>] text                branch 2, positions p ..
    forced reply to a safe query  <|expl|> <|harm|> text                  branch 3, positions p ..

so that the prefix is computed once. Sequences are packed side by side into the rows of a step; a block mask keeps
them apart, which check.py proves equal to computing each alone. With `task_first` the task token opens the sequence; the
prefix depends on it then, and each task has a branch of its own from position 0.
"""

import hashlib
import json
import math
import random
import urllib.parse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from protocol import CATEGORIES, Protocol, messages_of

IGNORE = -100
# What a supervised token is: the verdict, the category's first token, a reply's token.
LABEL, CATEGORY, REPLY = KINDS = range(1, 4)
KIND_NAMES = {LABEL: "label", CATEGORY: "category", REPLY: "reply"}

# CatQA counts these as harmful; our protocol does not (campaigning, ordinary professional advice).
NOT_HARMFUL = ("Political Campaigning / Election advertising", "Political Campaigning / Lobbying",
               "Political Campaigning / Partisan commentary", "Political Campaigning / Political activism",
               "Tailored Financial Advice", "Adult Content / Adult-themed humor",
               "Economic Harm / Intellectual property theft")
# A source's own category, by prefix, to ours, where the two clearly agree; first match wins.
PUBLIC_CATEGORIES = {
    "catqa_en": [
        ("Adult Content", "sexual"), ("Child Abuse", "minors"), ("Economic Harm", "crime"), ("Fraud/Deception", "crime"),
        ("Hate/Harass/Violence / Gender", "violence"), ("Hate/Harass/Violence / Terrorism", "violence"),
        ("Hate/Harass/Violence", "hate"), ("Illegal Activity / Cybercrime", "cyber"), ("Illegal Activity / Weapon", "weapons"),
        ("Illegal Activity", "crime"), ("Malware", "cyber"), ("Physical Harm / Self-harm", "suicide"),
        ("Physical Harm / Weapon", "weapons"), ("Physical Harm / Assault", "violence"),
        ("Political Campaigning / Political misinformation", "misinformation"), ("Privacy", "privacy")],
    "pyrit_airt": [("scams", "crime"), ("violence", "violence"), ("hate", "hate"), ("cyber_harms", "cyber")],
    "inthewild_jailbreaks": [("", "jailbreak")],
    "cyberseceval_interpreter": [("", "cyber")],
}
GREETINGS = ["hi, ", "hey ", "please ", "ok so ", "Hello! ", "Quick question: "]
COURTESIES = ["I hope your week is going well.", "I really appreciate your help with this.", "Take your time, there is no hurry.",
              "My grandmother has taken up the cello again, at eighty-one.", "The bus was full this morning, so I walked.",
              "Let me know if anything is unclear.", "I'm writing this from the train, sorry for the short message.", "You have been a great help so far.",
              "Looking forward to hearing from you.", "My cat is asleep on the keyboard as I write.", "By the way, the photos from Sunday came out lovely.",
              "This has been on my mind since lunch.", "I read your last answer twice and liked it.", "A short answer is fine with me."]
LEET = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"}
# Letters of other scripts that look like ours.
LOOK_ALIKES = str.maketrans("aceiopsxyABCEHIKMOPTX", "асеіорѕхуАВСЕНІКМОРТХ")
CLOSINGS = [" thanks", " please", " Thanks!", " Thank you in advance.", " asap"]


# Rows

def read_jsonl(path: Path) -> list[dict]:
    # split("\n"), not splitlines(): prompts may hold U+2028 and its like.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def sample(rows: list[dict], count: int, seed: int = 1) -> list[dict]:
    """At most `count` rows of each source and label, drawn by `seed`, in the order they came."""
    groups = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.get("source"), row["label"]].append(index)
    rng = random.Random(seed)
    return [rows[i] for i in sorted(i for group in groups.values() for i in rng.sample(group, min(len(group), count)))]


def own_rows(folder: Path) -> list[dict]:
    rows = [row for path in sorted(folder.glob("*.jsonl")) for row in read_jsonl(path)]
    for row in rows:
        if row["label"] not in ("safe", "unsafe") or row.get("category") not in (None, *CATEGORIES):
            raise ValueError(f"{row['id']}: unknown label or category")
    # A harmless query that is forced gets the reply to its harmful twin: nothing else is as near to it.
    replies = {row["id"]: row["reply"] for row in rows if "reply" in row}
    return [{**row, "forced": replies[row["pair"]]} if row["label"] == "safe" and row.get("pair") in replies else row for row in rows]


def held_out(rows: list[dict], settings: dict) -> tuple[list[dict], list[dict]]:
    """(training, development): about `held_out` of the rows by a hash of the id, so that new rows move no old one over
    the line; a minimal pair stays on one side. Of the rest, `own_share` trains, a smaller share's rows being among a
    larger one's."""
    kept, apart = [], []
    for row in rows:
        key = row.get("pair") or row["id"]
        # The same rows for every seed, so that runs can be compared, and averaged.
        if chance(1, "held out", key) < settings["held_out"]:
            apart.append(row)
        elif chance(1, "own share", key) < settings["own_share"]:
            kept.append(row)
    return kept, apart


def chance(*key) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16) / 2**32


def public_rows(path: Path, protocol: Protocol, settings: dict) -> list[dict]:
    """Openly licensed rows, up to the cap of each source; sources without a cap are left out. Long rows are left out
    to save time, except jailbreaks, which are cut when encoded."""
    by_source = defaultdict(list)
    for row in read_jsonl(path):
        source, category = row["source"], row["category"] or ""
        if source not in settings["public"] or source == "catqa_en" and category.startswith(NOT_HARMFUL):
            continue
        # Four characters make a token or so: spares the tokenizer the very long ones.
        if source != "inthewild_jailbreaks" and (len(row["prompt"]) > 8 * settings["public_tokens"]
                                                 or len(protocol.text(row["prompt"])) > settings["public_tokens"]):
            continue
        ours = next((name for prefix, name in PUBLIC_CATEGORIES.get(source, ()) if category.startswith(prefix)), None)
        # `response` is not in our replies' style and is left aside.
        by_source[source].append({"id": row["id"], "source": source, "label": row["label"], "category": ours,
                                  "prompt": row["prompt"]})
    rng = random.Random(settings["seed"])
    return [row for source, rows in sorted(by_source.items())
            for row in rng.sample(rows, min(len(rows), settings["public"][source]))]


def epoch_rows(own: list[dict], public: list[dict], settings: dict, number: int) -> list[dict]:
    """All our own rows, and at most `public_per_own` times as many public ones (all of them where there are none of
    ours), drawn in turn from epoch to epoch so that `unsafe_share` of the whole is unsafe. Reply training alone has no
    use for rows without a text to write."""
    if settings["tasks"] == "reply":
        own, public = [row for row in own if text_of(row)], []
    pools = {label: [row for row in public if row["label"] == label] for label in ("safe", "unsafe")}
    room = min(len(public), round(len(own) * settings["public_per_own"])) if own else len(public)
    wanted = round(settings["unsafe_share"] * (len(own) + room)) - sum(row["label"] == "unsafe" for row in own)
    unsafe = max(0, min(wanted, room, len(pools["unsafe"])))
    # Too few unsafe rows in the pool must not tilt the balance: the safe ones give way.
    total = (sum(row["label"] == "unsafe" for row in own) + unsafe) / settings["unsafe_share"]
    safe = max(0, min(round(total) - len(own) - unsafe, room - unsafe, len(pools["safe"])))
    rows = list(own)
    for label, count in (("safe", safe), ("unsafe", unsafe)):
        pool = pools[label]
        random.Random(settings["seed"]).shuffle(pool)
        rows += [pool[(number * count + i) % len(pool)] for i in range(count)]
    return rows


# Surface

# Characters; a padded query stays within what is read of it.
PADDED_UP_TO = 500


def typos(text: str, rng: random.Random) -> str:
    """Swaps, drops or doubles a letter, one for each 40 characters or so."""
    for _ in range(1 + len(text) // 40):
        at = rng.randrange(len(text) - 1)
        text = text[:at] + rng.choice([text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1]]) + text[at + 2:]
    return text


def leetspeak(text: str, rng: random.Random) -> str:
    share = rng.choice([0.3, 0.6, 1])
    return "".join(LEET[c] if c in LEET and rng.random() < share else c for c in text)


def spread(text: str, rng: random.Random) -> str:
    """One long word's letters apart."""
    words = text.split(" ")
    at = max(range(len(words)), key=lambda i: (len(words[i]), rng.random()))
    return " ".join([*words[:at], rng.choice(" .-").join(words[at]), *words[at + 1:]])


def look_alikes(text: str, rng: random.Random) -> str:
    share = rng.choice([0.15, 0.5, 1])
    return "".join(c.translate(LOOK_ALIKES) if rng.random() < share else c for c in text)


def augment(text: str, rng: random.Random) -> str:
    """One light change of surface, alike on both classes; some leave the text as it is."""
    return rng.choice([
        lambda: text.lower(),
        lambda: text.rstrip("?.! "),
        lambda: text.lower().rstrip("?.! "),
        lambda: typos(text, rng) if len(text) > 12 else text,
        lambda: rng.choice(GREETINGS) + text,
        lambda: text + rng.choice(CLOSINGS),
        lambda: text[:-1] if text.endswith("?") else text.rstrip(". ") + "?",
        lambda: text.upper() if len(text) < 120 else text,
        lambda: leetspeak(text, rng),
        lambda: spread(text, rng),
        lambda: look_alikes(text, rng),
        # Triples the tokens.
        lambda: urllib.parse.quote(text) if len(text) < 120 else text,
    ])() or text


def padded(text: str, fillers: list[str], rng: random.Random) -> str:
    """One to three harmless texts before it, after it or both."""
    parts = rng.sample(fillers, rng.randint(1, 3))
    parts.insert(rng.choice([0, len(parts), rng.randint(0, len(parts))]), text)
    return rng.choice([" ", " ", "\n", "\n\n"]).join(parts)


# Sequences

@dataclass
class Example:
    """One row's sequence; all lists have its length. A token's `weight` already holds its kind's weight and, for a
    reply, 1 / its length, so that a long reply counts as much as a short one."""
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def extend(self, branch: int, start: int, ids: list[int], targets: list[int], kinds: list[int], weights: list[float]):
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.branches += [branch] * len(ids)
        self.targets += targets
        self.kinds += kinds
        self.weights += weights

    def answer(self, branch: int, start: int, given: list[int], answer: list[int], kinds: list[int], weights: list[float]):
        """`given`, whose last token is asked for the answer's first, and so on."""
        silent = len(given) - 1
        self.extend(branch, start, given + answer[:-1], [IGNORE] * silent + answer, [0] * silent + kinds, [0.0] * silent + weights)

    def __len__(self) -> int:
        return len(self.ids)


def drawn(rate: float, rng: random.Random | None, *key) -> bool:
    """True at the given rate: anew each epoch by `rng`, without it by the key alone."""
    return (rng.random() if rng else chance(*key)) < rate


def text_of(row: dict) -> str | None:
    """What `<|expl|>` asks for: a safeguard reply, or why the query is fine."""
    return row.get("reply") if row["label"] == "unsafe" else row.get("reason")


def example(protocol: Protocol, row: dict, settings: dict, rng: random.Random | None = None, fillers: list[str] = ()) -> Example:
    """The row's sequence; with `rng`, its query may change in surface and stand among `fillers`."""
    if rng:
        *earlier, last = messages_of(row)
        text = last["content"]
        if rng.random() < settings["augment"]:
            text = augment(text, rng)
        if rng.random() < settings["pad"] and len(text) < PADDED_UP_TO:
            text = padded(text, fillers, rng)
        row = {**row, "messages": [*earlier, {**last, "content": text}]}
    built = Example()
    prefix = protocol.prefix(row, settings["max_query_tokens"])
    if settings["task_first"]:
        start, shared = 0, prefix
    else:
        start, shared = len(prefix), []
        built.extend(0, 0, prefix, [IGNORE] * start, [0] * start, [0.0] * start)

    if row["label"] == "safe":
        answer, kinds = [protocol.safe], [LABEL]
    elif row.get("category"):
        # The program reads the category off its name's first token and never writes the name out.
        answer, kinds = [protocol.unsafe, protocol.names[row["category"]][0]], [LABEL, CATEGORY]
    else:
        answer, kinds = [protocol.unsafe], [LABEL]
    weights = [settings["weight_" + KIND_NAMES[kind]] for kind in kinds]
    if settings["tasks"] != "reply":
        built.answer(1, start, [protocol.pred, *shared], answer, kinds, weights)

    text = text_of(row)
    if text and settings["tasks"] != "detect":
        answer = [*protocol.text(text.strip()), protocol.im_end]
        count = len(answer)
        forced = "reply" in row and drawn(settings["harm_rate"], rng, settings["seed"], "harm", row["id"])
        built.answer(2, start, [protocol.expl, *shared] + [protocol.harm] * forced, answer, [REPLY] * count,
                     [settings["weight_reply"] / count] * count)
    if "forced" in row and settings["tasks"] != "detect" and drawn(settings["harm_safe"], rng, settings["seed"], "forced", row["id"]):
        answer = [*protocol.text(row["forced"].strip()), protocol.im_end]
        count = len(answer)
        built.answer(3, start, [protocol.expl, *shared, protocol.harm], answer, [REPLY] * count, [settings["weight_reply"] / count] * count)
    return built


def epoch(protocol: Protocol, own: list[dict], public: list[dict], settings: dict, number: int) -> list[list[Example]]:
    """The steps of one epoch, each of about `step_tokens` tokens. Drawn from (seed, number) alone."""
    rng = random.Random(settings["seed"] * 1000 + number)
    rows = epoch_rows(own, public, settings, number)
    rng.shuffle(rows)
    fillers = COURTESIES + [row["prompt"] for row in own if row["label"] == "safe" and not row.get("near") and not row.get("pair")
                            and 4 <= len(row.get("prompt", "").split()) <= 30]
    steps, tokens = [[]], 0
    for row in rows:
        built = example(protocol, row, settings, rng, fillers)
        if steps[-1] and tokens + len(built) > settings["step_tokens"]:
            steps.append([])
            tokens = 0
        steps[-1].append(built)
        tokens += len(built)
    return steps


def pack(examples: list[Example], row_tokens: int) -> dict[str, torch.Tensor]:
    """A step's examples in rows of about `row_tokens`, on the CPU: `ids`, `positions`, `branches` and `owner` (which example)
    [rows, width], and for each kind of target `at` (its place in the flattened rows), `target` and `weight`. Attention
    costs width^2, hence several rows."""
    total = sum(map(len, examples))
    bins = [[] for _ in range(max(1, round(total / row_tokens)))]
    fill = [0] * len(bins)
    for item in sorted(examples, key=len, reverse=True):
        emptiest = fill.index(min(fill))
        bins[emptiest].append(item)
        fill[emptiest] += len(item)
    # Attention kernels for GPUs want a multiple.
    width = -(-max(fill) // 16) * 16
    column = lambda name: torch.tensor([[value for item in row for value in getattr(item, name)] + [0] * (width - used)
                                        for row, used in zip(bins, fill)])
    batch = {name: column(name) for name in ("ids", "positions", "branches")}
    batch["owner"] = torch.tensor([[n for n, item in enumerate(row) for _ in range(len(item))] + [-1] * (width - used)
                                   for row, used in zip(bins, fill)])
    found = {kind: [] for kind in KINDS}
    for number, row in enumerate(bins):
        at = number * width
        for item in row:
            for target, kind, weight in zip(item.targets, item.kinds, item.weights):
                if kind:
                    found[kind].append((at, target, weight))
                at += 1
    for kind, rows in found.items():
        at, target, weight = zip(*rows) if rows else ((), (), ())
        name = KIND_NAMES[kind]
        batch |= {name + "_at": torch.tensor(at, dtype=torch.long), name + "_target": torch.tensor(target, dtype=torch.long),
                  name + "_weight": torch.tensor(weight, dtype=torch.float)}
    return batch


def place(batch: dict[str, torch.Tensor], device) -> dict[str, torch.Tensor]:
    """A packed step on the device, with its attention `mask` [rows, 1, width, width]."""
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    owner, branch = batch.pop("owner"), batch.pop("branches")
    same = owner[:, :, None] == owner[:, None, :]
    # A token sees what comes before it in its own example: the prefix and its own branch.
    visible = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    width = owner.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    return batch | {"mask": (same & visible & causal)[:, None]}


class Steps(torch.utils.data.IterableDataset):
    """A run's steps from (epoch, index) on: ({epoch, index, steps, own, held_out, examples, tokens}, packed step). Our rows are read
    afresh each epoch, so that rows that were added meanwhile join."""

    def __init__(self, folder: Path, public: list[dict], protocol: Protocol, settings: dict, epoch: int, index: int):
        self.folder, self.public, self.protocol, self.settings = folder, public, protocol, settings
        self.epoch, self.index = epoch, index

    def __iter__(self) -> Iterator[tuple[dict, dict]]:
        own, skip = None, self.index
        for number in range(self.epoch, math.ceil(self.settings["epochs"])):
            try:
                own, apart = held_out(own_rows(self.folder), self.settings)
            except (ValueError, KeyError) as error:
                # A file that is just being written must not end a long run: the rows read before serve once more.
                if own is None:
                    raise
                print(f"own rows not re-read: {error}", flush=True)
            plan = epoch(self.protocol, own, self.public, self.settings, number)
            for index, examples in enumerate(plan):
                if index >= skip:
                    facts = {"epoch": number, "index": index, "steps": len(plan), "own": len(own), "held_out": len(apart),
                             "examples": len(examples), "tokens": sum(map(len, examples))}
                    yield facts, pack(examples, self.settings["row_tokens"])
            skip = 0
