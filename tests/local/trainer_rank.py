"""One trainer rank: `work(CASE.json, rank, port, output)` leaves its losses and weights beside CASE; and others."""

import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalerl_api.recipe import Loss, Optimizer
from scalerl_api.rlrun import LoraSpec
from scalerl_api.trainer_spec import TrainerOffload
from scalerl_runtime.actors import trainer as trainer_module
from scalerl_runtime.actors.trainer import Trainer, TrainerOptions
from scalerl_runtime.algorithm.microbatch import TrainSequence, build_micro_batch
from scalerl_runtime.algorithm.step import pack
from scalerl_runtime.weights.buckets import GlooSender, broadcast, gloo_group
from scalerl_runtime.weights.staged_copy import StagedCopy

sys.path.insert(0, str(Path(__file__).parents[2] / "bench/runtime"))
from live_memory import LiveMemory  # noqa: E402
from trainer_ranks import staged_weights  # noqa: E402


def make_sequences(rng: np.random.Generator, count: int, vocabulary: int) -> list[TrainSequence]:
    """Random sequences of unequal length, advantages of both signs, weights that sum to one over the batch."""
    lengths = rng.integers(6, 30, size=count)
    trained = sum(int(length) - 4 for length in lengths)
    return [
        TrainSequence(
            tokens=rng.integers(0, vocabulary, size=length).astype(np.int32),
            trained=np.arange(length) >= 4,
            logp_gen=np.full(length, -4.6, dtype=np.float32),
            advantage=float(rng.normal()),
            weight=1.0 / trained,
            lag=np.zeros(length, dtype=np.int32),
        )
        for length in lengths
    ]


