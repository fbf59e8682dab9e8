"""Safety tuning of SmolLM2-135M-Instruct: verdict, category, safeguard reply and reason jointly, on CPU or CUDA.

    python training/train.py --out out/run1 --max-minutes 60
    python training/train.py --out out/run1 --max-minutes 60 --resume
    python training/train.py --out out/try --max-minutes 5 --set lr=2e-4 --set freeze_layers=8
"""

import argparse
import json
import math
import re
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import data
from data import CATEGORY, KIND_NAMES, LABEL, REPLY
from protocol import CATEGORIES, GGUF_NAME, RENAMED, Protocol, base_dir
from score import q5_0, score

HERE = Path(__file__).parent
# Each renamed token starts as the mean of these words' rows: the base never trained its own.
ALIKE = {"<|pred|>": " classify", "<|expl|>": " explain", "<|safe|>": " safe", "<|unsafe|>": " unsafe", "<|harm|>": " harmful"}
EMA_EVERY = 4


def layers_of(state: dict, kept: dict[int, int]) -> dict:
    """The state of a model with the layers in `kept` alone, under their new numbers."""
    thin = {}
    for name, value in state.items():
        found = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        if not found:
            thin[name] = value
        elif int(found[1]) in kept:
            thin[f"model.layers.{kept[int(found[1])]}.{found[2]}"] = value
    return thin


class Guardian:
    """The model and its LM head. Where the embedding is not trained, the five tokens' rows are, as the verdict reads them; with
    `input_rows` as the input reads them too, for which a gradient has to pass the frozen layers."""

    def __init__(self, protocol: Protocol, settings: dict, device, start: Path | None = None):
        base = AutoModelForCausalLM.from_pretrained(base_dir(), gguf_file=GGUF_NAME, dtype=torch.float32)
        config = base.config
        # Dequantised, but still marked as a GGUF, which transformers refuses to save.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.bos_token_id, config.eos_token_id, config.pad_token_id = protocol.im_start, protocol.im_end, protocol.im_end
        config.use_cache = False
        last = config.num_hidden_layers - 1
        # Which of the base's layers stay: all, or so many evenly spaced, the first and the last among them.
        kept = {round(i * last / (settings["layers"] - 1)): i for i in range(settings["layers"])}
        config.num_hidden_layers = len(kept)
        model = LlamaForCausalLM(config)
        model.load_state_dict(layers_of(base.state_dict(), kept))
        rows = model.get_input_embeddings().weight
        with torch.no_grad():
            for name, word in ALIKE.items():
                rows[protocol.control[list(RENAMED.values()).index(name)]] = rows[protocol.text(word)].mean(0)
        if start:
            state = load_file(start / "model/model.safetensors")
            model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]})
        self.model = model.to(device).train()
        self.input_rows = settings["input_rows"]
        self.control = torch.tensor(protocol.control, device=device)
        self.pair = torch.tensor([protocol.control.index(protocol.safe), protocol.control.index(protocol.unsafe)], device=device)
        self.unsafe = protocol.unsafe
        self.categories = torch.tensor(protocol.categories, device=device)
        self.rows = None
        if settings["freeze_layers"] and settings["train_embedding"]:
            raise SystemExit("train_embedding needs freeze_layers 0: the embedding lies below the frozen layers")
        if not settings["train_embedding"]:
            self.rows = torch.nn.Parameter(rows.data[self.control].clone())
            rows.requires_grad_(False)
            self.nth = torch.full((rows.shape[0],), -1, device=device)
            self.nth[self.control] = torch.arange(len(self.control), device=device)
        for layer in model.model.layers[:settings["freeze_layers"]]:
            layer.requires_grad_(False)
        if device.type == "cuda":
            # Layer by layer, so that one compilation serves them all: small kernels, not arithmetic, are what a step waits for.
            for layer in model.model.layers[settings["freeze_layers"]:]:
                layer.compile(dynamic=True)
        if settings["round_from"] < 1:
            # What is not trained is shipped rounded, so it is rounded from the start.
            for parameter in model.parameters():
                if not parameter.requires_grad and parameter.ndim > 1:
                    parameter.data = q5_0(parameter.data)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad] + ([] if self.rows is None else [self.rows])

    def decayed(self, parameter) -> bool:
        return parameter.ndim > 1 and parameter is not self.rows and parameter is not self.model.get_input_embeddings().weight

    def states(self, batch: dict) -> torch.Tensor:
        """[tokens, hidden size]: what the LM head reads."""
        embedded = self.model.get_input_embeddings()(batch["ids"])
        if self.rows is not None and self.input_rows:
            nth = self.nth[batch["ids"]]
            embedded = torch.where((nth >= 0)[..., None], self.rows[nth.clamp(0)], embedded)
        return self.model.model(inputs_embeds=embedded, position_ids=batch["positions"], attention_mask=batch["mask"])[0].flatten(0, 1)

    def control_rows(self) -> torch.Tensor:
        return self.model.get_input_embeddings().weight[self.control] if self.rows is None else self.rows

    @contextmanager
    def rounded(self, active: bool):
        """While it lasts, the trained matrices hold what Q5_0 makes of them: gradients are those at the shipped weights, steps
        are taken from the exact ones."""
        matrices = [p for p in self.parameters() if p.ndim > 1] if active else []
        exact = [p.data for p in matrices]
        for parameter in matrices:
            parameter.data = q5_0(parameter.data)
        self.tie()
        yield
        for parameter, values in zip(matrices, exact):
            parameter.data = values
        self.tie()

    def tie(self):
        """Puts the five trained rows where the model reads them."""
        if self.rows is not None:
            self.model.get_input_embeddings().weight.data[self.control] = self.rows.data


