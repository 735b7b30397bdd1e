"""A real vLLM engine on the CPU: interruptions, weights in flight, versions, agreement with the trainer."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from scalerl_api import InvalidRun
from scalerl_api.rlrun import ScratchModel
from scalerl_runtime.actors.engine.interface import EngineDied
from scalerl_runtime.actors.generator import EngineOptions, Generator, WeightUpdate
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.algorithm.head import linear_logprob
from scalerl_runtime.algorithm.interruption import Interruption, forced_mask
from scalerl_runtime.data.scratch_model import build_tokenizer, make_scratch_model
from scalerl_runtime.deadlines import PeerDied
from scalerl_runtime.types import EngineOutput, PromptRefused, SamplingRequest
from scalerl_runtime.weights.buckets import WeightBucket, broadcast, bucket_checksums, gloo_group, plan_buckets, view
from scalerl_runtime.weights.packets import fill_packet, plan_packets, send_order
from scalerl_runtime.weights.shared_memory import SharedMemory

PHRASE = "time is up</think>"
CONTEXT = 160
CHUNKED = {"max_num_batched_tokens": 64, "enable_chunked_prefill": True}  # a user's: prompts enter in parts


@dataclass
class Rig:
    """One engine, and a trainer's side made of a plain model."""

    loop: asyncio.AbstractEventLoop
    generator: Generator
    model: torch.nn.Module
    buckets: tuple[WeightBucket, ...]
    group: object
    processes: frozenset[psutil.Process]
    version: int = -1

    def run(self, work: object) -> object:
        return self.loop.run_until_complete(work)  # type: ignore[arg-type]

    def flats(self) -> list[torch.Tensor]:
        weights = dict(self.model.named_parameters())
        flats = []
        for bucket in self.buckets:
            flat = torch.zeros(bucket.num_bytes, dtype=torch.uint8)
            for entry in bucket.entries:
                view(flat, entry).copy_(weights[entry.name].detach())
            flats.append(flat)
        return flats

    async def push(self, kv_cache: str = "keep", *, spoil: bool = False, shared: SharedMemory | None = None) -> None:
        """Send the model's present weights as the next version, as the fleet does; in `shared` if given."""
        flats = self.flats()
        sums = bucket_checksums(self.buckets, flats)
        sums[-1] += int(spoil)
        update = WeightUpdate(self.version + 1, self.buckets, tuple(sums), kv_cache, 30.0)  # type: ignore[arg-type]
        if self.generator.options.transport == "nccl":
            await asyncio.gather(self.generator.receive_and_load(update), asyncio.to_thread(self.send_singly, flats))
        elif shared is not None:
            for place, flat in zip(shared.split([bucket.num_bytes for bucket in self.buckets]), flats, strict=True):
                place.copy_(flat)
            await self.generator.begin_receive(self.buckets, shared.handle)
            await self.generator.load_received(update)
        else:
            await self.generator.begin_receive(self.buckets)
            await asyncio.to_thread(lambda: [broadcast(self.group, flat) for flat in flats])  # type: ignore[arg-type]
            await self.generator.load_received(update)
        self.version += 1

    def send_singly(self, flats: list[torch.Tensor]) -> None:
        """The native engine receives the update parameter by parameter."""
        for bucket, flat in zip(self.buckets, flats, strict=True):
            for entry in bucket.entries:
                broadcast(self.group, view(flat, entry).reshape(-1).view(torch.uint8))  # type: ignore[arg-type]

    def change(self, seed: int) -> None:
        """Other weights, far enough to change what is likely."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.03)

    def logps(self, prompt: np.ndarray, sample: EngineOutput) -> np.ndarray:
        """The trainer's log-probabilities of a sample's tokens."""
        targets = torch.from_numpy(sample.tokens.astype(np.int64))
        with torch.no_grad():
            hidden, weight = self.hidden(prompt, sample), self.model.lm_head.weight
            logp, _ = linear_logprob(hidden, weight, targets, precision="fp32", chunk=64)
        return logp.numpy()

    def likeliest(self, prompt: np.ndarray, sample: EngineOutput) -> np.ndarray:
        """The trainer's likeliest token at each place of a sample."""
        with torch.no_grad():
            return (self.hidden(prompt, sample) @ self.model.lm_head.weight.T).argmax(-1).numpy()

    def hidden(self, prompt: np.ndarray, sample: EngineOutput) -> torch.Tensor:
        """The trainer's hidden states before each token of a sample."""
        tokens = torch.from_numpy(np.concatenate([prompt, sample.tokens]).astype(np.int64))
        bounds = torch.tensor([0, len(tokens)])
        return forward_hidden(self.model, tokens, torch.arange(len(tokens)), bounds)[len(prompt) - 1 : -1]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from start_rig(tmp_path_factory.mktemp("engine") / "model", {"engine_args": CHUNKED})