def start_trainer(case: dict[str, Any], rank: int, port: int, output: Path) -> Trainer:
    """The rank's trainer, in a process of its own; what it prints goes to `output`."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    options = TrainerOptions(
        model=case["model"],
        dtype=case.get("dtype", "float32"),
        head="fp32",
        zero_stage=case["stage"],
        optimizer=Optimizer(learning_rate=1e-3, warmup_steps=0, epsilon=case.get("epsilon", 1e-8)),
        loss=Loss(),
        temperature=1.0,
        seed=0,
        device="cpu",
        sequence_parallel=case.get("parts", 1),
        activations=case.get("activations", "checkpoint"),
        lora=LoraSpec(**case["lora"]) if "lora" in case else None,
        offload=TrainerOffload(**case.get("offload", {})),
        deepspeed=case.get("deepspeed", {}),
    )
    trainer = Trainer(options, rank, case["ranks"])
    trainer.start("127.0.0.1", port)
    return trainer


def sum_gradients(path: Path, rank: int, port: int, output: Path) -> None:
    """Leave the gradients' norms of the case's `sums`: equal micro-batches of each rank, their number and weight."""
    case = json.loads(path.read_text())
    norms = []
    for stage in case["stages"]:
        trainer = start_trainer({**case, "stage": stage}, rank, port, output)
        (sequence,) = make_sequences(np.random.default_rng(7), 1, 90)
        for count, weight in (each[rank] for each in case["sums"]):
            batch = build_micro_batch([replace(sequence, weight=weight)])
            norms.append(trainer.train_supervised([batch] * count, learning_rate=0.0).grad_norm)
    path.with_suffix(f".{rank}.norms").write_text(json.dumps(norms))


def watch_loading(path: Path, rank: int, port: int, output: Path) -> None:
    """Leave the numbers of a model and of its largest tensor, and the most that the rank held at a time."""
    case = json.loads(path.read_text())
    loaded: list[torch.nn.Parameter] = []
    loading, checking = [0], [0]

    def held() -> int:
        return sum(each.numel() + (each.ds_tensor.numel() if hasattr(each, "ds_tensor") else 0) for each in loaded)

    def make_place(*arguments: Any) -> Any:
        place = real_make_place(*arguments)

        def watch(parameter: torch.nn.Parameter) -> None:
            loaded.append(parameter)
            loading.append(held())
            place(parameter)

        return watch

    @contextmanager
    def gathered(self: Trainer, parameters: Any) -> Any:
        with real_gathered(self, parameters):
            checking.append(held())
            yield

    real_make_place, real_gathered = trainer_module._make_place, Trainer._gathered
    trainer_module._make_place, Trainer._gathered = make_place, gathered
    start_trainer(case, rank, port, output)
    sizes = [getattr(each, "ds_numel", each.numel()) for each in loaded]
    found = {"all": sum(sizes), "largest": max(sizes), "loading": max(loading), "checking": max(checking)}
    path.with_suffix(f".{rank}.held").write_text(json.dumps(found))


def work(path: Path, rank: int, port: int, output: Path) -> None:
    """Be the rank: train, and leave losses and weights."""
    case = json.loads(path.read_text())
    trainer = start_trainer(case, rank, port, output)
    frozen = frozen_weights(trainer)
    losses = []
    for step in range(4):
        if case.get("without") == step:
            trainer.set_version(step + 1)
            continue
        sequences = make_sequences(np.random.default_rng(step), 12, 90)
        if case.get("poison") == step:
            sequences[0].logp_gen[:] = np.nan
        if case.get("check"):  # what the self-check does between two steps; no update may differ for it
            rows = [build_micro_batch(sequences[:5])]
            logps = trainer.logprobs(rows, step)
            again = trainer.logprobs(rows, step)
            assert (logps == again).all()
            assert (logps < 0).all()
        packed = pack(sequences, budget=case["budget"], ranks=case["ranks"], quadratic=0.0)
        rate = case.get("rate", 1e-3)
        result = trainer.train(packed.batches[rank], learning_rate=rate, kl_coefficient=0.0, version=step + 1)
        losses.append([result.stats.loss, result.grad_norm, len(packed.batches[rank])])
    assert bool(frozen) == ("lora" in case)
    assert all(torch.equal(value, frozen[name]) for name, value in frozen_weights(trainer).items())
    trainer.stage_weights(reuse=True)
    assert trainer.stage_weights(reuse=True).version == 4
    weights = staged_weights(trainer)
    if rank == 0:
        torch.save(weights, path.with_suffix(".weights"))
    path.with_suffix(f".{rank}.losses").write_text(json.dumps(losses))


def frozen_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of this rank's shares of the weights that are not trained."""
    return {
        name: getattr(each, "ds_tensor", each).detach().clone()
        for name, each in trainer._engine.module.named_parameters()
        if not each.requires_grad
    }


