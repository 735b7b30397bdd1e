"""One rank of the trainer gang: a causal LM under DeepSpeed ZeRO. I/O."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scalerl_api import InvalidRun
from scalerl_api.passthrough import merge_settings
from scalerl_api.recipe import Loss, Optimizer
from scalerl_api.rlrun import LoraSpec
from scalerl_api.trainer_spec import TrainerOffload
from scalerl_runtime.actors.activations import Activations, arrange_activations
from scalerl_runtime.actors.policy import Policy, build_optimizer
from scalerl_runtime.actors.sequence.sequence_group import join
from scalerl_runtime.actors.sharded_loading import Place, gathered_by_layer, load_model
from scalerl_runtime.actors.start_check import make_checked_policy
from scalerl_runtime.actors.weight_copies import AdapterCopies, WeightCopies, count_parameters
from scalerl_runtime.algorithm.loss import LossStats, objective, supervised_objective
from scalerl_runtime.algorithm.microbatch import MicroBatch
from scalerl_runtime.algorithm.results import StepResult
from scalerl_runtime.export.model_files import save_config
from scalerl_runtime.models.adapters import add_adapters
from scalerl_runtime.models.dimensions import attention_width
from scalerl_runtime.models.router_replay import RouterReplay
from scalerl_runtime.models.source import find_model
from scalerl_runtime.models.weight_names import check_loading
from scalerl_runtime.preflight.rank import RankReading, Rendezvous, measure_rank
from scalerl_runtime.storage.checkpoint import find_damaged_part
from scalerl_runtime.storage.deepspeed_layout import is_old_layout, load_old
from scalerl_runtime.storage.trainer_state import HostCopy, RankPart, TrainerState, load_state
from scalerl_runtime.types import Floats
from scalerl_runtime.weights.buckets import GlooSender, StagedWeights, Transport, WeightSender
from scalerl_runtime.weights.staged_copy import StagedCopy

MISMATCH_TOKENS = 16_384  # per rank and step that are reported one by one, the first ones; enough for a 95th percentile

# bf16 sums over micro-batches and ranks lose small gradients, which AdamW turns into full steps.
FLOAT32_SUMS = {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}


@dataclass(frozen=True)
class TrainerOptions:
    """How to start a rank."""

    model: str  # folder or hub id
    dtype: Literal["float32", "bfloat16"]
    head: Literal["fp32", "bf16"]
    zero_stage: Literal[1, 2, 3]
    optimizer: Optimizer
    loss: Loss
    temperature: float
    seed: int
    device: Literal["cpu", "cuda"]
    transport: Transport = "gloo"  # from device to device, or between hosts; the copy that is sent is in host memory
    cpu_threads: int = 1
    sequence_parallel: int = 1  # ranks that share each row, a part each
    router_replay: bool = False  # routers use the experts of a row where it has some
    activations: Activations = "checkpoint"
    lora: LoraSpec | None = None  # adapters are trained, and sent, in place of the weights
    offload: TrainerOffload = TrainerOffload()
    deepspeed: Mapping[str, Any] = field(default_factory=dict)  # the user's settings, none of which is set here


class Trainer:
    """A trainer rank.

    Every method but `address` is called on all ranks with the same arguments unless stated otherwise.
    """

    def __init__(self, options: TrainerOptions, rank: int, world_size: int):
        self.options = options
        self.rank = rank
        self.world_size = world_size
        self._version = 0  # optimizer steps behind the weights; travels with every copy of them
        self._sender: WeightSender | None = None
        self._host_copy = HostCopy()  # of the next checkpoint

    def address(self) -> tuple[str, int]:
        """Return this host and a free port on it; rank 0's are the rendezvous."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return _own_address(), port

    def measure(self, address: str, port: int, seconds: float) -> RankReading:
        """Measure this rank's device and network, before `start`. Raises PreflightFailed."""
        torch.set_num_threads(self.options.cpu_threads)
        return measure_rank(Rendezvous(address, port, self.rank, self.world_size, seconds), self.options.device)

    def start(self, address: str, port: int) -> None:
        """Join the gang, load the model and build the engine."""
        options = self.options
        os.environ.update(
            MASTER_ADDR=address,
            MASTER_PORT=str(port),
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world_size),
            LOCAL_RANK="0",  # Ray shows each rank one device only
            DS_ACCELERATOR=options.device,
        )
        torch.set_num_threads(options.cpu_threads)
        import deepspeed

        # DeepSpeed would compile this at the first start, for two minutes, and the ranks of one host hardly gain by it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        torch.manual_seed(options.seed)
        deepspeed.init_distributed(dist_backend="nccl" if options.device == "cuda" else "gloo", verbose=False)
        config = _deepspeed_config(options, self.world_size)
        policy = self._load_policy(config)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=policy,
            optimizer=build_optimizer(policy, options.optimizer, on_host=options.offload.optimizer == "cpu"),
            config=config,
            dist_init_required=False,
        )
        self._staged = StagedCopy(self._copies.plan(), options.transport, self._engine.device)

    def _load_policy(self, config: dict[str, Any]) -> Policy:
        """Load the model and check it; it is in shares under ZeRO-3."""
        options = self.options
        place = _make_place(options, config)
        model, info = load_model(find_model(options.model), options.model, getattr(torch, options.dtype), place)
        if faults := check_loading(options.model, info):
            raise InvalidRun(faults)
        self._num_parameters = count_parameters(model)
        self._copies = self._add_adapters(model, place) if options.lora is not None else WeightCopies(model)
        policy = make_checked_policy(
            model,
            precision=options.head,
            temperature=options.temperature,
            device=options.device,
            running=partial(gathered_by_layer, gathering=self._gathered),
            group=join(self.rank, self.world_size, options.sequence_parallel),
        )
        if options.router_replay:
            policy.replay = RouterReplay(policy.model)
        arrange_activations(policy.model, options.activations)
        return policy

    def _add_adapters(self, model: Any, place: Place) -> AdapterCopies:
        assert self.options.lora is not None
        adapters = add_adapters(model, self.options.lora, seed=self.options.seed)
        for parameter in adapters.values():
            place(parameter)
        return AdapterCopies(model, adapters)

    def train(
        self, batches: Sequence[MicroBatch], *, learning_rate: float, kl_coefficient: float, version: int
    ) -> StepResult:
        """Run one optimizer step on this rank's micro-batches; every rank gets the same number of them.

        Ranks that share rows get the same ones, and return the same result. The weights are of `version` afterwards.
        """

        def loss(batch: dict[str, Tensor], logp: Tensor, entropy: Tensor) -> tuple[Tensor, LossStats]:
            return objective(
                self.options.loss,
                kl_coefficient,
                logp,
                batch["logp_gen"],
                entropy,
                batch["advantage"],
                batch["completion"],
                batch["weight"] != 0.0,  # no token of a stand-in row
                batch["weight"],
            )

        result = self._step(batches, loss, learning_rate)
        self._version = version
        return result

    def set_version(self, version: int) -> None:
        """Set the version of the present weights: a step without a trained token advances it too."""
        self._version = version

    def train_supervised(self, batches: Sequence[MicroBatch], *, learning_rate: float) -> StepResult:
        """Run one supervised step; its loss is minus the weighted log-likelihood of the trained tokens."""

        def loss(batch: dict[str, Tensor], logp: Tensor, entropy: Tensor) -> tuple[Tensor, LossStats]:
            return supervised_objective(logp, entropy, batch["weight"])

        return self._step(batches, loss, learning_rate)

    def logprobs(self, batches: Sequence[MicroBatch], version: int) -> Floats:
        """Return the log-probability (nats) of every target of `batches`, in order; nothing is learned from them.

        Raises RuntimeError if the weights are not of `version`.
        """
        if version != self._version:
            raise RuntimeError(f"the trainer's weights are of version {self._version}; need {version}")
        with torch.no_grad():
            found = [self._forward(_to_device(batch, self._engine.device))[0].cpu().numpy() for batch in batches]
        logps: Floats = np.concatenate(found).astype(np.float32)
        return logps

    def _forward(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logp, entropy = self._engine(
            *(tensors[name] for name in ("tokens", "positions", "cu_seqlens", "select", "targets")),
            tensors.get("experts"),
        )
        return logp, entropy

    def _step(self, batches: Sequence[MicroBatch], loss: Any, learning_rate: float) -> StepResult:
        began = time.monotonic()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        stats, logps = [], []
        for index, batch in enumerate(batches):
            self._engine.set_gradient_accumulation_boundary(index == len(batches) - 1)
            tensors = _to_device(batch, self._engine.device)
            logp, entropy = self._forward(tensors)
            value, sums = loss(tensors, logp, entropy)
            # DeepSpeed averages over ranks; the weights already make the sum over ranks the whole objective.
            self._engine.backward(value * self.world_size, scale_wrt_gas=False)
            stats.append(sums)
            logps.append(logp.detach().cpu().numpy())
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return StepResult(
            stats=sum(stats, LossStats()),
            grad_norm=float(norm if norm is not None else float("nan")),
            seconds=time.monotonic() - began,
            tokens=sum(len(b.tokens) for b in batches if not b.is_stand_in),
            logp=np.concatenate(logps)[:MISMATCH_TOKENS],
            logp_gen=np.concatenate([b.logp_gen for b in batches])[:MISMATCH_TOKENS],
            lag=np.concatenate([b.lag for b in batches])[:MISMATCH_TOKENS],
        )

    def reset_optimizer(self) -> None:
        """Reset AdamW's moments: those of the supervised stage belong to far larger gradients."""
        inner = getattr(self._optimizer, "optimizer", self._optimizer)
        for state in inner.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()

    def quadratic_work(self) -> float:
        """Return layers * heads * head dimension / parameters.

        The work of attention per squared token over that of the rest per token.
        """
        config = self._engine.module.model.config
        return attention_width(config) / self._num_parameters

    def stage_weights(self, *, reuse: bool) -> StagedWeights:
        """Copy the weights into buckets in rank 0's host memory; return what is staged.

        Under ZeRO-3 the ranks gather bucket by bucket, so it runs on all of them. No generator is waited for:
        the copy is sent while the next step trains.

        Args:
            reuse: write into the memory of the copy before, which no engine reads any more.
        """
        began = time.monotonic()
        if self.rank == 0:
            self._staged.take(partial(self._copies.copy, self._gathered), reuse=reuse)
        else:
            self._copies.copy(self._gathered, None)
        return StagedWeights(self._version, self._staged.buckets, time.monotonic() - began, self._staged.handle)

    def _gathered(self, parameters: Sequence[nn.Parameter]) -> Any:
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(parameters), enabled=self.options.zero_stage == 3)

    def join_weights(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        """Rank 0 only: open the transfer group of an epoch, and leave the previous one."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self.options.transport == "nccl":
            from scalerl_runtime.weights.nccl_sender import NcclSender

            torch.cuda.set_device(self._engine.device)  # Ray's threads begin with the default
            self._sender = NcclSender(address, port, world_size=world_size, timeout_seconds=timeout_seconds)
        else:
            self._sender = GlooSender(address, port, world_size=world_size, timeout_seconds=timeout_seconds)

    def sum_weights(self) -> tuple[int, ...]:
        """Rank 0 only: return checksums of the staged parameters, in order; runs in parallel with training."""
        return self._staged.sums()

    def send_weights(self) -> float:
        """Rank 0 only: send the staged buckets; return the seconds taken. Raises RuntimeError on a dead peer."""
        if self._sender is None:
            raise RuntimeError("no transfer group is open")
        began = time.monotonic()
        self._sender.send(self._staged.buckets, self._staged.flats)
        return time.monotonic() - began

    def copy_state(self) -> float:
        """Copy this rank's share of a checkpoint to host memory; return the seconds. Training may go on then."""
        began = time.monotonic()
        self._host_copy.take(self._state(), self._gathered, version=self._version, zero_stage=self.options.zero_stage)
        return time.monotonic() - began

    def write_copy(self, folder: Path) -> RankPart:
        """Write what `copy_state` copied under `folder`; runs in parallel with training."""
        if self.rank == 0:
            save_config(self._engine.module.model, folder, self.options.dtype)
        return self._host_copy.write(folder)

    def find_damage(self, folder: Path) -> str | None:
        """Compare this rank's share of the files with the manifest; return what differs."""
        return find_damaged_part(folder, self.rank, self.world_size)

    def load(self, folder: Path, version: int) -> None:
        """Load the checkpoint of `version`, which any number of ranks of any stage wrote.

        Raises InvalidRun on one of an older layout that other ranks wrote, ShardsError on one of another model.
        """
        if is_old_layout(folder):
            load_old(folder, self._engine, ranks=self.world_size, is_sharded=self.options.zero_stage == 3)
        else:
            load_state(folder, self._state())
        self._version = version

    def _state(self) -> TrainerState:
        return TrainerState(self._optimizer, self._copies.tensors(), self.rank, self.world_size)


def _own_address() -> str:
    """Return this host's address for its peers; the loopback if there is no other."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def _make_place(options: TrainerOptions, config: dict[str, Any]) -> Place:
    """Return what is done with a parameter that was loaded: it is cut into shares under ZeRO-3, else moved."""
    import deepspeed

    if options.zero_stage == 3:
        init = deepspeed.zero.Init(config_dict_or_path=config)  # not entered: modules are built as usual
        return lambda parameter: init._convert_to_zero_parameters([parameter])

    def move(parameter: nn.Parameter) -> None:
        parameter.data = parameter.data.to(options.device)

    return move


def _deepspeed_config(options: TrainerOptions, world_size: int) -> dict[str, Any]:
    is_coarse = options.dtype == "bfloat16"
    # DeepSpeed's stage 1 with float32 sums holds those of the whole model on every rank, and applies an update of nan.
    stage = 2 if is_coarse and options.zero_stage == 1 else options.zero_stage
    own = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the boundary is set by hand: the number of micro-batches varies
        "train_batch_size": world_size,
        "gradient_clipping": options.optimizer.grad_clip,
        # Without the check an update that is no number would be applied in bf16; in float32 DeepSpeed always checks.
        "bf16": {"enabled": is_coarse, "check_grad_overflow": True},
        **FLOAT32_SUMS,
        "zero_allow_untested_optimizer": True,  # torch's AdamW; DeepSpeed's own needs a compiler at run time
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": options.device == "cuda",
            "offload_optimizer": {"device": options.offload.optimizer},
            "offload_param": {"device": options.offload.parameters},
        },
        "steps_per_print": 2**31 - 1,
    }
    return merge_settings(own, options.deepspeed)


def _to_device(batch: MicroBatch, device: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).to(device) for name, array in vars(batch).items() if array is not None}