def losses(guardian: Guardian, batch: dict, examples: int, settings: dict):
    """The loss, a mean over examples, and per kind (sum of token losses, a tensor, and tokens). Verdict and category are softmaxes
    over the rows that the program reads, two and twelve; a reply's token is one over the vocabulary. Nothing here waits for the GPU."""
    with torch.autocast(guardian.model.device.type, dtype=torch.bfloat16, enabled=settings["bf16"]):
        states = guardian.states(batch)
        written = guardian.model.lm_head(states[batch["reply_at"]])
    head = guardian.model.get_input_embeddings().weight
    pair = states[batch["label_at"]].float() @ guardian.control_rows()[guardian.pair].T
    names = states[batch["category_at"]].float() @ head[guardian.categories].T
    token = {
        # torch spreads the smoothing over all classes, the right one too.
        LABEL: F.cross_entropy(pair, (batch["label_target"] == guardian.unsafe).long(), reduction="none",
                               label_smoothing=2 * settings["label_smoothing"]),
        CATEGORY: F.cross_entropy(names, (batch["category_target"][:, None] == guardian.categories).long().argmax(1), reduction="none"),
        REPLY: F.cross_entropy(written.float(), batch["reply_target"], reduction="none")}
    total = sum((loss * batch[KIND_NAMES[kind] + "_weight"]).sum() for kind, loss in token.items()) / examples
    return total, {kind: (loss.detach().sum(), loss.numel()) for kind, loss in token.items()}


def evaluate(model, rows: list[dict], protocol: Protocol, settings: dict) -> dict:
    """Verdicts at margin 0 on our held-out rows, and the share of harmful rows whose category is named right."""
    model.eval()
    # Every batch has a shape of its own here: not worth compiling for.
    torch.compiler.set_stance("force_eager")
    prefixes = [protocol.prefix(row, settings["max_query_tokens"]) for row in rows]
    margins, categories = score(model, prefixes, protocol, settings["bf16"], settings["task_first"])
    torch.compiler.set_stance("default")
    model.train()
    unsafe = torch.tensor([row["label"] == "unsafe" for row in rows])
    flagged = margins > 0
    tp, fp, fn = (int(x.sum()) for x in (flagged & unsafe, flagged & ~unsafe, ~flagged & unsafe))
    named = [(CATEGORIES[best] == row["category"]) for best, row in zip(categories.argmax(-1).tolist(), rows) if row.get("category")]
    ratio = lambda a, b: round(a / b, 4) if b else None
    return {"rows": len(rows), "unsafe": int(unsafe.sum()), "accuracy": ratio(int((flagged == unsafe).sum()), len(rows)),
            "f1": ratio(2 * tp, 2 * tp + fp + fn), "recall": ratio(tp, tp + fn), "fpr": ratio(fp, int((~unsafe).sum())),
            "category": ratio(sum(named), len(named)), "margin_safe": round(margins[~unsafe].mean().item(), 3),
            "margin_unsafe": round(margins[unsafe].mean().item(), 3)}


