"""Which of a step's metrics a report draws, and how they are put together. PURE."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepPanel:
    """One small picture of series over steps."""

    title: str
    unit: str
    series: tuple[tuple[str, str], ...]
    """(name in a StepRecord's values, label)."""
    scale: float = 1.0
    """Factor from the recorded unit to `unit`."""
    from_zero: bool = True
    """The axis begins at 0, so that noise looks as small as it is."""
    is_log: bool = False
    """Logarithmic axis, for values whose size depends on the run by decades."""


PANELS = (
    StepPanel("Training reward", "mean, -1 to 1", (("reward", "reward"),), from_zero=False),
    StepPanel("Entropy", "nats per token", (("entropy", "entropy"),)),
    StepPanel("Lag of trained tokens", "optimizer steps", (("lag_mean", "mean"), ("lag_max", "largest"))),
    StepPanel(
        "Throughput",
        "tokens per second",
        (("tokens_per_second", "trained"), ("generator_tokens_per_second", "sampled")),
    ),
    StepPanel(
        "Idle share", "%", (("idle_fraction_trainer", "trainer"), ("idle_fraction_generator", "generator")), 100.0
    ),
    StepPanel("Completion length", "tokens", (("completion_tokens_mean", "mean"),)),
    StepPanel(
        "Wasted samples",
        "%",
        (("truncation_share", "truncated"), ("zero_variance_share", "no variance")),
        100.0,
    ),
    StepPanel("Mismatch, generator to trainer", "KL, 0.001 nats per token", (("mismatch_kl", "k3 estimate"),), 1000.0),
    StepPanel(
        "Mismatch at lag 0",
        "nats per token",
        (("mismatch_lag0", "mean |difference|"),),
        from_zero=False,
        is_log=True,
    ),
    StepPanel("Capped importance ratios", "% of tokens", (("ratio_clipped_share", "capped"),), 100.0),
    StepPanel("Gradient norm", "before clipping", (("grad_norm", "norm"),)),
    StepPanel("Turns of an episode", "mean", (("episode_turns_mean", "turns"),)),
    StepPanel(
        "Failed turns",
        "per step",
        (("tool_errors", "errors of tools"), ("cut_observations", "observations cut")),
    ),
    StepPanel("Tokens of the environment", "%", (("observation_share", "observations"),), 100.0),
    StepPanel("Forced tokens", "tokens per step", (("forced_tokens", "by interruption"),)),
    StepPanel(
        "Weight sync",
        "milliseconds",
        (("weight_sync_seconds", "total"), ("weight_stall_seconds", "longest stall")),
        1000.0,
    ),
)

DRAWN = frozenset(name for panel in PANELS for name, _ in panel.series)
"""The names in a StepRecord's values that a report looks at."""
