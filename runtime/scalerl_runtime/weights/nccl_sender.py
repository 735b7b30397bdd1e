"""The trainer's end of vLLM's native NCCL weight transfer. I/O. Only a trainer on a device imports it.

The other end is vLLM's `NCCLWeightTransferEngine` in each worker. Both ends cut the parameters into packets by the same
rule. Two buffers on the device take turns: the next packet comes from the host while the last one is broadcast.
"""

import threading
from collections.abc import Sequence

import torch
from vllm.distributed.weight_transfer.nccl_common import trainer_init

from scalerl_runtime.weights.buckets import PACKED_BUFFER_BYTES, PACKED_BUFFERS, WeightBucket
from scalerl_runtime.weights.packets import fill_packet, plan_packets


class NcclSender:
    """Rank 0 of one transfer group. NCCL waits for a dead peer for ever, so the deadline is ours."""

    def __init__(self, address: str, port: int, *, world_size: int, timeout_seconds: float):
        self._group = trainer_init({"master_address": address, "master_port": port, "world_size": world_size})
        self._device = torch.cuda.current_device()
        self._timeout_seconds = timeout_seconds
        self._streams = [torch.cuda.Stream() for _ in range(PACKED_BUFFERS)]  # type: ignore[no-untyped-call]

    def send(self, buckets: Sequence[WeightBucket], flats: Sequence[torch.Tensor]) -> None:
        """Broadcast the parameters in `flats`, which lie in host memory. Raises RuntimeError at the deadline."""
        failures: list[RuntimeError] = []
        is_sent = threading.Event()

        def broadcast() -> None:
            try:
                torch.cuda.set_device(self._device)  # a thread's own setting
                self._broadcast(buckets, flats)
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

    def _broadcast(self, buckets: Sequence[WeightBucket], flats: Sequence[torch.Tensor]) -> None:
        packets = plan_packets(buckets, limit=PACKED_BUFFER_BYTES)
        size = max((packet.num_bytes for packet in packets), default=0)
        slots = min(PACKED_BUFFERS, len(packets))
        buffers = [torch.empty(size, dtype=torch.uint8, device=self._device) for _ in range(slots)]
        for number, packet in enumerate(packets):
            stream = self._streams[number % PACKED_BUFFERS]
            stream.synchronize()  # the packet before in this buffer is sent
            with torch.cuda.stream(stream):
                self._group.broadcast(fill_packet(packet, flats, buffers[number % PACKED_BUFFERS]), src=0)
        for stream in self._streams:
            stream.synchronize()

    def close(self) -> None:
        """Abort the communicator; vLLM does that in a thread of its own, with a timeout."""
        self._group.destroy()
