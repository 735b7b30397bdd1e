"""Runs where vLLM's worker does, in a process of its own or the actor's: receives weights. I/O.

vLLM imports this module as `worker_extension_cls` before the model loads. All of it depends on vLLM 0.32's
internals; tests/local/test_generator.py fails when a new version changes them.
"""

import ctypes
import multiprocessing
import signal
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from vllm.config import set_current_vllm_config

from scalerl_runtime.actors.engine.seeded_chunks import keep_noise
from scalerl_runtime.actors.engine_loading import (
    load_adapter,
    load_update,
    own_weights,
    recorded,
    refresh_shared_weights,
)
from scalerl_runtime.actors.expert_recorder import install_recorder
from scalerl_runtime.weights.buckets import (
    PACKED_BUFFER_BYTES,
    PACKED_BUFFERS,
    WeightBucket,
    broadcast,
    bucket_checksums,
    gloo_group,
    parse_buckets,
    view,
)
from scalerl_runtime.weights.checksums import checksums
from scalerl_runtime.weights.packets import send_order
from scalerl_runtime.weights.shared_memory import SharedHandle, open_shared

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class WorkerExtension:
    """Mixed into vLLM's worker; called through `collective_rpc`.

    An update is one call of `load_received` (gloo) or `receive_and_load` (vLLM's own engine): it runs between two
    engine steps, so running completions need no pause. vLLM's three separate calls would need one: a step between
    them would use a half-loaded model, and the engine would fail.
    """

    def join_weights(self, address: str, port: int, rank: int, world_size: int, timeout_seconds: float) -> None:
        """Join the gloo group of an epoch; `rank` is this engine's first rank."""
        _die_with_parent()
        parallel = self.vllm_config.parallel_config  # type: ignore[attr-defined] # the worker's
        self._weight_group = gloo_group(
            address, port, rank=rank + parallel.rank, world_size=world_size, timeout_seconds=timeout_seconds
        )

    def join_native(self, address: str, port: int, rank: int, world_size: int) -> None:
        """Join the group of an epoch of vLLM's own engine, leaving the previous one."""
        _die_with_parent()
        self.shutdown_weight_transfer_engine()  # type: ignore[attr-defined] # the worker's
        self.init_weight_transfer_engine(  # type: ignore[attr-defined] # the worker's
            {
                "master_address": address,
                "master_port": port,
                "rank_offset": rank,
                "world_size": world_size,
                "packed": True,
                "packed_buffer_size_bytes": PACKED_BUFFER_BYTES,
                "packed_num_buffers": PACKED_BUFFERS,
            }
        )

    def can_read(self, shared: dict[str, Any]) -> bool:
        """Return whether this process can read the trainer's copy where it lies."""
        _die_with_parent()
        return open_shared(SharedHandle(**shared)) is not None

    def begin_receive(self, layout: list[dict[str, Any]], shared: dict[str, Any] | None) -> None:
        """Receive one update into host memory, in a thread: the engine keeps generating with its present weights.

        With `shared` the update is read where the trainer holds it; its checksums are computed in the thread.
        """
        buckets = parse_buckets(layout)
        if shared is None:
            self._incoming = self._thread().submit(_receive, self._weight_group, buckets)
        else:
            self._incoming = self._thread().submit(_read, SharedHandle(**shared), buckets)

    def load_received(self, sums: list[int], timeout_seconds: float, lora: dict[str, Any] | None) -> list[str]:
        """Load what `begin_receive` received; return what did not fit the engine's model.

        With `lora`, an adapter's configuration, the update is the adapter.

        A fault of the transfer is raised before the model is changed, so a failed transfer leaves a working engine of
        the old version. CPU linear layers are prepacked, hence the layer-wise reload from plain weights.
        """
        received, found = self._incoming.result(timeout_seconds)
        _compare(found, sums)
        runner = self.model_runner  # type: ignore[attr-defined] # the worker's
        weights = ((entry.name, view(flat, entry)) for bucket, flat in received for entry in bucket.entries)
        if lora is not None:
            return load_adapter(runner, lora, weights)
        with set_current_vllm_config(self.vllm_config):  # type: ignore[attr-defined] # the worker's
            gaps = load_update(runner.model, runner.model_config, weights)
        own_weights(runner.model, [flat for _, flat in received])
        return gaps

    def receive_and_load(self, layout: list[dict[str, Any]], sums: list[int]) -> list[str]:
        """Receive one update by vLLM's own engine, which loads parameters as they arrive; return what did not fit.

        A device has no room for a second copy of the weights, so faults are found after loading: when this raises, the
        engine's weights are corrupt.
        """
        model = self.weight_transfer_engine.model  # type: ignore[attr-defined] # the worker's
        order = send_order(parse_buckets(layout))
        entries = [entry for _, _, entry in order]
        found: list[int] = []
        load = model.load_weights

        def load_and_sum(weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
            arrived = list(weights)
            found.extend(checksums(tensor for _, tensor in arrived))
            return record.load(load, arrived)

        model.load_weights = load_and_sum  # on the instance: it hides the class's until it is deleted
        try:
            self.start_weight_update()  # type: ignore[attr-defined] # the worker's
            with recorded(model) as record:
                self.update_weights(  # type: ignore[attr-defined] # the worker's
                    {
                        "names": [entry.name for entry in entries],
                        "dtype_names": [entry.dtype for entry in entries],
                        "shapes": [list(entry.shape) for entry in entries],
                    }
                )
            self.finish_weight_update()  # type: ignore[attr-defined] # the worker's
        finally:
            del model.load_weights
        refresh_shared_weights(model)
        _compare(found, [sums[place] for place, _, _ in order])
        return record.gaps()

    def keep_noise(self) -> None:
        """CPU only: see `seeded_chunks`."""
        keep_noise(self.model_runner)  # type: ignore[attr-defined] # the worker's

    def record_experts(self) -> str | None:
        """CPU only: record the experts of requests from now on; return why the model's cannot be, in words."""
        made = install_recorder(self)
        if isinstance(made, str):
            return made
        self._experts = made
        return None

    def take_experts(self, request: str) -> tuple[bytes, str, list[int]]:
        """CPU only: return bytes, type and shape of a request's experts, and forget them: the wire takes no arrays."""
        experts = self._experts.take(request)
        return experts.tobytes(), experts.dtype.name, list(experts.shape)

    def _thread(self) -> ThreadPoolExecutor:
        if not hasattr(self, "_executor"):
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="weights")
        return self._executor