@pytest.fixture(scope="module")
def native_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The same over the transport `nccl`, whose engine is native_engine.py's; with workers in processes of their own,
    as an engine on several devices has them.
    """
    options = {
        "transport": "nccl",
        "native_backend": "gloo_native",
        "worker_extension": "native_engine.WorkerExtension",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))  # spawned processes get it with the rest of the path
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        yield from start_rig(tmp_path_factory.mktemp("native") / "model", options)


def engine_cores() -> frozenset[psutil.Process]:
    return frozenset(p for p in psutil.Process().children(recursive=True) if p.name().startswith("VLLM::EngineCor"))


def start_rig(folder: Path, changes: dict[str, Any]) -> Iterator[Rig]:
    make_scratch_model(folder, ScratchModel(hidden_size=64, layers=2), context_tokens=CONTEXT, seed=1)
    register_attention()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION_NAME)
    options = EngineOptions(
        model=str(folder), dtype="float32", head="fp32", context_tokens=CONTEXT, max_sequences=64, tensor_parallel=0,
        gpu_memory_share=0.9, kv_cache_megabytes=64, temperature=1.0, phrase=PHRASE, seed=0,
        **changes,
    )  # fmt: skip
    loop = asyncio.new_event_loop()
    generator = Generator(options)
    before = engine_cores()
    loop.run_until_complete(generator.start())
    processes = engine_cores() - before
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    opened: list[object] = []
    thread = threading.Thread(
        target=lambda: opened.append(gloo_group("127.0.0.1", port, rank=0, world_size=2, timeout_seconds=60.0))
    )
    thread.start()
    loop.run_until_complete(generator.join_weights("127.0.0.1", port, 1, 2, 60.0))
    thread.join()
    named = [(n, "float32", tuple(p.shape), 4) for n, p in model.named_parameters()]
    built = Rig(loop, generator, model, plan_buckets(named, limit=2**17), opened[0], processes)
    assert len(built.buckets) > 1
    built.run(built.push())
    yield built
    loop.run_until_complete(generator.stop())
    loop.close()


def encode(text: str) -> np.ndarray:
    return np.array(build_tokenizer(CONTEXT).encode(text), dtype=np.int32)


def ids(text: str) -> tuple[int, ...]:
    return tuple(int(token) for token in encode(text))


def test_fp32_head_tied_embeddings_agree_with_the_trainer_after_an_update(rig: Rig) -> None:
    """Wrong before `refresh_shared_weights`: the engine kept the head of its first weights."""
    prompt = encode("12 + 7 =<think>")
    rig.change(5)
    rig.run(rig.push())
    samples: list[EngineOutput] = rig.run(rig.generator.sample(prompt, [SamplingRequest(40, 1.0)] * 8))  # type: ignore[assignment]
    for sample in samples:
        assert set(sample.versions.tolist()) == {rig.version}
        assert np.abs(rig.logps(prompt, sample) - sample.logps).max() < 1e-4


def test_an_update_in_shared_memory_is_the_engines_own_once_it_is_loaded(rig: Rig) -> None:
    prompt = encode("12 + 7 =<think>")
    shared = SharedMemory(sum(bucket.num_bytes for bucket in rig.buckets))
    other = replace(shared.handle, label="of another node")
    assert rig.run(rig.generator.can_read(shared.handle)) is True
    assert rig.run(rig.generator.can_read(other)) is False
    for seed in (6, 7):  # the second time in the same memory
        rig.change(seed)
        rig.run(rig.push(shared=shared))
        samples: list[EngineOutput] = rig.run(rig.generator.sample(prompt, [SamplingRequest(20, 1.0)] * 4))  # type: ignore[assignment]
        for sample in samples:
            assert set(sample.versions.tolist()) == {rig.version}
            assert np.abs(rig.logps(prompt, sample) - sample.logps).max() < 1e-4
    for place in shared.split([bucket.num_bytes for bucket in rig.buckets]):
        place.fill_(255)
    (sample,) = rig.run(rig.generator.sample(prompt, [SamplingRequest(20, 1.0)]))  # type: ignore[misc]
    assert np.abs(rig.logps(prompt, sample) - sample.logps).max() < 1e-4
    version = rig.version
    with pytest.raises(Exception, match="checksums"):
        rig.run(rig.push(spoil=True, shared=shared))
    assert rig.generator.version == version


@pytest.mark.filterwarnings("ignore:Tensor .* exceeds buffer_size_bytes")
@pytest.mark.parametrize("limit", [1, 100, 4096, 2**16, 2**30])
def test_packets_are_those_of_vllms_receiver(limit: int) -> None:
    from vllm.distributed.weight_transfer.packed_tensor import pack_tensors

    generator = torch.Generator().manual_seed(3)
    shapes = [(7, 3), (64, 64), (5,), (), (300, 40), (2, 2), (64, 64), (9,)]
    tensors = {f"t{i}": torch.randn(shape, generator=generator).bfloat16() for i, shape in enumerate(shapes)}
    tensors["bias"] = torch.randn(3, generator=generator)  # float32
    named = [(n, str(t.dtype).removeprefix("torch."), tuple(t.shape), t.dtype.itemsize) for n, t in tensors.items()]
    buckets = plan_buckets(named, limit=2**13)
    flats = [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in buckets]
    for bucket, flat in zip(buckets, flats, strict=True):
        for entry in bucket.entries:
            view(flat, entry).copy_(tensors[entry.name])
    packets = plan_packets(buckets, limit=limit)
    buffer = torch.zeros(max(packet.num_bytes for packet in packets), dtype=torch.uint8)
    rest = iter([(entry.name, tensors[entry.name]) for _, _, entry in send_order(buckets)])
    for packet in packets:
        chunk = pack_tensors(rest, lambda item: item[1], limit)
        assert chunk is not None
        sent = fill_packet(packet, flats, buffer)
        assert torch.equal(sent, chunk.packed_tensor)
        assert [entry.name for _, entry in packet.pieces] == chunk.names
    assert pack_tensors(rest, lambda item: item[1], limit) is None, "both ends make the same number of packets"


def test_arguments_of_the_user_reach_the_engine_and_change_no_log_probability(rig: Rig) -> None:
    scheduler = rig.generator._engine.vllm_config.scheduler_config
    assert (scheduler.max_num_batched_tokens, scheduler.enable_chunked_prefill) == (64, True)
    prompt = np.resize(encode("12 + 7 ="), 2 * 64 + 5)  # three parts
    samples: list[EngineOutput] = rig.run(rig.generator.sample(prompt, [SamplingRequest(8, 1.0)] * 2))  # type: ignore[assignment]
    for sample in samples:
        assert np.abs(rig.logps(prompt, sample) - sample.logps).max() < 1e-4


def test_a_seed_gives_its_completion_however_the_prompt_is_cut(rig: Rig) -> None:
    """A step takes 64 tokens: beside others the prompt is cut elsewhere, in its first and in its later parts."""
    prompt = np.resize(encode("12 + 7 ="), 2 * 64 + 5)
    seeded = [SamplingRequest(12, 1.0, seed=seed, ignore_ends=True) for seed in (5, 6)]

    async def beside_others() -> list[EngineOutput]:
        fill = [
            rig.generator.sample(np.resize(encode("3 + 4 ="), size), [SamplingRequest(9, 1.0)]) for size in (50, 90)
        ]
        *_, found = await asyncio.gather(*fill, rig.generator.sample(prompt[:-1], seeded))
        return found

    alone: list[EngineOutput] = rig.run(rig.generator.sample(prompt[:-1], seeded))  # type: ignore[assignment]
    crowded: list[EngineOutput] = rig.run(beside_others())  # type: ignore[assignment]
    assert [each.tokens.tolist() for each in alone] == [each.tokens.tolist() for each in crowded]
    assert alone[0].tokens.tolist() != alone[1].tokens.tolist()


REFUSED = {
    "a token beyond the embedding": np.array([3, 10_000], dtype=np.int32),
    "a negative token": np.array([-1, 3], dtype=np.int32),
    "no token": np.array([], dtype=np.int32),
    "as many tokens as the context": np.full(CONTEXT, 3, dtype=np.int32),
    "more tokens than the context": np.full(CONTEXT + 5, 3, dtype=np.int32),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_prompt_is_an_error_of_its_own_and_the_engine_goes_on(rig: Rig, name: str) -> None:
    """vLLM passes a token that its tokenizer has and its embedding lacks; its core would end."""
    with pytest.raises(PromptRefused):
        rig.run(rig.generator.sample(REFUSED[name], [SamplingRequest(4, 1.0)] * 2))
    (sample,) = rig.run(rig.generator.sample(encode("1 + 1 ="), [SamplingRequest(4, 1.0)]))  # type: ignore[misc]
    assert len(sample.tokens) > 0


def start_refused(folder: Path, **changes: Any) -> InvalidRun:
    """The error of an engine that cannot start."""
    options = EngineOptions(
        model=str(folder), dtype="float32", head="fp32", context_tokens=CONTEXT, max_sequences=8, tensor_parallel=0,
        gpu_memory_share=0.9, kv_cache_megabytes=64, temperature=1.0, phrase=None, seed=0,
    )  # fmt: skip
    loop = asyncio.new_event_loop()
    with pytest.raises(InvalidRun) as caught:
        loop.run_until_complete(Generator(replace(options, **changes)).start())
    loop.close()
    return caught.value


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_scratch_model(tmp_path / "m", ScratchModel(hidden_size=64, layers=2), context_tokens=CONTEXT, seed=1)
    return tmp_path / "m"


def test_a_context_that_the_model_does_not_take_is_the_users_fault(model: Path) -> None:
    """vLLM's configuration refuses it, in this process."""
    (fault,) = start_refused(model, context_tokens=100_000).faults
    assert fault.path == "spec.recipe.length"
    assert "max_model_len" in fault.allowed


