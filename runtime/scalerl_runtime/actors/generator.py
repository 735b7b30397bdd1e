"""One vLLM engine: completions out, weights in. I/O."""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalerl_api.passthrough import merge_settings
from scalerl_api.rlrun import LoraSpec
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.actors.engine.interface import Engine, EngineRequest, FinishedRequest
from scalerl_runtime.actors.engine_errors import build_error, find_refusal, load_errors, record_errors
from scalerl_runtime.hub import first_line
from scalerl_runtime.models.engine_adapters import ADAPTER_ID, ADAPTER_NAME, NO_PATH, engine_arguments, engine_config
from scalerl_runtime.models.router_replay import REPLAY_FIELD
from scalerl_runtime.models.source import FIELD, find_model, load_config, load_tokenizer
from scalerl_runtime.types import EngineOutput, Experts, Ints, PromptRefused, SamplingRequest
from scalerl_runtime.weights.buckets import Transport, WeightBucket
from scalerl_runtime.weights.shared_memory import SharedHandle

# Errors of a start: vLLM's own, and what arguments, files and devices raise in it.
START_ERRORS = (RuntimeError, OSError, AssertionError, AttributeError, ImportError, LookupError, TypeError, ValueError)
INTERRUPTION_TEXTS = "scalerl_interruption"  # in the engine's additional_config: both tags and the phrase
REQUEST_BUDGET = "scalerl_thinking"  # in a request's extra_args: its budget, and `think_tokens` as in Prompt


@dataclass(frozen=True)
class EngineOptions:
    """How to start an engine."""

    model: str  # folder or hub id
    dtype: str
    head: Literal["fp32", "bf16"]
    context_tokens: int
    max_sequences: int
    tensor_parallel: int  # 0: on the CPU
    gpu_memory_share: float
    kv_cache_megabytes: int
    temperature: float
    phrase: str | None  # forced when a thinking budget is spent; None: no budget
    seed: int
    tags: tuple[str, str] = ("<think>", "</think>")  # around the thinking
    stop_ids: tuple[int, ...] = ()  # tokens that end a completion, besides the tokenizer's end of sequence
    router_replay: bool = False  # return the experts of each token
    lora: LoraSpec | None = None  # updates are adapters; the weights are those of the folder
    cpu_threads: int = 1
    transport: Transport = "gloo"
    native_backend: str = "nccl"  # vLLM's name of the engine behind the transport `nccl`
    worker_extension: str = "scalerl_runtime.actors.vllm_worker.WorkerExtension"
    engine_args: Mapping[str, Any] = field(default_factory=dict)  # the user's, none of which is set here


@dataclass(frozen=True)
class WeightUpdate:
    """A weight update as an engine receives it."""

    version: int
    buckets: tuple[WeightBucket, ...]
    sums: tuple[int, ...]  # one per parameter
    kv_cache: Literal["keep", "recompute"]
    timeout_seconds: float