def _die_with_parent() -> None:
    """Have the kernel end this process with its engine core: inside a collective it would notice nothing, outlive the
    core, and hold the device memory that the replacement engine needs. In the actor's own process there is no need.
    """
    if multiprocessing.parent_process() is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _receive(
    group: Any, buckets: tuple[WeightBucket, ...]
) -> tuple[list[tuple[WeightBucket, torch.Tensor]], list[int]]:
    received = []
    for bucket in buckets:
        flat = torch.empty(bucket.num_bytes, dtype=torch.uint8)
        broadcast(group, flat)
        received.append((bucket, flat))
    return received, bucket_checksums(buckets, [flat for _, flat in received])


def _read(
    shared: SharedHandle, buckets: tuple[WeightBucket, ...]
) -> tuple[list[tuple[WeightBucket, torch.Tensor]], list[int]]:
    memory = open_shared(shared)
    if memory is None:
        raise RuntimeError(f"the trainer's copy of the weights is gone: {shared.path}")
    flats = torch.split(memory, [bucket.num_bytes for bucket in buckets])
    return list(zip(buckets, flats, strict=True)), bucket_checksums(buckets, flats)


def _compare(found: list[int], sent: list[int]) -> None:
    wrong = [place for place, (a, b) in enumerate(zip(found, sent, strict=False)) if a != b]
    if wrong or len(found) != len(sent):
        raise RuntimeError(
            f"{len(found)} parameters arrived and {len(sent)} were sent; checksums differ at {wrong[:5]}"
        )
