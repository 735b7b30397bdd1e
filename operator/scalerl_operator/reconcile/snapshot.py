"""The inputs of one reconcile pass: the stored run, its pods, the poller's result. PURE."""

from dataclasses import dataclass, field
from datetime import datetime

from scalerl_api.wire import EvalPoint, Progress
from scalerl_operator.decide.curve_samples import CurveSamples
from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.observed_run import ObservedRun
from scalerl_operator.run.observed import Assessment


@dataclass(frozen=True)
class PollResult:
    """Everything that polls of the running coordinator brought, and the assessment of it."""

    watched: datetime | None = None
    """Since when it is asked; None before."""
    polled: bool = False
    """Whether it has been asked at least once, answered or not."""
    attempt: int = 0
    """Whom this is about."""
    progress: Progress | None = None
    answered: datetime | None = None
    """When it answered last."""
    is_final: bool = False
    """Whether its termination message is in the assessment: it may have measured once more after its last answer."""
    evals: tuple[EvalPoint, ...] = ()
    eta_seconds: float | None = None
    assessment: Assessment | None = None
    """None until a point was judged by this operator."""
    curve: CurveSamples | None = None
    """Where the curve lies, for dashboards."""


@dataclass(frozen=True)
class Snapshot:
    """One run, its pods and the last poll, as of one moment."""

    run: ObservedRun
    pods: tuple[ObservedPod, ...] = ()
    poll: PollResult = field(default_factory=PollResult)
