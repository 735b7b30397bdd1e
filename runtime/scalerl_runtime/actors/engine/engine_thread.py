"""vLLM's engine in one thread of this process: for CPUs, whose cores do everything themselves. I/O.

vLLM's own asynchronous front end needs a process for its core: each token then passes two serializations and a socket,
and two processes wait for each other in turn. Here scheduler, model and sampler run in a thread that the event loop
sends orders to. Depends on vLLM 0.32's EngineCore; tests/local/test_generator.py fails when a new version changes it.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.inputs.engine import tokens_input
from vllm.v1.engine import FinishReason
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.executor import Executor

from scalerl_runtime.actors.engine.detokenize import build_output
from scalerl_runtime.actors.engine.interface import EngineDied, EngineRequest, FinishedRequest

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.001  # between steps that compute nothing although requests wait
END_SECONDS = 10.0  # for the step in progress; a thread that hangs ends with its process
OWN_CLIENT = 0  # index of the only client in vLLM's outputs
Order = Callable[[], object]

_live: "set[EngineThread]" = set()  # whose threads run: they share vLLM's process groups, which are this process's
_live_lock = threading.Lock()


@dataclass
class _Sampled:
    """A request and what was sampled for it so far."""

    done: "asyncio.Future[None]"
    finish: Any = None
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def add(self, output: Any, version: int) -> bool:
        """Add a step's output, vLLM's EngineCoreOutput; return whether it is the last one."""
        if output.new_token_ids:
            self.tokens += output.new_token_ids
            self.logps += output.new_logprobs.logprobs[:, 0].tolist()  # the sampled token's is the first
            self.versions += [version] * len(output.new_token_ids)
        self.finish = output.finish_reason
        return self.finish is not None


class EngineThread:
    """See `Engine`. The thread carries out orders between two steps of the engine, in the order that they were sent."""

    def __init__(self, config: Any, num_threads: int):
        """`config` is vLLM's, `num_threads` the threads of a matrix product. `start` starts the engine."""
        self.vllm_config = config
        self._num_threads = num_threads
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[Any]] = set()  # the event loop's
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._sampled: dict[str, _Sampled] = {}  # the thread's, by name
        self._version = -1  # the thread's
        self._is_ending = False
        self._error: BaseException | None = None
        self._core: Any = None
        self._inputs: Any = None
        self._tasks: Any = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    async def start(self) -> None:
        """Load the model. Raises what vLLM raises."""
        self._inputs = InputProcessor(self.vllm_config)
        started = self._future()
        self._orders.put(lambda: self._resolve([(started, None)]))
        self._thread.start()
        try:
            await started
        except EngineDied as error:
            raise self._error or error from error.__cause__
        self._tasks = await self._order(lambda: self._core.get_supported_tasks())

    @property
    def errored(self) -> bool:
        """See `Engine`."""
        return self._is_ending or self._error is not None

    async def complete(self, request: EngineRequest) -> FinishedRequest:
        """See `Engine`."""
        self._require_alive()
        inputs = tokens_input(request.prompt, cache_salt=request.cache_salt)
        made = self._inputs.process_inputs(
            request.name, inputs, request.parameters, lora_request=request.adapter, supported_tasks=self._tasks
        )
        sampled = _Sampled(self._future())
        self._orders.put(lambda: self._add(made, sampled))
        try:
            await sampled.done
        except asyncio.CancelledError:
            self._orders.put(lambda: self._abort(request.name))
            raise
        if sampled.finish not in (FinishReason.STOP, FinishReason.LENGTH):
            raise RuntimeError(f"the engine gave a completion up: {sampled.finish}")
        output = build_output(
            self._inputs.tokenizer,
            request.prompt,
            made.sampling_params,
            (sampled.tokens, sampled.logps, sampled.versions),
            stopped=sampled.finish == FinishReason.STOP,
        )
        return FinishedRequest(output)

    async def call(self, method: str, *arguments: object) -> list[Any]:
        """See `Engine`."""
        return list(await self._order(lambda: self._core.collective_rpc(method, args=arguments)))

    async def update(self, method: str, *arguments: object, version: int) -> list[Any]:
        """See `Engine`."""

        def load() -> Any:
            found = self._core.collective_rpc(method, args=arguments)
            self._set_version(version)
            return found

        return list(await self._order(load))

    async def set_version(self, version: int) -> None:
        """See `Engine`."""
        await self._order(lambda: self._set_version(version))

    async def pause(self, *, clear_cache: bool) -> None:
        """See `Engine`."""
        await self._order(lambda: self._core.pause_scheduler(mode="keep", clear_cache=clear_cache))

    async def resume(self) -> None:
        """See `Engine`."""
        await self._order(lambda: self._core.resume_scheduler())

    def shutdown(self) -> None:
        """See `Engine`."""
        self._is_ending = True
        self._orders.put(lambda: None)  # wakes the thread
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)

    # -- the event loop's side ---------------------------------------------------------------------------------------

    def _future(self) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def _require_alive(self) -> None:
        if self.errored:
            raise self._death()

    def _death(self) -> EngineDied:
        return EngineDied("the engine was stopped" if self._error is None else f"the engine failed: {self._error!r}")

    async def _order(self, work: Order) -> Any:
        """Have the thread do `work`; return its result, or raise its error."""
        self._require_alive()
        done = self._future()
        self._orders.put(lambda: self._carry_out(work, done))
        return await done

    def _resolve(self, results: "list[tuple[asyncio.Future[Any], object]]") -> None:
        """Pass results, exceptions among them, to those who wait. The thread calls it."""

        def resolve() -> None:
            for future, result in results:
                if future.done():  # its caller was cancelled
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(resolve)

    def _fail_waiting(self) -> None:
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(self._death())

    # -- the thread's side -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with _live_lock:
            _live.add(self)
        try:
            torch.set_num_threads(self._num_threads)  # of this thread: vLLM forbids it afterwards
            self._core = EngineCore(self.vllm_config, Executor.get_class(self.vllm_config), log_stats=False)
            while not self._is_ending:
                self._take_orders()
                self._step()
            self._core.shutdown()
        except BaseException as error:  # noqa: BLE001 # the thread's top: nobody else would learn of it
            self._error = error
            log.error("the engine failed", exc_info=error)
        finally:
            self._release_process_groups()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._fail_waiting)

    def _release_process_groups(self) -> None:
        """Destroy vLLM's process groups with the last engine: the next one would take over those of a failed one."""
        with _live_lock:
            _live.discard(self)
            if not _live:
                cleanup_dist_env_and_memory()

    def _take_orders(self) -> None:
        """Carry out the orders that wait; without work for the engine, wait for one."""
        if self._core.is_scheduler_paused() or not self._core.scheduler.has_requests():
            self._orders.get()()
        while not self._orders.empty():
            self._orders.get()()

    def _carry_out(self, work: Order, done: "asyncio.Future[Any]") -> None:
        """Do an order. Its error is its caller's: a refused update leaves an engine that works."""
        try:
            result: object = work()
        except Exception as error:  # noqa: BLE001 # whatever a worker's method raises
            result = error
        self._resolve([(done, result)])

    def _add(self, made: Any, sampled: _Sampled) -> None:
        if sampled.done.done():  # cancelled before the engine saw it
            return
        self._sampled[made.request_id] = sampled
        self._core.add_request(*self._core.preprocess_add_request(made))

    def _abort(self, name: str) -> None:
        if self._sampled.pop(name, None) is not None:
            self._core.abort_requests([name])

    def _set_version(self, version: int) -> None:
        self._version = version

    def _step(self) -> None:
        """Compute one token of every request that fits, and pass on the completions that end with it."""
        if self._is_ending or self._core.is_scheduler_paused() or not self._core.scheduler.has_requests():
            return
        outputs, has_computed = self._core.step_fn()
        self._core.post_step(has_computed)
        ended: list[tuple[asyncio.Future[Any], object]] = []
        for output in outputs[OWN_CLIENT].outputs if outputs and OWN_CLIENT in outputs else ():
            sampled = self._sampled.get(output.request_id)
            if sampled is not None and sampled.add(output, self._version):
                del self._sampled[output.request_id]
                ended.append((sampled.done, None))
        if ended:
            self._resolve(ended)
        if not has_computed and self._core.scheduler.has_requests():
            time.sleep(IDLE_SECONDS)
