"""The time of a run on CPU cores, from rates that were measured on the machine. PURE.

Trainer, engines and the loop share the cores, so a step takes the CPU-seconds of all three over the number of cores, or
longer where one side alone has more work than the cores that it can use. Each side's CPU-seconds are a fixed part and a
part for each unit of its work:

- trainer: of a step, and of each token of prompts and completions;
- engines: of each decoding step, and of each sampled token;
- loop (pool, verifiers, the coordinator): of a step, and of each completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_api.evaluations import measure_eval_load
from scalerl_operator.capacity.lengths import Lengths

ENGINE_CORES = 2  # an engine's processes besides its computing threads: front end and output


@dataclass(frozen=True)
class StepWork:
    """The work of one step, in the units of the rates."""

    completions: float
    sampled_tokens: float
    trained_tokens: float
    """Of prompts and completions, those that enter the loss."""
    decodes: float
    """Decoding steps of all engines."""


@dataclass(frozen=True)
class CpuSeconds:
    """CPU-seconds of one step by side."""

    trainer: float
    engine: float
    loop: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.trainer + self.engine + self.loop


@dataclass(frozen=True)
class CpuSample:
    """A short run: its steps, and what they took on average."""

    work: StepWork
    seconds: CpuSeconds


@dataclass(frozen=True)
class Rate:
    """CPU-seconds: a fixed part, and one for each unit. Both >= 0."""

    fixed: float
    unit: float

    def seconds(self, times: float, units: float) -> float:
        """Return the CPU-seconds of so many fixed parts and units."""
        return self.fixed * times + self.unit * units


@dataclass(frozen=True)
class CpuRates:
    """The rates of one model on one machine."""

    trainer: Rate
    engine: Rate
    loop: Rate
    cores: int

    def step(self, work: StepWork) -> CpuSeconds:
        """Return the CPU-seconds of a step."""
        return CpuSeconds(
            self.trainer.seconds(1, work.trained_tokens),
            self.engine.seconds(work.decodes, work.sampled_tokens),
            self.loop.seconds(1, work.completions),
        )


@dataclass(frozen=True)
class CpuTime:
    """The times of a run on CPU cores."""

    seconds: float
    """Of a step on cores that nothing else uses."""
    cpu: CpuSeconds
    """Of a step, its share of the evaluations not counted."""
    running: float
    """Completions that an engine runs at once."""
    evaluation_seconds: float
    evaluation_samples: int
    evaluation_share: float
    """Of all CPU-seconds."""
    device_hours: float
    """Of the whole run; a device is a process of trainer or engine."""
    whole_seconds: float
    cores: int
    sampled_tokens: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens sampled a second."""
        return self.sampled_tokens / self.seconds


def fit_rates(samples: Sequence[CpuSample], cores: int) -> CpuRates:
    """Return the rates with the least relative error over at least two runs. Raises ValueError for fewer."""
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} runs; two are needed, of different sizes")
    return CpuRates(
        trainer=_fit([(1.0, each.work.trained_tokens, each.seconds.trainer) for each in samples]),
        engine=_fit([(each.work.decodes, each.work.sampled_tokens, each.seconds.engine) for each in samples]),
        loop=_fit([(1.0, each.work.completions, each.seconds.loop) for each in samples]),
        cores=cores,
    )


def measure_work_of_step(run: RLRun, lengths: Lengths, *, trained_share: float = 1.0) -> StepWork:
    """Return the work of a step of the run."""
    recipe = run.spec.resolved_recipe()
    completions = recipe.prompts_per_step * recipe.completions_per_prompt
    sampled = completions * lengths.mean
    trained = trained_share * completions * lengths.sequence
    return StepWork(completions, sampled, trained, sampled / running_sequences(run, lengths))


