"""Records which experts a CPU engine's routers choose for each token of a request. I/O.

vLLM returns them from its second model runner only, which CPUs do not have. As with the cache of keys, experts are kept
by the place of a token in the cache: a request that finds its prefix there gets the experts that computed it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerl_runtime.types import Experts

MAX_FINISHED = 1024  # requests whose experts nobody took, such as cancelled ones


@dataclass(frozen=True)
class StepPart:
    """The tokens of one request that a step computes."""

    request: str
    start: int  # position of its first token in this step
    count: int
    blocks: Sequence[int]  # of the request's cache, from its first token on


@dataclass
class ExpertRecorder:
    """The experts of the cache's tokens, and of requests."""

    block_size: int
    slots: Experts  # [cache tokens, layers, K]
    _rows: dict[str, list[Experts]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)  # tokens in `_rows`
    _finished: "OrderedDict[str, None]" = field(default_factory=OrderedDict)

    def record(self, parts: Sequence[StepPart], rows: Experts) -> None:
        """Keep a step's `rows` [N, layers, K], those of `parts` one after the other.

        A token keeps the experts of the first time that it was computed: a request that is computed again, after it
        was preempted or with newer weights, has sampled its tokens with those.
        """
        begin = 0
        for part in parts:
            self.slots[self._places(part, part.start)] = rows[begin : begin + part.count]
            begin += part.count
        for part in parts:  # apart: a request may share blocks that this step computes for another one
            added = self.slots[self._places(part, self._counts.get(part.request, 0))]
            self._rows.setdefault(part.request, []).append(added)
            self._counts[part.request] = self._counts.get(part.request, 0) + len(added)

    def _places(self, part: StepPart, start: int) -> NDArray[np.int64]:
        positions = np.arange(start, part.start + part.count)
        blocks: NDArray[np.int64] = np.asarray(part.blocks, dtype=np.int64)[positions // self.block_size]
        return blocks * self.block_size + positions % self.block_size

    def finish(self, requests: Iterable[str]) -> None:
        """Note that the engine computes these no more; the oldest that nobody took are dropped."""
        self._finished.update((request, None) for request in requests if request in self._rows)
        while len(self._finished) > MAX_FINISHED:
            self._forget(next(iter(self._finished)))

    def take(self, request: str) -> Experts:
        """Remove and return the experts [T, layers, K] of the request that the caller named `request`.

        Raises KeyError if there is none.
        """
        # vLLM appends a random part to a request's name.
        name = next((each for each in self._rows if each.rpartition("-")[0] == request), request)
        rows: Experts = np.concatenate(self._rows[name])  # type: ignore[assignment] # of one type
        self._forget(name)
        return rows

    def _forget(self, name: str) -> None:
        self._finished.pop(name, None)
        del self._rows[name], self._counts[name]


def install_recorder(worker: Any) -> ExpertRecorder | str:
    """Have `worker`, which runs on a CPU, record from now on; return why it cannot in words."""
    from vllm.model_executor.layers.fused_moe.routed_experts_capturer import (
        RoutedExpertsCapturer,
        bind_routed_experts_capturer,
    )

    runner, config = worker.model_runner, worker.vllm_config
    groups = runner.kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        return f"its layers have {len(groups)} kinds of cache; on CPUs experts are recorded for one kind"
    try:
        capturer = RoutedExpertsCapturer(config.scheduler_config.max_num_batched_tokens, config)
        bind_routed_experts_capturer(runner.model, capturer)
    except ValueError as error:  # a router or a kernel that hides its choice
        return str(error)
    block_size = int(groups[0].kv_cache_spec.block_size)
    num_slots = int(runner.kv_cache_config.num_blocks) * block_size
    dtype = np.dtype(capturer.output_dtype_name)
    recorder = ExpertRecorder(block_size, np.zeros((num_slots, *capturer.shape_per_token), dtype))
    runner.execute_model = _recording(runner, recorder, capturer.snapshot_routing_data)
    return recorder


def _recording(runner: Any, recorder: ExpertRecorder, snapshot: Callable[[int], Any]) -> Callable[..., Any]:
    execute = runner.execute_model

    def execute_model(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.finish(scheduled.finished_req_ids)
        result = execute(scheduled, *args, **kwargs)
        counts = scheduled.num_scheduled_tokens
        if counts:
            names = [name for name in runner.input_batch.req_ids if name in counts]  # in the row's order
            states = [(name, runner.requests[name]) for name in names]
            parts = [StepPart(n, state.num_computed_tokens, counts[n], state.block_ids[0]) for n, state in states]
            recorder.record(parts, snapshot(scheduled.total_num_scheduled_tokens).numpy())
        return result

    return execute_model
