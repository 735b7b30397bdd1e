"""The trainer's end of vLLM's native NCCL weight transfer. I/O. Only a trainer on a device imports it.

The other end is vLLM's `NCCLWeightTransferEngine` in each worker. Both ends cut the parameters into packed buffers by
the same rule; two buffers take turns, so that packing the next one overlaps the broadcast of the last.
"""

import threading
from collections.abc import Sequence

import torch
from vllm.distributed.weight_transfer.nccl_common import trainer_init
from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

from scalerl_runtime.weights.buckets import PACKED_BUFFER_BYTES, PACKED_BUFFERS, WeightBucket, view


class NcclSender:
    """Rank 0 of one transfer group. NCCL waits for a dead peer for ever, so the deadline is ours."""

    def __init__(self, address: str, port: int, *, world_size: int, timeout_seconds: float):
        self._group = trainer_init({"master_address": address, "master_port": port, "world_size": world_size})
        self._device = torch.cuda.current_device()
        self._timeout_seconds = timeout_seconds

    def send(self, buckets: Sequence[WeightBucket], flats: Sequence[torch.Tensor]) -> None:
        """Broadcast the parameters in `flats`, which lie on this device. Raises RuntimeError at the deadline."""
        failures: list[RuntimeError] = []
        is_sent = threading.Event()

        def broadcast() -> None:
            try:
                torch.cuda.set_device(self._device)  # a thread's own setting
                packed_nccl_broadcast_producer(
                    iterator=((e.name, view(f, e)) for b, f in zip(buckets, flats, strict=True) for e in b.entries),
                    group=self._group,
                    src=0,
                    post_iter_func=lambda item: item[1],
                    buffer_size_bytes=PACKED_BUFFER_BYTES,
                    num_buffers=PACKED_BUFFERS,
                )
                is_sent.set()
            except RuntimeError as error:  # what torch and vLLM's NCCL wrapper raise; raised again by the caller
                failures.append(error)

        thread = threading.Thread(target=broadcast, name="nccl-send", daemon=True)
        thread.start()
        thread.join(self._timeout_seconds)
        if thread.is_alive():
            self.close()  # aborts the communicator, which ends the thread
            raise RuntimeError(f"an engine did not join the broadcast within {self._timeout_seconds:g} s")
        if failures:
            raise RuntimeError(f"the broadcast failed: {failures[0]}") from failures[0]
        if not is_sent.is_set():
            raise RuntimeError("the broadcast failed: its thread's traceback is in the log")

    def close(self) -> None:
        """Abort the communicator; vLLM does that in a thread of its own, with a timeout."""
        self._group.destroy()
