"""vLLM's native weight transfer on a CPU, for tests: its worker and our calls are real, gloo stands in for NCCL.

vLLM imports this as its worker extension; the import registers the engine under the name `gloo_native`.
"""

from typing import Any

import torch
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
    NCCLWeightTransferUpdateInfo,
)

from scalerl_runtime.actors.vllm_worker import WorkerExtension
from scalerl_runtime.weights.buckets import broadcast, gloo_group

__all__ = ["GlooNativeEngine", "WorkerExtension"]


class GlooNativeEngine(NCCLWeightTransferEngine):
    """Parameters arrive one by one, flat; everything else is the NCCL engine's."""

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        assert init_info.packed
        assert init_info.master_address is not None
        assert init_info.master_port is not None
        self.group = gloo_group(
            init_info.master_address,
            init_info.master_port,
            rank=init_info.rank_offset + self.parallel_config.rank,
            world_size=init_info.world_size,
            timeout_seconds=60.0,
        )

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class calls torch.accelerator.synchronize(), which needs an accelerator.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            broadcast(self.group, weight.view(-1).view(torch.uint8))
            self.model.load_weights([(name, weight)])

    def shutdown(self) -> None:
        self.group = None


WeightTransferEngineFactory.register_engine("gloo_native", GlooNativeEngine)