def save_atomically(value, path: Path):
    part = path.with_suffix(".part")
    torch.save(value, part)
    part.rename(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the log, the checkpoint and the model")
    parser.add_argument("--own", type=Path, default=HERE / "data", help="folder of our own rows (*.jsonl)")
    parser.add_argument("--public", type=Path, default=HERE.parent / "../shared/data/train.jsonl", help="openly licensed rows")
    parser.add_argument("--settings", type=Path, default=HERE / "settings.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting (JSON value)")
    parser.add_argument("--max-minutes", "--minutes", type=float, default=math.inf,
                        help="wall-clock budget; the learning rate reaches 0 at its end, or at the last epoch's")
    parser.add_argument("--save-minutes", type=float, default=10, help="between checkpoints")
    parser.add_argument("--eval-minutes", type=float, default=10, help="between evaluations on the held-out rows")
    parser.add_argument("--eval-rows", type=int, default=10**9, help="of the held-out rows, in an evaluation; drawn by their ids")
    parser.add_argument("--resume", action="store_true", help="go on from --out's checkpoint")
    parser.add_argument("--from", dest="start", type=Path, help="begin with the model that this run ended with (or soup.py wrote), not the base's")
    args = parser.parse_args()
    settings = json.loads(args.settings.read_text())
    for key, value in (item.split("=", 1) for item in args.set):
        if key not in settings:
            parser.error(f"--set: no setting {key!r}; there are {', '.join(settings)}")
        settings[key] = json.loads(value)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    log_path = args.out / "log.jsonl"
    if not args.resume and log_path.exists():
        parser.error(f"{args.out} holds a run already: --resume it, or choose another folder")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    protocol = Protocol()
    public = data.public_rows(args.public, protocol, settings)
    guardian = Guardian(protocol, settings, device, args.start)
    model, parameters = guardian.model, guardian.parameters()
    groups = [{"params": [p for p in parameters if guardian.decayed(p) == decay], "weight_decay": settings["weight_decay"] * decay}
              for decay in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"], betas=(0.9, 0.98), fused=True)
    average = [p.detach().clone() for p in parameters] if settings["ema"] else None
    # All randomness is drawn from (seed, epoch), so these few numbers are the generator's state too.
    state = {"step": 0, "epoch": 0, "index": 0, "tokens": 0, "seconds": 0.0}
    if args.resume:
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        with torch.no_grad():
            for parameter, value in zip(parameters, saved["parameters"], strict=True):
                parameter.copy_(value)
        guardian.tie()
        optimizer.load_state_dict(saved["optimizer"])
        average, state = saved["average"], saved["state"]

    log = log_path.open("a")

    def note(**entry):
        line = json.dumps({"step": state["step"], "seconds": round(state["seconds"], 1), **entry})
        print(line, flush=True)
        log.write(line + "\n")
        log.flush()

    dev = data.held_out(data.own_rows(args.own), settings)[1]
    dev = sorted(dev, key=lambda row: data.chance(1, "evaluation", row["id"]))[:args.eval_rows]

    def save():
        save_atomically({"parameters": [p.detach() for p in parameters], "optimizer": optimizer.state_dict(),
                         "average": average, "state": state}, checkpoint)

    note(settings=settings, device=device.type, public=dict(Counter(row["source"] for row in public)))
    began = time.monotonic() - state["seconds"]
    last_save = last_eval = time.monotonic()
    sums, since = Counter(), (time.monotonic(), state["tokens"])
    steps = data.Steps(args.own, public, protocol, settings, state["epoch"], state["index"])
    # A GPU takes steps faster than one process packs and feeds them.
    ahead = {"num_workers": 1, "prefetch_factor": 64, "pin_memory": True} if device.type == "cuda" else {}
    for facts, packed in torch.utils.data.DataLoader(steps, batch_size=None, **ahead):
        if facts["index"] == 0:
            note(**{key: facts[key] for key in ("epoch", "own", "held_out", "steps")})
        state |= {"epoch": facts["epoch"], "index": facts["index"]}
        # The schedule runs over whichever ends first, the epochs or the time.
        fraction = max((facts["epoch"] + facts["index"] / facts["steps"]) / settings["epochs"],
                       (time.monotonic() - began) / (60 * args.max_minutes))
        if fraction >= 1:
            break
        rate = settings["lr"] * min(1, fraction / settings["warmup"] + 0.02) * 0.5 * (1 + math.cos(math.pi * fraction))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = data.place(packed, device)
        with guardian.rounded(fraction >= settings["round_from"]):
            total, parts = losses(guardian, batch, facts["examples"], settings)
            total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        guardian.tie()
        state["step"] += 1
        state["index"] += 1
        state["tokens"] += facts["tokens"]
        state["seconds"] = time.monotonic() - began
        if average and state["step"] % EMA_EVERY == 0:
            # Young averages forget faster, or the untrained start would linger in them.
            decay = min(settings["ema"], state["step"] / (state["step"] + 10 * EMA_EVERY))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        # Tensors: to read them here would make each step wait for the GPU.
        sums.update({"loss": total.detach(), "norm": norm, "steps": 1, "padded": batch["ids"].numel()})
        for kind, (loss, count) in parts.items():
            sums.update({(kind, "loss"): loss, (kind, "count"): count})
        if state["step"] % 10 == 0:
            means = {name: round(float(sums[kind, "loss"]) / sums[kind, "count"], 4)
                     for kind, name in KIND_NAMES.items() if sums[kind, "count"]}
            now, tokens = time.monotonic(), state["tokens"]
            note(fraction=round(fraction, 4), lr=float(f"{rate:.3g}"), loss=round(float(sums["loss"]) / sums["steps"], 4), **means,
                 norm=round(float(sums["norm"]) / sums["steps"], 3), tokens=tokens,
                 padding=round(1 - (tokens - since[1]) / sums["padded"], 3),
                 tokens_per_second=round((tokens - since[1]) / (now - since[0]), 1))
            sums, since = Counter(), (time.monotonic(), tokens)
        if time.monotonic() - last_eval > 60 * args.eval_minutes:
            note(evaluation=evaluate(model, dev, protocol, settings))
            last_eval = time.monotonic()
        if time.monotonic() - last_save > 60 * args.save_minutes:
            save()
            last_save = time.monotonic()
    save()
    if average:
        note(before_averaging=evaluate(model, dev, protocol, settings))
        with torch.no_grad():
            torch._foreach_copy_(parameters, average)
        guardian.tie()
    note(final=evaluate(model, dev, protocol, settings))
    model.eval()
    model.save_pretrained(args.out / "model")
    protocol.tokenizer.save_pretrained(args.out / "model")


if __name__ == "__main__":
    main()