def test_an_architecture_that_the_engine_lacks_is_the_users_fault(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "unheard", "architectures": ["UnheardLM"]}))
    (fault,) = start_refused(model).faults
    assert fault.path == "spec.model.source"
    assert "unheard" in fault.allowed.lower()


def test_a_cache_that_holds_no_completion_is_the_users_fault(model: Path) -> None:
    """The engine's core refuses it, in a process of its own whose parent only learns that it ended."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 65_536}))
    (fault,) = start_refused(model, context_tokens=65_536, kv_cache_megabytes=1).faults
    assert fault.path == "spec.generator.kvCacheMegabytes"
    assert "KV cache" in fault.allowed


def test_an_update_of_other_tensors_ends_the_run_with_their_names(rig: Rig) -> None:
    """vLLM alone warns of a tensor that an update lacks, and generates with the old one."""
    whole, version = rig.buckets, rig.version
    named = {e.name: (e.name, e.dtype, e.shape, 4) for bucket in whole for e in bucket.entries}
    rig.buckets = plan_buckets([entry for name, entry in named.items() if name != "model.norm.weight"], limit=2**17)
    with pytest.raises(InvalidRun, match="1 parameters of the engine get no value from the trainer: model.norm.weight"):
        rig.run(rig.push())
    rig.model.register_parameter("stray", torch.nn.Parameter(torch.zeros(3)))
    rig.buckets = plan_buckets([*named.values(), ("stray", "float32", (3,), 4)], limit=2**17)
    with pytest.raises(InvalidRun, match="stray"):
        rig.run(rig.push())
    del rig.model.stray
    rig.buckets = whole
    assert rig.version == version
    rig.run(rig.push())
    rig.run(rig.generator.probe())


def test_the_cache_has_the_size_that_the_options_give(rig: Rig) -> None:
    """Wrong with VLLM_CPU_KVCACHE_SPACE set: it was 1 GiB, whatever the options said."""
    assert rig.generator._engine.vllm_config.cache_config.kv_cache_memory_bytes == 64 * 2**20


def test_forced_tokens_are_where_the_mask_says(rig: Rig) -> None:
    prompt = encode("1 + 1 =<think>")
    samples: list[EngineOutput] = rig.run(
        rig.generator.sample(prompt, [SamplingRequest(60, 1.0, think_budget=12, think_tokens=0)] * 16)
    )  # type: ignore[assignment]
    interruption = Interruption.build("<think>", "</think>", PHRASE, build_tokenizer(CONTEXT))
    phrase = ids(PHRASE)
    interrupted = 0
    for sample in samples:
        found = forced_mask(sample.tokens, interruption, 12, 0)
        assert found.mismatches == 0, sample.text
        if found.mask.any():
            interrupted += 1
            assert tuple(sample.tokens[found.mask]) == phrase[: int(found.mask.sum())]
            assert np.flatnonzero(found.mask)[0] == 12
            # The log-probability is the model's own, not the 0 of a forced choice: it must be masked, not trusted.
            assert sample.logps[found.mask].max() < -0.5
    assert interrupted > 0


@pytest.mark.parametrize("budget", [None, 12])
def test_greedy_completions_repeat_and_are_the_likeliest_tokens(rig: Rig, budget: int | None) -> None:
    """A downstream set's temperature 0, in one batch with sampled completions and without; the phrase is forced too."""
    prompt = encode("1 + 1 =<think>")
    thinking = {"think_budget": budget, "think_tokens": None if budget is None else 0}
    greedy, sampled = (SamplingRequest(40, temperature, **thinking) for temperature in (0.0, 1.0))  # type: ignore[arg-type]
    mixed: list[EngineOutput] = rig.run(rig.generator.sample(prompt, [greedy, sampled, greedy, sampled]))  # type: ignore[assignment]
    alone: list[EngineOutput] = rig.run(rig.generator.sample(prompt, [greedy]))  # type: ignore[assignment]
    first, again = mixed[0], alone[0]
    assert first.tokens.tolist() == mixed[2].tokens.tolist() == again.tokens.tolist()
    assert mixed[1].tokens.tolist() != mixed[3].tokens.tolist(), "the others are still sampled"
    chosen = np.ones(len(first.tokens), dtype=bool)
    if budget is not None:
        interruption = Interruption.build("<think>", "</think>", PHRASE, build_tokenizer(CONTEXT))
        chosen = ~forced_mask(first.tokens, interruption, budget, 0).mask
        assert (~chosen).sum() == len(ids(PHRASE))
    for sample in (first, again):
        assert np.isfinite(sample.logps).all()
        assert np.abs(rig.logps(prompt, sample) - sample.logps).max() < 1e-4, "the model's own, as at temperature 1"
        assert (first.tokens == rig.likeliest(prompt, sample))[chosen].all()


