"""The time of a run on GPUs: a step, an evaluation, a checkpoint, a weight update, and the whole budget. PURE."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from scalerl_api import RLRun
from scalerl_api.evaluations import MIN_PROMPTS, count_leases, measure_eval_load
from scalerl_api.rlrun import OPTIMIZER_STATE_BYTES
from scalerl_operator.capacity.devices import Device
from scalerl_operator.capacity.engine_memory import cache_item_bytes, layer_item_bytes
from scalerl_operator.capacity.engine_speed import EngineSpeed
from scalerl_operator.capacity.lengths import Lengths
from scalerl_operator.capacity.schedule import Demand, StepTime, Supply, drain_seconds, time_step
from scalerl_operator.capacity.trainer_speed import (
    LINK_SHARE,
    PCIE_BANDWIDTH,
    FlopsShare,
    TrainerSpeed,
    TrainTime,
    time_training,
)
from scalerl_operator.capacity.work import ModelWork

PUSH_SECONDS = 0.5  # of an update beside its bytes; llm-d publishes .53 s of orchestration for 8B to 4 engines


@dataclass(frozen=True)
class TimeBasis:
    """Numbers that the spec does not have."""

    lengths: Lengths
    flops_share: FlopsShare
    cache_bytes: float = math.inf
    """Of the key-value cache of an engine, all its GPUs together."""
    trained_share: float = 1.0
    """Of the completions, those that enter the loss: groups of equal rewards are dropped. In (0, 1]."""


@dataclass(frozen=True)
class EvalTime:
    """One evaluation beside the training, on the engines that it leases."""

    prompts: int
    """Of all sets; a rarer set counts in proportion."""
    samples: int
    """Their completions."""
    engines: int
    """That sample for it; 1 of 1: it has a share of that engine's sequences."""
    seconds: float
    """If it samples every prompt."""
    share: float
    """Of the completions that the engines sample."""
    interval_seconds: float
    """Until the next one is due, with the engines that are left to the training."""
    deadline_seconds: float
    """The spec's deadlines.evalSeconds."""
    last_seconds: float
    """Of the run's last one, on all engines."""

    @property
    def limit_seconds(self) -> float:
        """Until it ends with the part that is sampled."""
        return min(self.interval_seconds, self.deadline_seconds)

    @property
    def part(self) -> float:
        """Share of the prompts that it samples before it is late, in (0, 1]."""
        return min(1.0, self.limit_seconds / self.seconds)

    @property
    def is_late(self) -> bool:
        """Whether it ends with a part: the next evaluation is due, or its deadline passes."""
        return self.part < 1.0

    @property
    def is_repeated(self) -> bool:
        """Whether its part is too small to count: it is repeated on all engines when the training is over."""
        return self.part * self.prompts < min(MIN_PROMPTS, self.prompts)


@dataclass(frozen=True)
class PushTime:
    """One weight update."""

    num_bytes: float
    copy_seconds: float
    """The trainer waits for its copy."""
    transfer_seconds: float
    """The engines make no token meanwhile."""

    @property
    def seconds(self) -> float:
        """From a step's end until the engines have its weights."""
        return self.copy_seconds + self.transfer_seconds + PUSH_SECONDS


@dataclass(frozen=True)
class CheckpointTime:
    """One checkpoint."""

    num_bytes: float
    pause_seconds: float
    """The trainer waits for the copy to host memory; files are written beside the training."""
    per_step: float
    """Checkpoints of one step, on average: those of evaluations too."""


@dataclass(frozen=True)
class BudgetTime:
    """The whole run."""

    seconds: float
    gpus: int
    gpu_hours: float
    steps: int
    ends_by: Literal["steps", "gpuHours"]


@dataclass(frozen=True)
class RunTime:
    """The times of a run on a device."""

    step: StepTime
    """While no evaluation runs."""
    train: TrainTime
    seconds: float
    """Of a step on average, with the engines that evaluations take."""
    trainer_gpus: int
    generator_gpus: int
    engines: int
    sequences: float
    """That an engine runs at most."""
    sequence_limit: Literal["maxSequences", "cache"]
    engine_tokens_per_second: float
    """Of one full engine."""
    evaluation: EvalTime
    push: PushTime
    checkpoint: CheckpointTime
    budget: BudgetTime
    basis: TimeBasis
    mfu: float
    """Of the trainer while it trains, recomputed operations not counted."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens of prompts and completions that are trained a second."""
        return self.train.tokens / self.seconds


