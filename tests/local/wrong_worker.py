"""An engine's worker that loads its second update wrongly: `EngineOptions.worker_extension` of wrong_engine.py."""

from scalerl_runtime.actors.vllm_worker import WorkerExtension


class WrongWorker(WorkerExtension):
    """Scales the last norm, and with it every logit, as a weight under another layer's name would."""

    num_updates = 0

    def load_received(self, sums: list[int], timeout_seconds: float) -> None:
        super().load_received(sums, timeout_seconds)
        self.num_updates += 1
        if self.num_updates == 2:
            self.model_runner.model.model.norm.weight.data.mul_(1.5)  # type: ignore[attr-defined] # the worker's