def test_natural_end_is_never_interrupted_in_the_answer(rig: Rig) -> None:
    """vLLM 0.32's own budget would force the phrase into the answer: it looks for the whole phrase only."""
    opens, closes = ids("<think>")[0], ids("</think>")[0]
    over = encode("1 + 1 =<think>2</think>")  # closed by the prompt
    samples: list[EngineOutput] = rig.run(rig.generator.sample(over, [SamplingRequest(60, 1.0, think_budget=10)] * 32))  # type: ignore[assignment]
    answers = [sample for sample in samples if opens not in sample.tokens]
    assert answers
    assert not any("time is up" in sample.text for sample in answers)
    opened = encode("1 + 1 =<think>")
    many: list[EngineOutput] = rig.run(
        rig.generator.sample(opened, [SamplingRequest(60, 1.0, think_budget=40, think_tokens=0)] * 64)
    )  # type: ignore[assignment]
    natural = [s for s in many if closes in s.tokens[:40] and opens not in s.tokens]
    assert natural, "random weights write every token, the end of thinking too"
    assert not any("time is up" in sample.text for sample in natural)


def test_update_without_pause_is_atomic(rig: Rig) -> None:
    """Weights change under running completions: versions are contiguous, and each span fits its own weights."""

    async def scenario() -> tuple[list[EngineOutput], dict[int, dict[str, torch.Tensor]]]:
        prompt = encode("9 - 4 =<think>")
        weights = {rig.version: {n: p.detach().clone() for n, p in rig.model.named_parameters()}}
        work = asyncio.ensure_future(rig.generator.sample(prompt, [SamplingRequest(120, 1.0)] * 48))
        for seed in (11, 12):
            await asyncio.sleep(0.15)
            rig.change(seed)
            await rig.push()
            weights[rig.version] = {n: p.detach().clone() for n, p in rig.model.named_parameters()}
        return await work, weights

    samples, weights = rig.run(scenario())  # type: ignore[misc]
    spans = [sorted(set(sample.versions.tolist())) for sample in samples]
    assert all(np.all(np.diff(sample.versions) >= 0) for sample in samples)
    assert all(set(span) <= set(weights) for span in spans)
    assert any(len(span) > 1 for span in spans), "an update must have met running completions"