def time_run(run: RLRun, work: ModelWork, device: Device, basis: TimeBasis) -> RunTime:
    """Return the times of a run whose trainer and generators have GPUs of one kind."""
    spec, recipe, lengths = run.spec, run.spec.resolved_recipe(), basis.lengths
    engine, trainer = build_engine(run, work, device, lengths), build_trainer(run, work, device, basis.flops_share)
    sequences = max(1.0, min(spec.generator.max_sequences, basis.cache_bytes / engine.cache_bytes))
    completions = recipe.prompts_per_step * recipe.completions_per_prompt
    train = time_training(trainer, lengths, basis.trained_share * completions)
    push, checkpoint = time_push(run, work, device), time_checkpoint(run, work)
    demand = build_demand(run, lengths)
    supply = Supply(
        engines=spec.generator.max_replicas,
        max_sequences=sequences,
        token_seconds=engine.step_seconds,
        train_seconds=train.seconds + push.copy_seconds + checkpoint.per_step * checkpoint.pause_seconds,
        sync_seconds=push.seconds,
        stall_seconds=push.transfer_seconds,
    )
    step, evaluation = _time_any_step(run, demand, supply), time_evaluation(run, demand, supply)
    seconds = mean_step_seconds(step, evaluation, _count_interval(run))
    return RunTime(
        step=step,
        train=train,
        seconds=seconds,
        trainer_gpus=spec.trainer.ranks,
        generator_gpus=count_generator_gpus(run),
        engines=spec.generator.max_replicas,
        sequences=sequences,
        sequence_limit="maxSequences" if sequences == spec.generator.max_sequences else "cache",
        engine_tokens_per_second=engine.tokens_per_second(sequences),
        evaluation=evaluation,
        push=push,
        checkpoint=checkpoint,
        budget=time_budget(run, seconds, evaluation),
        basis=basis,
        mfu=train.flops.model / (train.seconds * trainer.ranks * device.bf16_flops),
    )


def build_demand(run: RLRun, lengths: Lengths) -> Demand:
    """Return what a step of the run needs."""
    recipe = run.spec.resolved_recipe()
    return Demand(recipe.prompts_per_step, recipe.completions_per_prompt, recipe.asynchrony, lengths)


def count_generator_gpus(run: RLRun) -> int:
    """Return the GPUs of the engines; 0 where they are the trainer's."""
    generator = run.spec.generator
    return 0 if generator.colocated else generator.max_replicas * max(1, generator.gpus_per_replica)


def build_engine(run: RLRun, work: ModelWork, device: Device, lengths: Lengths) -> EngineSpeed:
    """Return the speed of one of the run's engines."""
    generator, item = run.spec.generator, run.spec.model.item_bytes
    return EngineSpeed(
        work=work,
        gpus=max(1, generator.gpus_per_replica),
        flops=device.bf16_flops * (2 / item),
        bandwidth=device.memory_bandwidth,
        weight_bytes=layer_item_bytes(run),
        head_bytes=item,
        kv_bytes=cache_item_bytes(run),
        lengths=lengths,
        completions=run.spec.resolved_recipe().completions_per_prompt,
    )


def build_trainer(run: RLRun, work: ModelWork, device: Device, share: FlopsShare) -> TrainerSpeed:
    """Return the speed of the run's trainer group."""
    trainer, item = run.spec.trainer, run.spec.model.item_bytes
    within_node = trainer.ranks <= device.gpus_per_node and trainer.replicas == 1
    # Ranks that share rows follow each other, so a pod has whole groups or a group spans pods.
    is_near = trainer.gpus_per_replica % trainer.sequence_parallel == 0
    return TrainerSpeed(
        work=work,
        ranks=trainer.ranks,
        flops=device.bf16_flops * (2 / item),
        share=share,
        memory_bandwidth=device.memory_bandwidth,
        link_bandwidth=device.link_bandwidth if within_node else device.network_bandwidth,
        weight_bytes=item,
        zero_stage=trainer.zero_stage,
        micro_batch_tokens=trainer.rank_tokens,
        sequence_parallel=trainer.sequence_parallel,
        exchange_bandwidth=device.link_bandwidth if is_near else device.network_bandwidth,
        activations=trainer.activations,
        offload_optimizer=trainer.offload.optimizer == "cpu",
        offload_parameters=trainer.offload.parameters == "cpu",
    )


def time_push(run: RLRun, work: ModelWork, device: Device) -> PushTime:
    """Return the time of an update: a copy to the first rank's host, then one broadcast to all engines.

    A broadcast sends each byte once through the sender's link, however many receive it; meanwhile the next packet comes
    from the host, so the slower of the two counts. Colocated, an engine reads the weights from the host.
    """
    spec = run.spec
    num_bytes = work.trained_parameters * spec.model.item_bytes
    copy = num_bytes / PCIE_BANDWIDTH
    if spec.trainer.zero_stage == 3:
        link = device.link_bandwidth if spec.trainer.replicas == 1 else device.network_bandwidth
        copy += num_bytes / (link * LINK_SHARE)
    if spec.generator.colocated:
        return PushTime(num_bytes, copy, num_bytes / PCIE_BANDWIDTH)
    gpus = spec.trainer.ranks + count_generator_gpus(run)
    link = device.link_bandwidth if gpus <= device.gpus_per_node else device.network_bandwidth
    return PushTime(num_bytes, copy, num_bytes / min(link * LINK_SHARE, PCIE_BANDWIDTH))