def train_on(trainer: Trainer, first: int, last: int) -> list[float]:
    """Train the steps from `first` to before `last`; return this rank's losses."""
    losses, parts = [], trainer.options.sequence_parallel
    for step in range(first, last):
        sequences = make_sequences(np.random.default_rng(step), 12, 90)
        packed = pack(sequences, budget=60, ranks=trainer.world_size // parts, quadratic=0.0)
        batches = packed.batches[trainer.rank // parts]
        result = trainer.train(batches, learning_rate=1e-3, kl_coefficient=0.0, version=step + 1)
        losses.append(result.stats.loss / parts)  # the ranks of a group return the same
    return losses


def save_and_go_on(path: Path, rank: int, port: int, output: Path) -> None:
    """For each of the case's trainers: save after two steps, twice, train on while it is written, and leave it all.

    The first one, before any step, has no moments.
    """
    cases = json.loads(path.read_text())
    for name, case in cases["trainers"].items():
        trainer = start_trainer({**cases, **case}, rank, port, output)
        for step in (0, 2):
            train_on(trainer, max(0, step - 2), step)
            random = torch.get_rng_state()
            trainer.copy_state()
            saved = staged_weights(trainer)
            folder = Path(case["folder"]) / str(step)
            if case.get("older"):  # as older versions wrote it
                state = {"torch_rng": torch.get_rng_state()}
                trainer._engine.save_checkpoint(str(folder), tag="deepspeed", client_state=state)
        losses = train_on(trainer, 2, 4)
        assert torch.equal(random, torch.get_rng_state()), "training draws from torch's generator"
        part = None if case.get("older") else trainer.write_copy(folder)  # two steps later
        found = {"losses": losses, "saved": saved, "end": staged_weights(trainer), "part": part}
        torch.save(found, path.with_suffix(f".{name}.{rank}.pt"))


def load_and_go_on(path: Path, rank: int, port: int, output: Path) -> None:
    """For each of the case's trainers and all checkpoints it may load: load, and leave the same."""
    cases = json.loads(path.read_text())
    for name, case in cases["trainers"].items():
        trainer = start_trainer({**cases, **case}, rank, port, output)
        train_on(trainer, 0, 1)  # what was there before leaves no trace
        for writer, folder in case["loads"].items():
            assert trainer.find_damage(Path(folder)) is None
            trainer.load(Path(folder), 2)
            loaded = staged_weights(trainer)
            losses = train_on(trainer, 2, 4)
            found = {"losses": losses, "saved": loaded, "end": staged_weights(trainer)}
            torch.save(found, path.with_suffix(f".{name}.{writer}.{rank}.pt"))


def push_and_go_on(path: Path, rank: int, port: int, output: Path) -> None:
    """For each of the case's trainers: stage, send to a receiver while training goes on, and leave what arrived.

    `extra`: the most bytes that the ranks allocate while they stage, beside what is there for good.
    """
    cases = json.loads(path.read_text())
    for name, case in cases["trainers"].items():
        trainer = start_trainer({**cases, **case}, rank, port, output)
        trainer._staged = StagedCopy(
            trainer._copies.plan(limit=cases["limit"]), case["transport"], trainer._engine.device
        )
        trainer.stage_weights(reuse=True)  # takes its memory
        train_on(trainer, 0, 2)
        counted = LiveMemory()
        counted.watch_all()
        before = counted.now
        with counted:
            staged = trainer.stage_weights(reuse=True)
        found = {"extra": counted.peaks["start"] - before, "largest": largest_bytes(trainer), "version": staged.version}
        found["held"] = held_weights(trainer)
        receiver, arrived = None, list[torch.Tensor]()
        if rank == 0:
            found["sums"] = trainer.sum_weights()
            receiver = threading.Thread(target=send_to_thread, args=(trainer, arrived))
            receiver.start()
        train_on(trainer, 2, 4)
        if receiver is not None:
            receiver.join(60)
            found["arrived"] = [arrived, staged.buckets]
        found["end"] = held_weights(trainer)
        torch.save(found, path.with_suffix(f".{name}.{rank}.pt"))


def held_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The trainer's own weights, each gathered by itself."""
    found = {}
    for name, tensor in trainer._copies.tensors().items():
        with trainer._gathered([tensor]):
            found[name] = tensor.detach().clone()
    return found


def largest_bytes(trainer: Trainer) -> int:
    return max(entry.num_bytes for bucket in trainer._staged.buckets for entry in bucket.entries)


def send_to_thread(trainer: Trainer, arrived: list[torch.Tensor]) -> None:
    """Send what is staged to another thread over gloo, a bucket at a time; it waits before each one."""
    _, port = trainer.address()

    def receive() -> None:
        group = gloo_group("127.0.0.1", port, rank=1, world_size=2, timeout_seconds=60)
        for bucket in trainer._staged.buckets:
            time.sleep(0.02)  # training makes its steps meanwhile
            arrived.append(torch.empty(bucket.num_bytes, dtype=torch.uint8))
            broadcast(group, arrived[-1])

    thread = threading.Thread(target=receive)
    thread.start()
    trainer._sender = GlooSender("127.0.0.1", port, world_size=2, timeout_seconds=60)
    trainer.send_weights()
    thread.join(60)