def test_no_stale_prefix_hit_after_update(rig: Rig) -> None:
    """A prompt seen under older weights is computed anew under the new ones."""
    prompt = encode("77 + 11 - 22 =<think>77+11=88 ")  # longer than a cache block
    rig.run(rig.generator.sample(prompt, [SamplingRequest(4, 1.0)] * 2))
    rig.change(21)
    rig.run(rig.push())
    samples: list[EngineOutput] = rig.run(rig.generator.sample(prompt, [SamplingRequest(30, 1.0)] * 4))  # type: ignore[assignment]
    for sample in samples:
        assert np.abs(rig.logps(prompt, sample) - sample.logps).max() < 1e-4


@pytest.mark.parametrize("kv_cache", ["keep", "recompute"])
def test_kv_policy(rig: Rig, kv_cache: str) -> None:
    """`recompute`: tokens after the update are those of the new weights alone. `keep`: the stale cache is in them."""

    async def scenario() -> list[EngineOutput]:
        prompt = encode("5 + 5 =<think>")
        work = asyncio.ensure_future(rig.generator.sample(prompt, [SamplingRequest(120, 1.0)] * 48))
        await asyncio.sleep(0.2)
        rig.change(31)
        await rig.push(kv_cache)
        return await work

    samples: list[EngineOutput] = rig.run(scenario())  # type: ignore[assignment]
    prompt, differences = encode("5 + 5 =<think>"), []
    for sample in samples:
        new = sample.versions == rig.version
        if new.any() and not new.all():
            differences.append(np.abs(rig.logps(prompt, sample) - sample.logps)[new].mean())
    assert differences, "the update must have met running completions"
    if kv_cache == "recompute":
        assert max(differences) < 1e-3
    else:
        assert np.mean(differences) > 1e-2