def time_checkpoint(run: RLRun, work: ModelWork) -> CheckpointTime:
    """Return the size and the pause of a checkpoint. Each rank copies its share; the weights are the first rank's."""
    spec = run.spec
    item = spec.model.item_bytes
    own = work.trained_parameters * (OPTIMIZER_STATE_BYTES / spec.trainer.ranks + item)
    every, evals = spec.checkpoint.every_steps, spec.budget.eval_every_steps
    per_step = 1 / every + 1 / evals - 1 / math.lcm(every, evals)
    return CheckpointTime(spec.model.checkpoint_bytes(work.trained_parameters), own / PCIE_BANDWIDTH, per_step)


def time_evaluation(run: RLRun, demand: Demand, supply: Supply) -> EvalTime:
    """Return the time of an evaluation beside the training (docs/evaluations.md).

    Leased engines sample nothing else, and the training has the others. Of a single engine it has a share of the
    sequences; both slow each other.
    """
    spec, load = run.spec, measure_eval_load(run.spec, {})
    leased = min(count_leases(supply.engines, spec.budget.eval_share), load.eval_prompts)
    if supply.engines > 1:
        own, rest = replace(supply, engines=leased), replace(supply, engines=supply.engines - leased)
    else:
        own, rest = _share_engine(supply, load.engine_share)
    return EvalTime(
        prompts=load.eval_prompts,
        samples=load.eval_samples,
        engines=leased,
        seconds=drain_seconds(demand.lengths, load.eval_samples, own),
        share=load.needed_share,
        interval_seconds=_count_interval(run) * _time_any_step(run, demand, rest).seconds,
        deadline_seconds=spec.deadlines.eval_seconds,
        last_seconds=drain_seconds(demand.lengths, load.eval_samples, supply),
    )


def _share_engine(supply: Supply, share: float) -> tuple[Supply, Supply]:
    """Return what an evaluation and the training have of the same engine, where both are full."""
    token_seconds, each = supply.token_seconds, supply.max_sequences
    own = max(1.0, share * each)
    left = max(1.0, each - own)
    return (
        replace(supply, max_sequences=own, token_seconds=lambda running: token_seconds(running + left)),
        replace(supply, max_sequences=left, token_seconds=lambda running: token_seconds(running + own)),
    )


def _count_interval(run: RLRun) -> int:
    """Return the steps from one evaluation to the next."""
    return min(run.spec.budget.eval_every_steps, run.spec.budget.steps)


def mean_step_seconds(step: StepTime, evaluation: EvalTime, interval: int) -> float:
    """Return a step's seconds on average over the `interval` of steps between two evaluations.

    Steps are slower while an evaluation has its engines, and `step` after that.
    """
    slow = evaluation.interval_seconds / interval
    beside = min(evaluation.seconds, evaluation.limit_seconds) / slow
    return (beside * slow + (interval - beside) * step.seconds) / interval


def time_budget(run: RLRun, step_seconds: float, evaluation: EvalTime) -> BudgetTime:
    """Return the whole run: the steps, and the evaluations for which the run waits at its end. Starts do not count."""
    spec, budget = run.spec, run.spec.budget
    gpus = spec.trainer.ranks + count_generator_gpus(run)
    steps = budget.steps
    ends_by: Literal["steps", "gpuHours"] = "steps"
    if budget.gpu_hours is not None:
        allowed = int(budget.gpu_hours * 3600 / gpus // step_seconds)
        if allowed < steps:
            steps, ends_by = allowed, "gpuHours"
    alone = 1 + (math.ceil(steps / budget.eval_every_steps) if evaluation.is_repeated else 0)
    seconds = steps * step_seconds + alone * evaluation.last_seconds
    return BudgetTime(seconds, gpus, seconds * gpus / 3600, steps, ends_by)


def _time_any_step(run: RLRun, demand: Demand, supply: Supply) -> StepTime:
    return _time_colocated(demand, supply) if run.spec.generator.colocated else time_step(demand, supply)


def _time_colocated(demand: Demand, supply: Supply) -> StepTime:
    """Return the step where one device does both: their times add, as each uses the whole device."""
    generate = demand.tokens / supply.rate(supply.max_sequences) + supply.stall_seconds
    seconds = supply.train_seconds + generate
    return StepTime(seconds, "turns", supply.train_seconds, generate, supply.max_sequences * generate / seconds)
