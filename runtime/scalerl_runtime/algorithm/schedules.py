"""Values that change with the step: the learning rate and the KL coefficient. PURE."""

import math
from dataclasses import dataclass, replace

from scalerl_api.recipe import Loss

# Ziegler et al. 2019, arXiv:1909.08593, section 2.2: the error is cut at 0.2, the coefficient follows a tenth of it.
_MAX_ERROR = 0.2
_GAIN = 0.1
_MAX_COEFFICIENT = 10.0  # the spec's own bound; a KL that does not answer must not drive the coefficient to infinity


def learning_rate(step: int, *, base: float, warmup_steps: int) -> float:
    """Return the rate of step 0, 1, ...: base * (step + 1) / warmup_steps, then base.

    So the first step already moves the weights, and step warmup_steps - 1 is the first at the full rate.
    """
    if step < 0:
        raise ValueError(f"step is {step}; need >= 0")
    return base * min(1.0, (step + 1) / warmup_steps) if warmup_steps else base


@dataclass(frozen=True)
class KlController:
    """The KL coefficient of the next step; `dataclasses.asdict` gives JSON, `KlController(**...)` takes it back."""

    coefficient: float  # >= 0; 0 stays 0
    target: float | None  # measured KL to aim at, nats per token; None: the coefficient is constant

    def update(self, kl: float) -> "KlController":
        """Return the controller after a step whose mean KL was `kl` (nats per token)."""
        if self.target is None:
            return self
        if not math.isfinite(kl):
            raise ValueError(f"measured KL is {kl}; need a finite number")
        error = min(_MAX_ERROR, max(-_MAX_ERROR, kl / self.target - 1.0))
        return replace(self, coefficient=min(_MAX_COEFFICIENT, self.coefficient * (1.0 + _GAIN * error)))


def build_kl_controller(loss: Loss) -> KlController:
    """Return the controller at the start of a run."""
    return KlController(loss.kl_coefficient, loss.kl_target)
