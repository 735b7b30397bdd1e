"""Builds the fleet's options from the environment and the run. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scalerl_api import RLRun
from scalerl_api.recipe import Recipe
from scalerl_api.wire import (
    ENV_ACCEPT_DATA,
    ENV_ATTEMPT,
    ENV_CLUSTER,
    ENV_FOLDER,
    ENV_NODE,
    ENV_PORT,
    ENV_REPLICAS,
    ENV_SPEC,
    ENV_TERMINATION_FILE,
    ENV_TOKEN_FILE,
)
from scalerl_runtime.actors.fleet import FleetOptions
from scalerl_runtime.actors.generator import EngineOptions
from scalerl_runtime.actors.trainer import TrainerOptions
from scalerl_runtime.weights.buckets import Transport


@dataclass(frozen=True)
class Environment:
    """The coordinator's environment, as the actuator sets it: names and paths."""

    spec: Path
    folder: Path
    attempt: int
    port: int
    token_file: Path
    termination_file: Path
    cluster: str | None = None
    """Address of Ray's head where the run is spread over pods; None: a cluster of this process."""
    replicas: int | None = None
    """Trainer pods of this attempt, where they are fewer than the spec has."""
    accepted_data: str = ""
    """Digest of other data, tokenizer and model than the checkpoint's to resume with; ACCEPT_DATA: any."""
    node: str = ""
    """Name of the pod's node; empty without pods."""

    @classmethod
    def parse(cls, variables: Mapping[str, str]) -> "Environment":
        """Read the wire's variables. Raises KeyError with the missing one's name."""
        return cls(
            spec=Path(variables[ENV_SPEC]),
            folder=Path(variables[ENV_FOLDER]),
            attempt=int(variables.get(ENV_ATTEMPT, "1")),
            port=int(variables.get(ENV_PORT, "0")),
            token_file=Path(variables[ENV_TOKEN_FILE]),
            termination_file=Path(variables[ENV_TERMINATION_FILE]),
            cluster=variables.get(ENV_CLUSTER) or None,
            replicas=int(variables[ENV_REPLICAS]) if ENV_REPLICAS in variables else None,
            accepted_data=variables.get(ENV_ACCEPT_DATA, ""),
            node=variables.get(ENV_NODE, ""),
        )


def apply_replicas(run: RLRun, replicas: int | None) -> RLRun:
    """Return the run of an attempt with `replicas` trainer pods; None: as the spec has it. Ranks and compute follow."""
    if replicas is None:
        return run
    trainer = run.spec.trainer.model_copy(update={"replicas": replicas})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"trainer": trainer})})


def context_tokens(recipe: Recipe) -> int:
    """Return the length limit of prompt and completion together."""
    return recipe.length.prompt_tokens + recipe.length.completion_tokens


def build_fleet_options(
    run: RLRun, recipe: Recipe, model: str, *, num_cpus: int, stop_ids: tuple[int, ...]
) -> FleetOptions:
    """Return the fleet's options.

    Args:
        run, recipe: the run and its recipe, resolved.
        num_cpus: on a CPU the processes share them evenly.
        stop_ids: tokens that end a completion.
    """
    spec = run.spec
    transport = choose_transport(run)
    threads = max(1, num_cpus // (spec.trainer.ranks + spec.generator.min_replicas))
    return FleetOptions(
        trainer=TrainerOptions(
            model=model,
            dtype=spec.model.dtype,
            head=recipe.head,
            zero_stage=spec.trainer.zero_stage,
            optimizer=recipe.optimizer,
            loss=recipe.loss,
            temperature=recipe.temperature,
            seed=spec.seed,
            device="cuda" if spec.trainer.gpus_per_replica else "cpu",
            transport=transport,
            cpu_threads=threads,
            sequence_parallel=spec.trainer.sequence_parallel,
            router_replay=recipe.router_replay,
            activations=spec.trainer.activations,
            lora=spec.model.lora,
            offload=spec.trainer.offload,
            deepspeed=spec.trainer.deepspeed,
        ),
        engine=_build_engine_options(run, recipe, model, threads=threads, stop_ids=stop_ids),
        ranks=spec.trainer.ranks,
        kv_cache=recipe.asynchrony.kv_cache,
        transport=transport,
        colocated=spec.generator.colocated,
    )


def _build_engine_options(
    run: RLRun, recipe: Recipe, model: str, *, threads: int, stop_ids: tuple[int, ...]
) -> EngineOptions:
    spec = run.spec
    return EngineOptions(
        model=model,
        dtype=spec.model.dtype,
        head=recipe.head,
        context_tokens=context_tokens(recipe),
        max_sequences=spec.generator.max_sequences,
        tensor_parallel=spec.generator.gpus_per_replica,
        gpu_memory_share=spec.generator.gpu_memory_share,
        kv_cache_megabytes=spec.generator.kv_cache_megabytes,
        temperature=recipe.temperature,
        phrase=recipe.length.forced_phrase if recipe.length.control == "interruption" else None,
        tags=(recipe.length.think_tags.open, recipe.length.think_tags.close),
        stop_ids=stop_ids,
        router_replay=recipe.router_replay,
        lora=spec.model.lora,
        seed=spec.seed,
        transport=choose_transport(run),
        cpu_threads=threads,
        engine_args=spec.generator.engine_args,
    )


def choose_transport(run: RLRun) -> Transport:
    """NCCL between devices; gloo on CPUs, on a device that trainer and engine share, and for adapters.

    Adapters are small, and vLLM's own transfer loads weights of a model only.
    """
    spec = run.spec
    is_native = spec.trainer.gpus_per_replica and not spec.generator.colocated and spec.model.lora is None
    return "nccl" if is_native else "gloo"