class Generator:
    """A vLLM engine whose weights can change while it generates."""

    def __init__(self, options: EngineOptions):
        self.options = options
        self.version = -1  # the engine may not generate for training before the first weights
        self._is_spoiled = False
        self._ids = itertools.count()
        self._engine: Any = None

    async def start(self) -> float:
        """Start the engine and warm it up; return the seconds taken.

        Raises InvalidRun where every later start would fail too, ModelUnavailable, or the engine's own error.
        """
        began = asyncio.get_running_loop().time()
        folder = await asyncio.to_thread(find_model, self.options.model)
        _set_environment(self.options)
        errors = record_errors(os.environ["VLLM_LOGGING_LEVEL"])
        try:
            self._engine = await _build_engine(replace(self.options, model=str(folder)))
            await self._prepare_cpu()
            await self.probe()
            if self.options.phrase is not None:
                await self._probe_interruption(folder, self.options.phrase)
        except START_ERRORS as error:
            # The core's own exceptions come first: its parent's only says that the core is gone.
            found = [*load_errors(errors), build_error(error)]
            fault = find_refusal(found, model=self.options.model, on_cpu=self.options.tensor_parallel == 0)
            if fault is None:
                raise
            raise InvalidRun([fault]) from error
        return asyncio.get_running_loop().time() - began

    async def sample(self, prompt: Ints, requests: Sequence[SamplingRequest]) -> list[EngineOutput]:
        """Return one completion of `prompt` [Tp] for each request, in order. Raises PromptRefused."""
        rows = self._engine.vllm_config.model_config.get_vocab_size()
        if prompt.size == 0 or prompt.min() < 0 or prompt.max() >= rows:  # vLLM may pass these on, and its core dies
            found = f"token ids {prompt.min()} to {prompt.max()}" if prompt.size else "no token"
            raise PromptRefused(f"{found}; the model has ids from 0 to {rows - 1}")
        return list(await asyncio.gather(*(self._sample_one(prompt, request) for request in requests)))

    async def _sample_one(self, prompt: Ints, request: SamplingRequest) -> EngineOutput:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            logprobs=0,
            flat_logprobs=True,
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
            stop_token_ids=[] if request.ignore_ends else list(self.options.stop_ids),
            ignore_eos=request.ignore_ends,
            extra_args=_budget_arguments(request),
            detokenize=False,  # the whole text is decoded once
            skip_special_tokens=False,
        )
        name = f"r{next(self._ids)}"
        # The salt keeps a new request from reading prefixes that older weights computed.
        made = EngineRequest(name, prompt.tolist(), parameters, cache_salt=f"v{self.version}", adapter=self._adapter())
        with _refusing_prompts(lambda: bool(self._engine.errored)):
            finished: FinishedRequest = await self._engine.complete(made)
        if not self.options.router_replay:
            return finished.output
        found = await self._take_experts(name) if self._on_cpu else finished.experts
        tokens = finished.output.tokens
        return replace(finished.output, experts=_require_experts(found, len(prompt) + len(tokens) - 1))

    def _adapter(self) -> Any:
        """vLLM's name of the adapter that requests use: the same for all versions, whose weights replace each other."""
        if self.options.lora is None or self.version < 0:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(ADAPTER_NAME, ADAPTER_ID, lora_path=NO_PATH)

    async def _take_experts(self, name: str) -> Any:
        ((content, dtype, shape),) = await self._engine.call("take_experts", name)
        return np.frombuffer(content, dtype=dtype).reshape(shape)

    @property
    def _on_cpu(self) -> bool:
        return self.options.tensor_parallel == 0

    async def _prepare_cpu(self) -> None:
        """Add what vLLM has on devices only: seeds of prompts in parts, and experts."""
        if self._on_cpu:
            await self._engine.call("keep_noise")
        if self.options.router_replay and self._on_cpu:
            for refusal in await self._engine.call("record_experts"):
                if refusal is not None:
                    raise InvalidRun([Fault(REPLAY_FIELD, "true", f"false for {self.options.model}: {refusal}")])

    async def join_weights(self, address: str, port: int, rank: int, world_size: int, timeout_seconds: float) -> None:
        """Join the transfer group of an epoch as ranks `rank`..."""
        if self.options.transport == "nccl":
            await self._engine.call("join_native", address, port, rank, world_size)
        else:
            await self._engine.call("join_weights", address, port, rank, world_size, timeout_seconds)

    async def can_read(self, shared: SharedHandle) -> bool:
        """Return whether the engine's workers can read the trainer's copy where it lies: they are on its node."""
        return all(await self._engine.call("can_read", asdict(shared)))

    async def begin_receive(self, buckets: tuple[WeightBucket, ...], shared: SharedHandle | None = None) -> None:
        """Transport `gloo`: receive an update in the background; the trainer may send as soon as this returns.

        With `shared`, which this engine can read, nothing is sent.
        """
        await self._engine.call("begin_receive", _layout(buckets), asdict(shared) if shared is not None else None)

    async def load_received(self, update: WeightUpdate) -> float:
        """Load the received update; return the seconds for which the engine made no token.

        Raises when the update did not arrive whole; the engine then keeps its old weights and still works. Raises
        InvalidRun when the engine's model and the update differ in their tensors.
        """
        lora = None if self.options.lora is None else engine_config(self.options.lora)
        return await self._apply(update, "load_received", list(update.sums), update.timeout_seconds, lora)

    async def receive_and_load(self, update: WeightUpdate) -> float:
        """Transport `nccl`: receive and load the broadcast; return the seconds without a token.

        Raises when it did not arrive whole; the engine is then unusable, and `probe` raises.
        """
        self._is_spoiled = True
        return await self._apply(update, "receive_and_load", _layout(update.buckets), list(update.sums))

    async def _apply(self, update: WeightUpdate, method: str, *arguments: object) -> float:
        """Have the worker run `method`, then set the version of the new weights.

        `keep`: running completions continue with the cache that older weights computed. `recompute`: their cache is
        dropped and recomputed with the new weights. A device's engine pauses for both: it schedules a batch while the
        one before runs, which would read half an update and get the new version's label.
        """
        is_recomputed = update.kv_cache == "recompute"
        pauses = is_recomputed or not self._on_cpu
        clock = asyncio.get_running_loop().time
        began = clock()
        if pauses:
            await self._engine.pause(clear_cache=is_recomputed)
        try:
            by_worker = await self._engine.update(method, *arguments, version=update.version)
            if gaps := sorted({gap for gaps in by_worker for gap in gaps}):
                self._is_spoiled = True
                needed = "a model of which trainer and engine have the same tensors"
                raise InvalidRun([Fault(FIELD, self.options.model, f"{needed}; {gap}") for gap in gaps])
            self.version, self._is_spoiled = update.version, False
        finally:
            # The update failed, and the core still runs.
            if self.version != update.version and not self._engine.errored:
                await self._engine.set_version(self.version)
            if pauses and not self._engine.errored:
                await self._engine.resume()
        return clock() - began

    async def probe(self) -> None:
        """Raise unless the engine can generate; a health endpoint may succeed with a dead worker behind it."""
        if self._is_spoiled:
            raise RuntimeError("the engine's weights are those of a broken update")
        await self.sample(np.array([0], dtype=np.int32), [SamplingRequest(max_tokens=1, temperature=1.0)])

    async def _probe_interruption(self, folder: Path, phrase: str) -> None:
        """Raise unless the engine forces the phrase. Without it a run would train on thinking of any length."""
        wanted = load_tokenizer(folder, self.options.model).encode(phrase, add_special_tokens=False)[:1]
        request = SamplingRequest(max_tokens=1, temperature=1.0, think_budget=0, seed=0, think_tokens=0)
        (sample,) = await self.sample(np.array([0], dtype=np.int32), [request])
        if sample.tokens.tolist() != wanted:
            raise RuntimeError(f"the engine does not force the phrase: {sample.tokens.tolist()} instead of {wanted}")

    async def stop(self) -> None:
        """Stop the engine's processes."""
        if self._engine is not None:
            self._engine.shutdown()