def test_forced_tokens_masked_even_if_preempted_by_updates(rig: Rig) -> None:
    """`recompute` preempts whatever runs; inside a forced phrase the engine goes on where it was."""
    prompt = encode("2 + 2 =<think>")

    async def scenario() -> list[EngineOutput]:
        work = asyncio.ensure_future(
            rig.generator.sample(prompt, [SamplingRequest(60, 1.0, think_budget=12, think_tokens=0)] * 64)
        )
        while not work.done():
            await rig.push("recompute")
        return await work

    samples: list[EngineOutput] = rig.run(scenario())  # type: ignore[assignment]
    interruption = Interruption.build("<think>", "</think>", PHRASE, build_tokenizer(CONTEXT))
    masks = [forced_mask(sample.tokens, interruption, 12, 0) for sample in samples]
    assert sum(found.mismatches for found in masks) == 0
    assert any(found.mask.any() for found in masks)
    assert any(len(set(sample.versions.tolist())) > 2 for sample in samples), "several updates must have met some"


def test_a_spoiled_update_is_refused_and_the_engine_goes_on(rig: Rig) -> None:
    prompt = encode("3 + 3 =<think>")
    rig.change(41)
    with pytest.raises(Exception, match="checksums"):
        rig.run(rig.push(spoil=True))
    samples: list[EngineOutput] = rig.run(rig.generator.sample(prompt, [SamplingRequest(10, 1.0)] * 2))  # type: ignore[assignment]
    assert {v for s in samples for v in s.versions.tolist()} == {rig.version}, "still the version before"
    rig.run(rig.push())
    fresh: list[EngineOutput] = rig.run(rig.generator.sample(prompt, [SamplingRequest(10, 1.0)]))  # type: ignore[assignment]
    assert np.abs(rig.logps(prompt, fresh[0]) - fresh[0].logps).max() < 1e-4


def test_native_updates_reach_running_completions_and_agree_with_the_trainer(native_rig: Rig) -> None:
    """The transport `nccl`: vLLM's three calls in one, so that no step falls between them; the tied head is fresh."""

    async def scenario() -> list[EngineOutput]:
        prompt = encode("9 - 4 =<think>")
        work = asyncio.ensure_future(native_rig.generator.sample(prompt, [SamplingRequest(120, 1.0)] * 48))
        for seed in (51, 52):
            await asyncio.sleep(0.15)
            native_rig.change(seed)
            await native_rig.push("recompute")
        return await work

    samples: list[EngineOutput] = native_rig.run(scenario())  # type: ignore[assignment]
    prompt = encode("9 - 4 =<think>")
    assert any(len(set(sample.versions.tolist())) > 1 for sample in samples), "an update must have met some"
    for sample in samples:
        newest = sample.versions == native_rig.version
        assert np.abs(native_rig.logps(prompt, sample) - sample.logps)[newest].max(initial=0.0) < 1e-4


