"""Seeded requests on a CPU engine whose prompt takes several steps. PURE but for the runner it changes.

vLLM samples at the end of every part of a prompt and discards what comes before the last part. It then moves the
request's random numbers back, by a call that only devices' generators have: on a CPU the engine would fail.
"""

from typing import Any

import numpy as np


def keep_noise(runner: Any) -> None:
    """Have `runner`, a model runner on a CPU, draw discarded tokens with other random numbers than the request's.

    So a seed gives the same completion however its prompt is cut. Depends on vLLM 0.32's GPUModelRunner;
    tests/local/test_generator.py fails when a new version changes it.
    """
    sample, keep_books = runner._sample, runner._bookkeeping_sync  # noqa: SLF001 # there is no public hook
    held: dict[int, Any] = {}

    def sample_without(*args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        discarded = np.nonzero(runner.discard_request_mask.np[: batch.num_reqs])[0].tolist()
        held.update({place: batch.generators.pop(place) for place in discarded if place in batch.generators})
        return sample(*args, **kwargs)

    def keep_books_with(*args: Any, **kwargs: Any) -> Any:
        try:
            return keep_books(*args, **kwargs)
        finally:
            runner.input_batch.generators.update(held)
            held.clear()

    runner._sample, runner._bookkeeping_sync = sample_without, keep_books_with  # noqa: SLF001 # the same
