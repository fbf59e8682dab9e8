"""Exports the fine-tuned model to the layout that transformers.js loads: its weights in 4 bits, in blocks of 32, and in 8 bits by rows.

    python bench/export_onnx.py --model MODEL_DIR --out OUT

Needs onnxruntime-genai 0.18, onnxruntime, onnx, onnx-ir, torch and transformers; onnxruntime-genai makes the graph.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

OPTIONS = {
    # A GPU without shader-f16 runs it, and so does the CPU: one file for both devices.
    "use_webgpu_fp32": "true",
    "block_size": "32",
    "accuracy_level": "4",  # activations in 8 bits where there are kernels for it
    # onnxruntime-web has no 4-bit gather for the CPU: the embedding stays f32, the head has its own 4 bits.
    "shared_embeddings": "false",
    # Logits of the last position alone, all that a screening or a decoding step reads.
    "prune_lm_head": "true",
}


def build(model: Path, precision: str, provider: str) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", precision, "-e", provider]
        options = [f"{key}={value}" for key, value in OPTIONS.items()]
        # It logs every matrix, which matters only if it fails.
        built = subprocess.run([*command, "-i", model, "-o", folder, "--extra_options", *options], capture_output=True, text=True)
        if built.returncode:
            sys.exit(built.stdout + built.stderr)
        graph = onnx.load(Path(folder) / "model.onnx")
    config = json.loads((model / "config.json").read_text())
    for value in [*graph.graph.input, *graph.graph.output]:
        # The builder gives the heads' size a name; transformers.js makes its empty cache with zero for any name.
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == "kv_cache_dim":
                dimension.dim_value = config["head_dim"]
    return graph


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder: safetensors and tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    onnx_folder = arguments.out / "onnx"
    onnx_folder.mkdir(parents=True, exist_ok=True)
    # One file each: transformers.js asks for no external data unless its configuration says so.
    onnx.save(build(arguments.model, "int4", "webgpu"), onnx_folder / "model_q4.onnx")
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.onnx"
        onnx.save(build(arguments.model, "fp32", "cpu"), exact)
        # What transformers.js calls q8: matrices in 8 bits, activations rounded as they come; the embedding stays f32.
        quantize_dynamic(exact, onnx_folder / "model_quantized.onnx", per_channel=True, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copyfile(arguments.model / name, arguments.out / name)
    for name in ["config.json", "generation_config.json"]:
        # Training switched the cache off.
        settings = {**json.loads((arguments.model / name).read_text()), "use_cache": True}
        (arguments.out / name).write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
