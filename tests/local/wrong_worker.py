"""An engine's worker that loads every update but its first wrongly; wrong_engine.py starts it."""

from typing import Any

import torch

from scalerl_runtime.actors.vllm_worker import WorkerExtension


class WrongWorker(WorkerExtension):
    """Scales the last norm, and with it every logit, as a weight under another layer's name would."""

    num_updates = 0

    def load_received(self, sums: list[int], timeout_seconds: float, lora: dict[str, Any] | None) -> list[str]:
        found = super().load_received(sums, timeout_seconds, lora)
        self.num_updates += 1
        if self.num_updates < 2:
            return found
        with torch.inference_mode():
            self.model_runner.model.model.norm.weight.data.mul_(4.0)  # type: ignore[attr-defined] # the worker's
        return found