async def _build_engine(options: EngineOptions) -> Engine:
    """Start the engine: in a thread of this process where vLLM needs no other one, which is on a CPU."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    from scalerl_runtime.actors.engine.engine_process import EngineProcess
    from scalerl_runtime.actors.engine.engine_thread import EngineThread

    config = AsyncEngineArgs(**_engine_arguments(options)).create_engine_config()
    parallel = config.parallel_config
    is_single = parallel.distributed_executor_backend == "uni" and parallel.data_parallel_size == 1
    if options.tensor_parallel > 0 or not is_single:
        return EngineProcess(config)
    engine = EngineThread(config, options.cpu_threads)
    await engine.start()
    return engine


@contextmanager
def _refusing_prompts(is_errored: Callable[[], bool]) -> Iterator[None]:
    """Raise PromptRefused for an error of one request; an engine that is errored raises its own error."""
    from vllm.exceptions import VLLMClientError
    from vllm.v1.engine.exceptions import EngineGenerateError

    try:
        yield
    except (VLLMClientError, ValueError, TypeError, OverflowError) as error:
        if is_errored():
            raise
        raise PromptRefused(first_line(error)) from error
    except EngineGenerateError as error:  # vLLM's wrapper of everything that its checks raise
        if is_errored() or not isinstance(error.__cause__, ValueError | TypeError | OverflowError):
            raise
        raise PromptRefused(first_line(error.__cause__)) from error


def _set_environment(options: EngineOptions) -> None:
    """The engine's process reads these; vLLM has no arguments for them."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if options.phrase is not None:
        # The second runner takes no logits processor, and its own budget counts from the last tag: it would force the
        # phrase at places that `forced_mask` cannot know.
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if options.tensor_parallel == 0:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # "auto" pins to one core, the trainer's as likely as not
        os.environ["OMP_NUM_THREADS"] = str(options.cpu_threads)
        # The engine computes in this process: each process more imports vLLM once more, 10 s of a slow core.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        # VLLM_CPU_KVCACHE_SPACE stays unset: it would override kv_cache_memory_bytes.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the sampler compiles a trifle, which needs a C++ compiler


