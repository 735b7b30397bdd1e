"""Options of each `scalerl` command, parsed and checked. PURE."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalerl_operator.controller.options import OperatorOptions


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of `scalerl run`."""

    file: Path
    folder: Path | None
    resume: bool
    accept_new_data: bool
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """Options of `scalerl validate`."""

    files: tuple[Path, ...]
    no_self_test: bool
    """Do not read the data and try the verifiers."""
    run_user_code: bool
    ask_judges: bool
    device: str | None = None
    """Check memory on this kind of GPU."""
    devices: Path | None = None
    model_config: Path | None = None
    cluster: bool = False
    """Check that the pods can be placed on the nodes of a cluster, and memory on their GPUs."""
    context: str | None = None


@dataclass(frozen=True, kw_only=True)
class PreflightOptions:
    """`scalerl preflight` has no option."""


@dataclass(frozen=True, kw_only=True)
class LookupOptions:
    """Options that find runs, on this machine or on a cluster."""

    target: str | None
    """Name or folder; None: all runs."""
    runs: Path | None
    """Folder of this machine's runs."""
    namespace: str | None
    context: str | None
    all_namespaces: bool = False


@dataclass(frozen=True, kw_only=True)
class StatusOptions(LookupOptions):
    """Options of `scalerl status`."""

    output: Literal["table", "yaml"]
    watch: bool


@dataclass(frozen=True, kw_only=True)
class ReportOptions(LookupOptions):
    """Options of `scalerl report`."""

    target: str
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class LogsOptions(LookupOptions):
    """Options of `scalerl logs`."""

    target: str
    follow: bool
    tail: int | None
    role: Literal["trainer", "generator"] | None
    index: int | None
    previous: bool
    timestamps: bool


@dataclass(frozen=True, kw_only=True)
class RolloutsOptions(LookupOptions):
    """Options of `scalerl rollouts`."""

    target: str
    step: int | None
    eval: bool
    """Completions of an evaluation, not of training."""
    dataset: str | None
    """The evaluated set; implies `eval`."""
    prompt: int | None
    source: str | None
    """Name of a training source."""
    wrong: bool
    right: bool
    limit: int | None
    prompts: bool
    """Pass rate of each prompt, not completions."""
    full: bool
    format: Literal["text", "json"]


@dataclass(frozen=True, kw_only=True)
class ExportCommandOptions(LookupOptions):
    """Options of `scalerl export`."""

    target: str
    """Name or folder of a run, a checkpoint's folder, or an exported model's."""
    to: str
    """A folder, or `hub:OWNER/NAME`."""
    step: int | None
    best: bool
    merged: bool
    """Of a run with adapters: write the whole model."""
    hub_token_secret: str | None
    """On a cluster: Secret whose key `token` holds the hub's token."""
    image: str | None
    """On a cluster: the runtime's image; None: the one that the run's pods had."""


@dataclass(frozen=True)
class Columns:
    """Columns of a CSV file that hold a curve."""

    x: str
    y: str
    error: str | None = None
    completions: int | None = None
    """Behind each pass rate: its standard error is then binomial, and there is no column for it."""


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """Options that read curves."""

    x: str
    y: str
    stderr: str | None
    completions: int | None
    json: Path | None

    @property
    def columns(self) -> Columns:
        """Return the columns to read."""
        return Columns(self.x, self.y, self.stderr, self.completions)


@dataclass(frozen=True, kw_only=True)
class FitOptions(CurveOptions):
    """Options of `scalerl fit`."""

    file: Path
    budget: float | None
    target: float | None
    r0: float | None
    entropy: str | None
    """Column."""
    entropy_floor: float
    """Nats."""
    fit_until: float | None
    picture: Path | None


@dataclass(frozen=True, kw_only=True)
class CompareOptions(CurveOptions):
    """Options of `scalerl compare`."""

    files: tuple[Path, ...]
    margin: float | None
    replicates: tuple[Path, ...]
    picture: Path | None


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of `scalerl plan`: of curves, or of runs."""

    files: tuple[Path, ...]
    x: str | None
    y: str | None
    stderr: str | None
    completions: int | None
    width: float
    budget: float | None
    loss: float
    split: float | None
    device: str | None
    devices: Path | None
    """The user's own table."""
    model_config: Path | None
    mean_tokens: float | None
    """Of a completion; None: a share of the longest."""
    like: Path | None
    """Folder of a run with such lengths."""
    mfu: float | None
    """Of the trainer; None: the device's."""
    price: float | None
    """Of a GPU-hour, in any currency."""
    calibrate: bool
    json: Path | None

    @property
    def columns(self) -> Columns:
        """Return the columns of curves."""
        assert self.x is not None, "the command has checked it"
        assert self.y is not None, "the command has checked it"
        return Columns(self.x, self.y, self.stderr, self.completions)


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """Options of `scalerl completion`."""

    shell: Literal["bash", "zsh", "fish"]


Options = (
    RunOptions
    | ValidateOptions
    | PreflightOptions
    | StatusOptions
    | ReportOptions
    | LogsOptions
    | RolloutsOptions
    | ExportCommandOptions
    | FitOptions
    | CompareOptions
    | PlanOptions
    | OperatorOptions
    | CompletionOptions
)

RunQueryOptions = StatusOptions | ReportOptions | RolloutsOptions | LogsOptions
"""Commands about existing runs, on this machine or on a cluster."""
