"""Bytes and seconds of a packed batch on its way to a rank: `bench/runtime/bench_pack.py [--completions N]`. I/O."""

import argparse
import pickle
import time

import numpy as np

from scalerl_runtime.algorithm.microbatch import MicroBatch, TrainSequence, build_micro_batch


def build(rng: np.random.Generator, length: int) -> MicroBatch:
    """Return a row of one sequence, all of whose tokens but an eighth, the prompt, are trained."""
    trained = np.arange(length) >= length // 8
    tokens, lag = rng.integers(0, 150_000, length).astype(np.int32), np.zeros(length, np.int32)
    return build_micro_batch([TrainSequence(tokens, trained, -rng.random(length).astype(np.float32), 0.5, 1e-6, lag)])


def main() -> None:
    """Print the sizes of the arrays and of the pickled batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--completions", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=8300)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = [build(rng, options.tokens) for _ in range(options.completions)]
    arrays = sum(value.nbytes for row in rows for value in vars(row).values() if value is not None)
    began = time.process_time()
    sent = pickle.dumps(rows, protocol=5)
    packed = time.process_time()
    pickle.loads(sent)  # noqa: S301 # made two lines above
    unpacked = time.process_time()
    tokens = options.completions * options.tokens
    print(f"{tokens:,} tokens: arrays {arrays / 2**20:.0f} MiB, {arrays / tokens:.1f} bytes a token")
    print(f"sent: {len(sent) / 2**20:.0f} MiB, {len(sent) / tokens:.1f} bytes a token")
    print(f"CPU seconds: packing {packed - began:.2f}, unpacking {unpacked - packed:.2f}")


if __name__ == "__main__":
    main()