def _engine_arguments(options: EngineOptions) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": options.model,
        "dtype": options.dtype,
        "max_model_len": options.context_tokens,
        "max_num_seqs": options.max_sequences,
        "enable_prefix_caching": True,
        "worker_extension_cls": options.worker_extension,
        # At temperature 1 the raw distribution is the one sampled from, and it stays finite at forced tokens.
        "logprobs_mode": "raw_logprobs" if options.temperature == 1.0 else "processed_logprobs",
        "seed": options.seed,
        "generation_config": "vllm",  # a model folder's own top-p or temperature would bias the importance ratio
        "disable_log_stats": True,
        "distributed_executor_backend": "uni" if options.tensor_parallel <= 1 else "mp",
        "enforce_eager": options.tensor_parallel == 0,
    }
    if options.router_replay and options.tensor_parallel > 0:
        arguments["enable_return_routed_experts"] = True
    if options.transport == "nccl":
        from vllm.config import WeightTransferConfig

        arguments["weight_transfer_config"] = WeightTransferConfig(backend=options.native_backend)
    if options.lora is not None:
        arguments |= engine_arguments(options.lora, load_config(Path(options.model), options.model))
    if options.head == "fp32":
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    if options.phrase is not None:
        # By name: vLLM imports it in the worker, whose module imports vLLM.
        arguments["logits_processors"] = ["scalerl_runtime.actors.thinking_budget:ThinkingBudgetProcessor"]
        arguments["additional_config"] = {INTERRUPTION_TEXTS: [*options.tags, options.phrase]}
    if options.tensor_parallel == 0:
        arguments["kv_cache_memory_bytes"] = options.kv_cache_megabytes * 2**20
    else:
        arguments["tensor_parallel_size"] = options.tensor_parallel
        arguments["gpu_memory_utilization"] = options.gpu_memory_share
    return merge_settings(arguments, options.engine_args)


def _budget_arguments(request: SamplingRequest) -> dict[str, Any] | None:
    return None if request.think_budget is None else {REQUEST_BUDGET: [request.think_budget, request.think_tokens]}


def _layout(buckets: tuple[WeightBucket, ...]) -> list[dict[str, Any]]:
    """As plain mappings: the engine's wire takes no classes of ours."""
    return [asdict(bucket) for bucket in buckets]


def _require_experts(found: Any, num_tokens: int) -> Experts:
    """The experts of a completion. Raises RuntimeError unless there are some for each of `num_tokens` tokens."""
    shape = None if found is None else found.shape
    if shape is None or len(shape) != 3 or shape[0] != num_tokens:
        raise RuntimeError(f"the engine returned experts of shape {shape}; need those of {num_tokens} tokens")
    experts: Experts = found
    return experts