def running_sequences(run: RLRun, lengths: Lengths) -> float:
    """Return how many completions an engine runs at once, where the engines are the slower side.

    On shared cores they are: the pace's groups (note 082), less half a batch that is ready, over the engines. A group
    runs its mean over its longest completion. In turns, a batch is over the engines, and drains.
    """
    recipe, generator = run.spec.resolved_recipe(), run.spec.generator
    mode, lag = recipe.asynchrony.mode, recipe.asynchrony.max_lag
    batch = recipe.prompts_per_step * recipe.completions_per_prompt
    share = lengths.mean / lengths.longest_of(recipe.completions_per_prompt)
    outstanding = lag + 1 - 3 * lag // 8 - 0.5
    if mode != "pipeline":
        outstanding = 1 if mode == "synchronous" else recipe.asynchrony.off_policy_steps
    return max(1.0, min(generator.max_sequences, outstanding * batch * share / generator.min_replicas))


def time_cpu_run(run: RLRun, rates: CpuRates, lengths: Lengths, *, trained_share: float = 1.0) -> CpuTime:
    """Return the times of a run on this machine's cores; its trainer and its engines are processes on them."""
    spec = run.spec
    work = measure_work_of_step(run, lengths, trained_share=trained_share)
    cpu, load = rates.step(work), measure_eval_load(spec, {})
    ratio = load.eval_samples / work.completions
    extra = ratio * (cpu.engine + rates.loop.unit * work.completions)  # of an evaluation
    every = min(spec.budget.eval_every_steps, spec.budget.steps)
    threads = max(1, rates.cores // (spec.trainer.ranks + spec.generator.min_replicas))
    limits = (
        (cpu.total + extra / every) / rates.cores,
        cpu.trainer / min(rates.cores, threads * spec.trainer.ranks),
        (cpu.engine + extra / every) / min(rates.cores, (threads + ENGINE_CORES) * spec.generator.min_replicas),
    )
    seconds = max(limits)
    if spec.resolved_recipe().asynchrony.mode != "pipeline":  # the sides take turns
        seconds = max(limits[0], limits[1] + limits[2] + cpu.loop / rates.cores)
    # An evaluation has its share of the engines, and they have their share of the busy cores.
    eval_cores = load.engine_share * rates.cores * cpu.engine / cpu.total
    whole = spec.budget.steps * seconds
    devices = spec.trainer.ranks + spec.generator.min_replicas
    if spec.budget.gpu_hours is not None:
        whole = min(whole, spec.budget.gpu_hours * 3600 / devices)
    return CpuTime(
        seconds=seconds,
        cpu=cpu,
        running=running_sequences(run, lengths),
        evaluation_seconds=ratio * cpu.engine / eval_cores,
        evaluation_samples=load.eval_samples,
        evaluation_share=extra / every / (cpu.total + extra / every),
        device_hours=whole * devices / 3600,
        whole_seconds=whole,
        cores=rates.cores,
        sampled_tokens=work.sampled_tokens,
    )


def _fit(rows: Sequence[tuple[float, float, float]]) -> Rate:
    """Return the rate that meets (fixed parts, units, seconds) with the least relative error, both parts >= 0."""
    scaled = [(a / c, b / c) for a, b, c in rows if c > 0]
    if not scaled:
        return Rate(0.0, 0.0)
    aa, bb = sum(a * a for a, _ in scaled), sum(b * b for _, b in scaled)
    ab, sa, sb = sum(a * b for a, b in scaled), sum(a for a, _ in scaled), sum(b for _, b in scaled)
    found = [Rate(sa / aa if aa else 0.0, 0.0), Rate(0.0, sb / bb if bb else 0.0)]
    determinant = aa * bb - ab * ab
    if determinant > 1e-9 * aa * bb:
        both = Rate((sa * bb - sb * ab) / determinant, (sb * aa - sa * ab) / determinant)
        if both.fixed >= 0 and both.unit >= 0:
            return both
    return min(found, key=lambda rate: sum((rate.fixed * a + rate.unit * b - 1) ** 2 for a, b in scaled))