def test_a_spoiled_native_update_is_said_and_the_next_one_mends_it(native_rig: Rig) -> None:
    prompt = encode("3 + 3 =<think>")
    native_rig.change(61)
    with pytest.raises(Exception, match="checksums"):
        native_rig.run(native_rig.push(spoil=True))
    with pytest.raises(RuntimeError, match="broken update"):
        native_rig.run(native_rig.generator.probe())
    native_rig.run(native_rig.push())
    native_rig.run(native_rig.generator.probe())
    samples: list[EngineOutput] = native_rig.run(native_rig.generator.sample(prompt, [SamplingRequest(20, 1.0)] * 2))  # type: ignore[assignment]
    for sample in samples:
        assert set(sample.versions.tolist()) == {native_rig.version}
        assert np.abs(native_rig.logps(prompt, sample) - sample.logps).max() < 1e-4


def test_the_packed_transfer_of_vllm_is_still_where_we_call_it() -> None:
    """Code that only a device can run: at least its names and arguments are those of the installed vLLM."""
    import inspect

    from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, trainer_init
    from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

    assert {"rank_offset", "packed", "packed_buffer_size_bytes", "packed_num_buffers"} <= set(
        inspect.signature(NCCLWeightTransferInitInfo).parameters
    )
    assert {"init_info"} <= set(inspect.signature(trainer_init).parameters)
    assert {"iterator", "group", "src", "post_iter_func", "buffer_size_bytes", "num_buffers"} <= set(
        inspect.signature(packed_nccl_broadcast_producer).parameters
    )


def test_a_dead_core_is_noticed_under_an_update(native_rig: Rig) -> None:
    """Last of all: it costs the engine. Whoever waits for a dead core would wait for ever."""

    async def scenario() -> None:
        update = WeightUpdate(native_rig.version + 1, native_rig.buckets, (), "keep", 30.0)
        waiting = asyncio.ensure_future(native_rig.generator.receive_and_load(update))  # nobody sends
        await asyncio.sleep(1.0)
        for process in native_rig.processes:
            process.kill()
        with pytest.raises(PeerDied, match="the engine's core died"):
            await asyncio.wait_for(waiting, 60)

    workers = [child for core in native_rig.processes for child in core.children(recursive=True)]
    assert workers
    native_rig.run(scenario())
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "a worker inside a collective goes with its core, or it would keep the device's memory"


def test_an_engine_on_a_cpu_is_a_thread_and_one_with_workers_a_process(rig: Rig, native_rig: Rig) -> None:
    assert type(rig.generator._engine).__name__ == "EngineThread"
    assert not rig.processes
    assert type(native_rig.generator._engine).__name__ == "EngineProcess"
    assert native_rig.processes


def test_a_caller_that_gives_up_frees_its_place(rig: Rig) -> None:
    engine = rig.generator._engine

    async def scenario() -> None:
        work = asyncio.ensure_future(rig.generator.sample(encode("1 + 1 ="), [SamplingRequest(120, 1.0)] * 4))
        while len(engine._core.scheduler.running) < 4:
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await engine.call("can_read", asdict(SharedMemory(8).handle))  # comes after the aborts
        assert not engine._core.scheduler.running
        assert not engine._sampled

    rig.run(scenario())
    rig.run(rig.generator.probe())


def test_a_step_that_fails_ends_the_engine_and_all_who_wait_learn_its_error(rig: Rig) -> None:
    """Last of all: it costs the engine."""
    engine = rig.generator._engine

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room for a step")

    async def scenario() -> list[object]:
        engine._core.model_executor.execute_model = fail
        work = [rig.generator.sample(encode("1 + 1 ="), [SamplingRequest(8, 1.0)] * 2) for _ in range(3)]
        return await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 60)

    found = rig.run(scenario())
    assert [type(each) for each in found] == [EngineDied] * 3  # type: ignore[attr-defined]
    assert "no room for a step" in str(found[0])  # type: ignore[index]
    for later in (rig.generator.probe(), rig.generator.can_read(SharedMemory(8).handle), rig.push()):
        with pytest.raises(EngineDied, match="no room for a step"):
            rig.run(asyncio.wait_for(later, 60))
