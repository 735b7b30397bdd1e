"""Whether a run fits its devices, and what to change: each change is tried by the same arithmetic."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from scalerl_api import Fault, RLRun
from scalerl_api.validation import check_run
from scalerl_operator.capacity.devices import GIB, Device
from scalerl_operator.capacity.engine_memory import EngineMemory, engine_memory
from scalerl_operator.capacity.memory import RankMemory, trainer_memory
from scalerl_operator.capacity.model_shape import ModelShape

MAX_SUGGESTIONS = 3
USUAL_SHARE = 0.9
TRAINER_PATH, ENGINE_PATH = "spec.trainer", "spec.generator"


@dataclass(frozen=True)
class SpecChange:
    """A change of the spec, and the run with it."""

    text: str
    run: RLRun


@dataclass(frozen=True)
class RunFit:
    """Memory of a run's processes on one kind of device."""

    trainers: tuple[RankMemory, ...]
    """Rank 0, and the others where there are any; none for a trainer on CPUs."""
    engine: EngineMemory | None
    """None: engines on CPUs."""
    faults: tuple[Fault, ...]
    trainer_changes: tuple[SpecChange, ...]
    """The mildest first; each makes the trainer fit."""
    engine_changes: tuple[SpecChange, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing is refused."""
        return not self.faults


def fit_run(shape: ModelShape, run: RLRun, trainer_device: Device, engine_device: Device | None = None) -> RunFit:
    """Return the memory of a run, what does not fit, and what would.

    Args:
        shape, run: the model and the run.
        trainer_device: of the trainer's pods.
        engine_device: of the generators' pods; None: the same.
    """
    engine_device = engine_device or trainer_device
    trainers, engine = _trainers(shape, run), None
    if run.spec.generator.gpus_per_replica:
        engine = engine_memory(shape, run, engine_device)
    trainer_faults = [*_check_trainers(trainers, run, trainer_device), *_check_node(run, "trainer", trainer_device)]
    engine_faults = [
        *_check_engine(engine, shape, run, engine_device),
        *_check_node(run, "generator", engine_device),
        *_check_colocated(trainers, engine, run, trainer_device),
    ]
    changes: tuple[SpecChange, ...] = ()
    if trainer_faults:
        changes = _first(
            _trainer_changes(run, trainer_device), lambda each: trainer_fits(shape, each.run, trainer_device)
        )
    engine_changes: tuple[SpecChange, ...] = ()
    if engine_faults:
        engine_changes = _first(
            _engine_changes(run, engine_device), lambda each: engine_fits(shape, each.run, engine_device)
        )
    faults = (*_say(trainer_faults, changes), *_say(engine_faults, engine_changes))
    return RunFit(trainers, engine, faults, changes, engine_changes)


def _say(faults: Sequence[Fault], changes: Sequence[SpecChange]) -> list[Fault]:
    """Return the faults with the mildest change."""
    if not changes:
        return list(faults)
    return [Fault(each.path, each.value, f"{each.allowed}. It fits with {changes[0].text}") for each in faults]


def _first(groups: Iterator[Sequence[SpecChange]], fits: Callable[[SpecChange], bool]) -> tuple[SpecChange, ...]:
    """Return the first change of each group that fits, at most MAX_SUGGESTIONS."""
    found: dict[str, SpecChange] = {}
    for group in groups:
        change = next((each for each in group if fits(each) and is_valid(each.run)), None)
        if change is not None:
            found.setdefault(change.text, change)
        if len(found) == MAX_SUGGESTIONS:
            break
    return tuple(found.values())


def is_valid(run: RLRun) -> bool:
    """Whether the rules between fields hold."""
    return next(check_run(run, run.spec.resolved_recipe()), None) is None


def trainer_fits(shape: ModelShape, run: RLRun, device: Device) -> bool:
    """Whether every rank of the trainer fits its device, and a pod its node."""
    return not _check_trainers(_trainers(shape, run), run, device) and not _check_node(run, "trainer", device)


def engine_fits(shape: ModelShape, run: RLRun, device: Device) -> bool:
    """Whether an engine fits its devices with one sequence of full length, and a pod its node."""
    return not _check_engine(engine_memory(shape, run, device), shape, run, device)


def find_devices(shape: ModelShape, run: RLRun, devices: Iterable[Device]) -> dict[str, SpecChange]:
    """Return the devices on which the trainer fits, as it is (a change without text) or with the mildest change."""
    found = {}
    for device in devices:
        groups = chain([[SpecChange("", run)]], _trainer_changes(run, device))
        tried = (
            each for group in groups for each in group if trainer_fits(shape, each.run, device) and is_valid(each.run)
        )
        if (change := next(tried, None)) is not None:
            found[device.name] = change
    return found


def _trainers(shape: ModelShape, run: RLRun) -> tuple[RankMemory, ...]:
    if not run.spec.trainer.gpus_per_replica:
        return ()
    first = trainer_memory(shape, run, is_first=True)
    if run.spec.trainer.ranks == 1:
        return (first,)
    return first, trainer_memory(shape, run, is_first=False)


def _check_trainers(trainers: Sequence[RankMemory], run: RLRun, device: Device) -> list[Fault]:
    worst = max(trainers, key=lambda each: each.total, default=None)
    if worst is None or worst.total <= device.memory_bytes:
        return []
    parts = " + ".join(f"{part.name} {part.num_bytes / GIB:.1f}" for part in worst.parts)
    stage = f"zeroStage {run.spec.trainer.zero_stage} on {run.spec.trainer.ranks} GPUs"
    found = f"{stage}: {worst.role} needs {worst.total / GIB:.1f} GiB ({parts})"
    return [Fault(TRAINER_PATH, found, f"at most {device.memory_bytes / GIB:.1f} GiB, the memory of {device.name}")]


def _check_engine(engine: EngineMemory | None, shape: ModelShape, run: RLRun, device: Device) -> list[Fault]:
    spec = run.spec.generator
    if engine is None:
        return []
    if spec.gpus_per_replica > 1 and shape.heads % spec.gpus_per_replica:
        allowed = f"a divisor of the model's {shape.heads} heads of queries: they are split over an engine's GPUs"
        return [Fault(f"{ENGINE_PATH}.gpusPerReplica", str(spec.gpus_per_replica), allowed)]
    if engine.cache >= engine.sequence_bytes:
        return []
    parts = " + ".join(f"{part.name} {part.num_bytes / GIB:.1f}" for part in engine.parts)
    need = sum(part.num_bytes for part in engine.parts) + engine.sequence_bytes
    found = (
        f"gpusPerReplica {spec.gpus_per_replica}: a GPU needs {need / GIB:.1f} GiB ({parts}"
        f" + cache of one sequence of {engine.sequence_tokens} tokens {engine.sequence_bytes / GIB:.1f})"
    )
    allowed = f"at most {engine.limit / GIB:.1f} GiB, gpuMemoryShare {spec.gpu_memory_share:g} of {device.name}"
    return [Fault(ENGINE_PATH, found, allowed)]


def _check_node(run: RLRun, group: str, device: Device) -> list[Fault]:
    """Refuse a pod with more GPUs than a node has: the plan's device says how many these are."""
    wanted = run.spec.trainer.gpus_per_replica if group == "trainer" else run.spec.generator.gpus_per_replica
    if wanted <= device.gpus_per_node:
        return []
    allowed = f"at most {device.gpus_per_node}, the GPUs of one node with {device.name}"
    return [Fault(f"spec.{group}.gpusPerReplica", str(wanted), allowed)]


def _check_colocated(
    trainers: Sequence[RankMemory], engine: EngineMemory | None, run: RLRun, device: Device
) -> list[Fault]:
    if not run.spec.generator.colocated or engine is None or not trainers:
        return []
    total = trainers[0].total + engine.limit
    if total <= device.memory_bytes:
        return []
    share = run.spec.generator.gpu_memory_share
    found = f"{share:g}: {engine.limit / GIB:.1f} GiB, and the trainer on the same GPU {trainers[0].total / GIB:.1f}"
    rest = max(0.0, (device.memory_bytes - trainers[0].total) / device.memory_bytes)
    allowed = f"at most {rest:.2f}: {device.name} has {device.memory_bytes / GIB:.1f} GiB"
    return [Fault(f"{ENGINE_PATH}.gpuMemoryShare", found, allowed)]


def _trainer_changes(run: RLRun, device: Device) -> Iterator[Sequence[SpecChange]]:
    """Changes of the trainer, the mildest first. Of each group the first that fits is said."""
    alone, together = _with_settings(run)
    yield alone
    yield together
    last = together[-1] if together else alone[-1] if alone else SpecChange("", run)
    sharded = _set_trainer(run, zero_stage=3) if run.spec.trainer.ranks > 1 else run
    stage = "zeroStage: 3, " if sharded.spec.trainer.zero_stage > run.spec.trainer.zero_stage else ""
    on_host = {"optimizer": "cpu"}
    yield [
        SpecChange(f"{stage}offload: {{optimizer: cpu}}", _set_trainer(sharded, offload=on_host)),
        SpecChange(_join(last.text, "offload: {optimizer: cpu}"), _set_trainer(last.run, offload=on_host)),
    ]
    yield _with_more_ranks(run, "", device)
    yield _with_more_ranks(last.run, last.text, device)
    all_on_host = _set_trainer(
        last.run, zero_stage=3, activations="offload", offload={"optimizer": "cpu", "parameters": "cpu"}
    )
    text = "zeroStage: 3, activations: offload, offload: {optimizer: cpu, parameters: cpu}"
    yield [SpecChange(text, all_on_host)]


def _join(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _with_settings(run: RLRun) -> tuple[list[SpecChange], list[SpecChange]]:
    """Each setting alone; and two, three ... of them together, in the same order."""
    trainer, steps = run.spec.trainer, dict[str, dict[str, Any]]()
    longest = run.spec.resolved_recipe().length.sequence_tokens
    if trainer.activations == "keep":
        steps["activations: checkpoint"] = {"activations": "checkpoint"}
    if longest < trainer.micro_batch_tokens:
        steps[f"microBatchTokens: {longest}"] = {"micro_batch_tokens": longest}
    if trainer.zero_stage < 3 and trainer.ranks > 1:
        steps["zeroStage: 3"] = {"zero_stage": 3}
    if trainer.activations != "offload":
        steps["activations: offload"] = {"activations": "offload"}
    alone = [SpecChange(text, _set_trainer(run, **values)) for text, values in steps.items()]
    together, found = SpecChange("", run), []
    for text, values in steps.items():
        together = SpecChange(_join(together.text, text), _set_trainer(together.run, **values))
        found.append(together)
    return alone, found[1:]


def _with_more_ranks(run: RLRun, text: str, device: Device) -> list[SpecChange]:
    """More ranks, on whole nodes, as many as the prompts of a step are a multiple of; weights are shared by all."""
    trainer, found = run.spec.trainer, []
    start = text if trainer.zero_stage == 3 else _join(text, "zeroStage: 3")
    gpus, prompts = device.gpus_per_node, run.spec.resolved_recipe().prompts_per_step
    for replicas in range(1, prompts // gpus + 1):
        is_whole = replicas * gpus % trainer.sequence_parallel == 0
        if is_whole and prompts % (replicas * gpus) == 0 and replicas * gpus >= trainer.ranks:
            more = _set_trainer(run, zero_stage=3, replicas=replicas, gpus_per_replica=gpus)
            found.append(SpecChange(_join(start, f"replicas: {replicas}, gpusPerReplica: {gpus}"), more))
    return found


def _set_trainer(run: RLRun, *, offload: Mapping[str, str] | None = None, **values: Any) -> RLRun:
    trainer = run.spec.trainer
    if offload is not None:
        values["offload"] = trainer.offload.model_copy(update=offload)
    spec = run.spec.model_copy(update={"trainer": trainer.model_copy(update=values)})
    return run.model_copy(update={"spec": spec})


def _engine_changes(run: RLRun, device: Device) -> Iterator[Sequence[SpecChange]]:
    spec = run.spec.generator
    if spec.colocated:
        return
    if spec.gpu_memory_share < USUAL_SHARE:
        yield [SpecChange(f"gpuMemoryShare: {USUAL_SHARE}", _set_engine(run, gpu_memory_share=USUAL_SHARE))]
    gpus = max(1, spec.gpus_per_replica)
    more, less = range(gpus + 1, device.gpus_per_node + 1), range(min(gpus - 1, device.gpus_per_node), 0, -1)
    yield [SpecChange(f"gpusPerReplica: {each}", _set_engine(run, gpus_per_replica=each)) for each in (*more, *less)]


def _set_engine(run: RLRun, **values: object) -> RLRun:
    generator = run.spec.generator.model_copy(update=values)
    return run.model_copy(update={"spec": run.spec.model_copy(update={"generator": generator})})
