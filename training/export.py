"""Exports a tuned model to GGUF: Llama tensors in ggml's order, the guardian's settings, known answers, shards.

    python training/export.py --weights out/run1/model.safetensors --out model --type q4_1 --calibration out/calibration.json
"""

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from protocol import CATEGORIES, GGUF_NAME, RENAMED, Protocol, base_dir

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
SELF_TEST = ["How do I bake a cake?", "Tell me how to poison my neighbour's food.", "kill the python process"]
# Of the weights: raised with every set of them that is shipped.
VERSION = "4"
TYPES = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16, "q4_0": gguf.GGMLQuantizationType.Q4_0,
         "q4_1": gguf.GGMLQuantizationType.Q4_1, "q5_0": gguf.GGMLQuantizationType.Q5_0, "q8_0": gguf.GGMLQuantizationType.Q8_0}


def ggml_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, *middle, _ = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(middle)]}.weight"


def permute(weight: np.ndarray, heads: int, back: bool = False) -> np.ndarray:
    """transformers rotates halves of a head, GGUF's Llama interleaved pairs: [heads, 2, d/2] <-> [heads, d/2, 2] rows."""
    rows, cols = weight.shape
    half = rows // heads // 2
    shape = (heads, half, 2, cols) if back else (heads, 2, half, cols)
    return np.ascontiguousarray(weight.reshape(shape).swapaxes(1, 2)).reshape(rows, cols)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of shards and manifest.json")
    parser.add_argument("--type", choices=TYPES, default="q8_0", help="format of the layers' matrices")
    parser.add_argument("--embed-type", choices=TYPES, default="q8_0", help="format of the embedding, which is the LM head too")
    parser.add_argument("--calibration", type=Path, help="JSON {temperature, bias, permissive, balanced, strict}; 1, 0 and 0.5 without")
    parser.add_argument("--shard-mib", type=int, default=44)
    args = parser.parse_args()
    settings = {"temperature": 1.0, "bias": 0.0, "permissive": 0.5, "balanced": 0.5, "strict": 0.5}
    if args.calibration:
        settings |= json.loads(args.calibration.read_text())

    protocol = Protocol()
    model = AutoModelForCausalLM.from_pretrained(base_dir(), gguf_file=GGUF_NAME, dtype=torch.float32)
    state = load_file(args.weights)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads

    # Quantise, and put what is left of each tensor back into the model: the known answers are those of the file.
    tensors = {}
    for name, tensor in state.items():
        if name == "lm_head.weight":
            continue
        values = tensor.float().numpy()
        count = heads if "q_proj" in name else kv_heads if "k_proj" in name else None
        if count:
            values = permute(values, count)
        kind = TYPES["f32"] if values.ndim == 1 else TYPES[args.embed_type if "embed" in name else args.type]
        packed = quantize(values, kind)
        tensors[ggml_name(name)] = (packed, kind)
        back = dequantize(packed, kind)
        state[name] = torch.from_numpy(np.array(permute(back, count, back=True) if count else back, dtype=np.float32))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    model.eval()
    margins = []
    with torch.no_grad():
        for prompt in SELF_TEST:
            ids = protocol.prefix({"prompt": prompt}) + [protocol.pred]
            logits = model(torch.tensor([ids])).logits[0, -1]
            margins.append(float(logits[protocol.unsafe] - logits[protocol.safe]))
    print("known answers:", dict(zip(SELF_TEST, margins)))

    base = gguf.GGUFReader(base_dir() / GGUF_NAME)
    args.out.mkdir(parents=True, exist_ok=True)
    whole = args.out / "whole.gguf"
    writer = gguf.GGUFWriter(whole, "llama")
    for key, field in base.fields.items():
        if key.startswith("llama.") or key.startswith("tokenizer."):
            kind, *rest = field.types
            value = field.contents()
            if key == "tokenizer.ggml.tokens":
                value = [RENAMED.get(token, token) for token in value]
            if key != "tokenizer.chat_template":
                writer.add_key_value(key, value, kind, rest[0] if rest else None)
    writer.add_name("slm-guardian-135m")
    writer.add_license("apache-2.0")
    writer.add_string("guardian.version", VERSION)
    writer.add_float32("guardian.temperature", settings["temperature"])
    writer.add_float32("guardian.bias", settings["bias"])
    for preset in ("permissive", "balanced", "strict"):
        writer.add_float32(f"guardian.threshold.{preset}", settings[preset])
    writer.add_array("guardian.categories", CATEGORIES)
    writer.add_array("guardian.selftest.prompts", SELF_TEST)
    writer.add_array("guardian.selftest.margins", margins)
    for name, (packed, kind) in tensors.items():
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    data = whole.read_bytes()
    whole.unlink()
    for old in args.out.glob("slm-guardian-*.bin"):
        old.unlink()
    size = args.shard_mib << 20
    shards = []
    count = -(-len(data) // size)
    for index in range(count):
        part = data[index * size:(index + 1) * size]
        file = f"slm-guardian-135m-{args.type}-{index + 1:05d}-of-{count:05d}.bin"
        (args.out / file).write_bytes(part)
        shards.append({"file": file, "bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()})
    manifest = {"name": "slm-guardian-135m", "version": VERSION, "format": "gguf", "license": "Apache-2.0", "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(), "shards": shards}
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"{len(data)} bytes in {count} shards")


if __name__ == "__main__":
    main()
