"""Logs of a run's pods: printed pod by pod, or followed together over attempts and restarts. I/O."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from scalerl_operator.cli.cluster_reader import fetch_pods
from scalerl_operator.cli.log_lines import LineReader, LogOffset, LogOptions, build_query
from scalerl_operator.kube.client import AWAY_SECONDS, RUNS, KubeClient, KubeError, KubeSilence
from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.observed_run import Key, parse_observed_run
from scalerl_operator.reconcile.pod_view import describe_wait
from scalerl_operator.resources.names import CONTAINER, Role
from scalerl_operator.run.state import is_over, state_word

MAX_FOLLOWED = 100

WriteLine = Callable[[str], None]
"""Takes one line without its newline."""


@dataclass(frozen=True)
class PodSelection:
    """Pods of one run, or some of them."""

    key: Key
    role: Role | None = None
    index: int | None = None

    @property
    def is_one(self) -> bool:
        """Whether at most one pod is selected: its lines need no prefix."""
        return self.role is not None and self.index is not None

    def prefix(self, pod: ObservedPod) -> str:
        """Return the prefix of each line of `pod`."""
        return "" if self.is_one else f"[{pod.pod_role.hostname}] "


@dataclass(frozen=True)
class LogSink:
    """Destination of log lines, and of notices about pods and connections."""

    write: WriteLine
    notify: WriteLine


@dataclass(frozen=True)
class FollowTimings:
    """Intervals and timeouts of a followed log."""

    poll_seconds: float = 2.0
    """Between two lists of the pods."""
    silence_seconds: float = 60.0
    """Without a byte for this long, the log is requested again: its connection may be dead."""
    away_seconds: float = AWAY_SECONDS
    """The API server is retried for this long."""


async def show_logs(kube: KubeClient, selection: PodSelection, options: LogOptions, sink: LogSink) -> int:
    """Write the present logs, pod by pod; return the number of pods that had one. Raises KubeError."""
    num_shown = 0
    for pod in await fetch_pods(kube, selection.key, role=selection.role, index=selection.index):
        if not pod.has_log and not options.previous:
            sink.notify(f"{pod.name} has no log yet: {describe_wait(pod)}")
            continue
        try:
            await _read(kube, selection, _Stream(pod, options), sink, FollowTimings())
        except KubeError as error:
            if error.status not in (400, 404):  # no such pod or container, or no container before this one
                raise
            sink.notify(f"{pod.name}: {error.message}")
        else:
            num_shown += 1
    return num_shown


async def follow_logs(
    kube: KubeClient,
    selection: PodSelection,
    options: LogOptions,
    sink: LogSink,
    timings: FollowTimings | None = None,
) -> None:
    """Write the logs of all selected pods, present and future, until the run is over. Raises KubeError."""
    await _Follower(kube, selection, options, sink, timings or FollowTimings()).follow()


@dataclass
class _Stream:
    """The log of one container between two restarts."""

    pod: ObservedPod
    """As of the last list."""
    options: LogOptions
    offset: LogOffset = LogOffset()
    is_complete: bool = False
    """All of it is written, and its container has ended."""
    task: "asyncio.Task[None] | None" = None

    @property
    def is_reading(self) -> bool:
        return self.task is not None and not self.task.done()


async def _read(
    kube: KubeClient, selection: PodSelection, stream: _Stream, sink: LogSink, timings: FollowTimings
) -> None:
    """Write a log from its offset on; a last line without a newline is written once the log is complete.

    Raises KubeError.
    """
    options = stream.options
    will_be_complete = stream.pod.container_state == "terminated" or options.previous or not options.follow
    reader = LineReader(stream.offset, timestamps=options.timestamps)
    prefix = selection.prefix(stream.pod)
    query = build_query(CONTAINER, options, stream.offset)
    chunks = kube.read_log(selection.key[0], stream.pod.name, query, silence_seconds=timings.silence_seconds)
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                for line in reader.feed(chunk):
                    sink.write(prefix + line)
        if will_be_complete:
            for line in reader.close():
                sink.write(prefix + line)
            stream.is_complete = True
    finally:
        stream.offset = reader.offset


@dataclass
class _Follower:
    """Follows one stream for each container and restart."""

    kube: KubeClient
    selection: PodSelection
    options: LogOptions
    sink: LogSink
    timings: FollowTimings
    streams: dict[tuple[str, int], _Stream] = field(default_factory=dict)
    is_first: bool = True
    last_answer: float = field(default_factory=time.monotonic)
    notices: set[str] = field(default_factory=set)

    async def follow(self) -> None:
        try:
            while not await self._poll():
                await asyncio.sleep(self.timings.poll_seconds)
        finally:
            tasks = [each.task for each in self.streams.values() if each.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self) -> bool:
        """List the pods and start their streams; return whether all logs of the run are complete."""
        for stream in self.streams.values():
            self._collect(stream)
        try:
            pods = await fetch_pods(self.kube, self.selection.key, role=self.selection.role, index=self.selection.index)
            self._start_streams(pods)
            done = not any(each.is_reading for each in self.streams.values()) and await self._is_over(pods)
        except KubeError as error:
            if not error.is_passing or time.monotonic() - self.last_answer > self.timings.away_seconds:
                raise
            self._notify(f"no answer from the cluster, retry in {self.timings.poll_seconds:g} s: {error}")
            return False
        self.last_answer = time.monotonic()
        return done

    def _start_streams(self, pods: Sequence[ObservedPod]) -> None:
        if len(pods) > MAX_FOLLOWED:
            self._notify(f"{len(pods)} pods, of which {MAX_FOLLOWED} are followed: select with --role and --index")
        for pod in pods[:MAX_FOLLOWED]:
            if not pod.has_log:
                self._notify(f"{pod.name} has no log yet: {describe_wait(pod)}")
                continue
            # A container that starts later is new: all of its log is wanted.
            options = self.options if self.is_first else replace(self.options, tail=None)
            stream = self.streams.setdefault(pod.log_key, _Stream(pod, options))
            stream.pod = pod
            if not stream.is_reading and not stream.is_complete:
                stream.task = asyncio.create_task(_read(self.kube, self.selection, stream, self.sink, self.timings))
        self.is_first = False

    def _collect(self, stream: _Stream) -> None:
        """Raise the error that ended a stream, unless a retry may help."""
        if stream.task is None or not stream.task.done():
            return
        error = stream.task.exception()
        stream.task = None
        if error is None or isinstance(error, KubeSilence):
            return
        if not isinstance(error, KubeError) or error.status in (401, 403):
            raise error
        if error.status != 404:  # 404: the pod was deleted; the next list will not have it
            self._notify(f"{stream.pod.name}: {error}")

    async def _is_over(self, pods: Sequence[ObservedPod]) -> bool:
        """Whether the run is over and the logs of its pods are complete."""
        if not all(self.streams[pod.log_key].is_complete for pod in pods[:MAX_FOLLOWED] if pod.has_log):
            return False
        try:
            run = parse_observed_run(await self.kube.get(RUNS, *self.selection.key))
        except KubeError as error:
            if error.status == 404:
                return True
            raise
        if not is_over(run.status):
            if not pods:
                self._notify(f"no pods yet: {state_word(run.status)}")
            return False
        return True

    def _notify(self, text: str) -> None:
        """Write a notice, once."""
        if text not in self.notices:
            self.notices.add(text)
            self.sink.notify(text)
