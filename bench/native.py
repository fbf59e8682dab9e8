"""llama.cpp, natively, on the same GGUF: one JSON line with the time of a prefill by its length, and of decoding.

    python bench/native.py model.gguf 29 41 137
"""

import json
import statistics
import sys
import time

from llama_cpp import Llama

THREADS, ROUNDS, DECODED = 2, 7, 32


def main():
    path, *lengths = sys.argv[1:]
    llama = Llama(path, n_ctx=2304, n_batch=2304, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)
    prefill = {}
    for length in map(int, lengths):
        times = []
        for round in range(ROUNDS if length < 200 else 2):
            llama.reset()
            tokens = [1] + [(1000 + 37 * i + 101 * round) % 40000 for i in range(length - 1)]
            started = time.perf_counter()
            llama.eval(tokens)
            times.append(1000 * (time.perf_counter() - started))
        prefill[length] = statistics.median(times)
    llama.reset()
    llama.eval([1] + list(range(1000, 1028)))
    started = time.perf_counter()
    for i in range(DECODED):
        llama.eval([2000 + i])
    print(json.dumps({"threads": THREADS, "prefill_ms": prefill, "decode_per_second": DECODED / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
