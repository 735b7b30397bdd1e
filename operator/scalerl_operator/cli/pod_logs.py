"""Logs of a run's pods: one after the other, or followed all at once over attempts and restarts. I/O."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from scalerl_operator.cli.cluster_reader import fetch_pods
from scalerl_operator.cli.log_lines import LineReader, LogOffset, LogOptions, build_query
from scalerl_operator.kube.client import AWAY_SECONDS, RUNS, KubeClient, KubeError, KubeSilence, find_object
from scalerl_operator.reconcile.pod_view import PodView
from scalerl_operator.reconcile.snapshot import Key, parse_observed_run
from scalerl_operator.resources.names import CONTAINER, Role
from scalerl_operator.run.state import is_over, state_word

MAX_FOLLOWED = 100

Say = Callable[[str], None]
"""Takes one line without its end."""


@dataclass(frozen=True)
class PodSelection:
    """Whose logs."""

    key: Key
    role: Role | None = None
    index: int | None = None

    @property
    def is_one(self) -> bool:
        """Whether it can be one pod only: its lines need no prefix."""
        return self.role is not None and self.index is not None

    def prefix(self, pod: PodView) -> str:
        """Return what is put before a line of `pod`."""
        return "" if self.is_one else f"[{pod.place.hostname}] "


@dataclass(frozen=True)
class LogSink:
    """Where lines and remarks go."""

    say: Say
    remark: Say


@dataclass(frozen=True)
class FollowTimings:
    """How patient the reading is."""

    look_seconds: float = 2.0
    """Between two looks for pods that have begun."""
    silence_seconds: float = 60.0
    """A followed log that says nothing for so long is asked for anew: its connection may be dead."""
    away_seconds: float = AWAY_SECONDS


async def show_logs(kube: KubeClient, choice: PodSelection, wish: LogOptions, mouth: LogSink) -> int:
    """Tell the logs as they are now, pod after pod; return how many could be told. Raises KubeError."""
    told = 0
    for pod in await fetch_pods(kube, choice.key, role=choice.role, index=choice.index):
        if not pod.begun and not wish.previous:
            mouth.remark(f"{pod.name} has no log yet: {pod.waits}")
            continue
        try:
            await _read(kube, choice, _Stream(pod, wish), mouth, FollowTimings())
        except KubeError as error:
            if error.status not in (400, 404):  # no such container or pod, or none before this one
                raise
            mouth.remark(f"{pod.name}: {error.message}")
        else:
            told += 1
    return told


async def follow_logs(
    kube: KubeClient, choice: PodSelection, wish: LogOptions, mouth: LogSink, pace: FollowTimings | None = None
) -> None:
    """Tell what every pod that is meant writes, now and later, until the run is over. Raises KubeError."""
    await _Follower(kube, choice, wish, mouth, pace or FollowTimings()).follow()


@dataclass
class _Stream:
    """One life of one container."""

    pod: PodView
    """As it was seen last."""
    wish: LogOptions
    place: LogOffset = LogOffset()
    drained: bool = False
    """All of it is told, and nothing more will come."""
    task: "asyncio.Task[None] | None" = None

    @property
    def busy(self) -> bool:
        return self.task is not None and not self.task.done()


async def _read(kube: KubeClient, choice: PodSelection, stream: _Stream, mouth: LogSink, pace: FollowTimings) -> None:
    """Tell a log from where it was left; what has no end is told if the container is over. Raises KubeError."""
    wish = stream.wish
    over = stream.pod.over or wish.previous or not wish.follow
    reader = LineReader(stream.place, timestamps=wish.timestamps)
    prefix = choice.prefix(stream.pod)
    query = build_query(CONTAINER, wish, stream.place)
    pieces = kube.read_log(choice.key[0], stream.pod.name, query, silence_seconds=pace.silence_seconds)
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                for line in reader.feed(piece):
                    mouth.say(prefix + line)
        if over:
            for line in reader.close():
                mouth.say(prefix + line)
            stream.drained = True
    finally:
        stream.place = reader.place


@dataclass
class _Follower:
    """What is followed: a stream for each life of each container."""

    kube: KubeClient
    choice: PodSelection
    wish: LogOptions
    mouth: LogSink
    pace: FollowTimings
    streams: dict[tuple[str, int], _Stream] = field(default_factory=dict)
    is_first: bool = True
    heard: float = field(default_factory=time.monotonic)
    remarks: set[str] = field(default_factory=set)

    async def follow(self) -> None:
        try:
            while not await self._look():
                await asyncio.sleep(self.pace.look_seconds)
        finally:
            tasks = [each.task for each in self.streams.values() if each.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> bool:
        """Begin what has begun; return whether nothing more will come."""
        for stream in self.streams.values():
            self._check(stream)
        try:
            pods = await fetch_pods(self.kube, self.choice.key, role=self.choice.role, index=self.choice.index)
            self._begin(pods)
            done = not any(each.busy for each in self.streams.values()) and await self._is_over(pods)
        except KubeError as error:
            if not error.is_passing or time.monotonic() - self.heard > self.pace.away_seconds:
                raise
            self._remark(f"the cluster does not answer, again in {self.pace.look_seconds:g} s: {error}")
            return False
        self.heard = time.monotonic()
        return done

    def _begin(self, pods: Sequence[PodView]) -> None:
        if len(pods) > MAX_FOLLOWED:
            self._remark(f"{len(pods)} pods, of which {MAX_FOLLOWED} are followed: choose by --role and --index")
        for pod in pods[:MAX_FOLLOWED]:
            if not pod.begun:
                self._remark(f"{pod.name} has no log yet: {pod.waits}")
                continue
            wish = self.wish if self.is_first else replace(self.wish, tail=None)  # what begins later is new, all of it
            stream = self.streams.setdefault(pod.life, _Stream(pod, wish))
            stream.pod = pod
            if not stream.busy and not stream.drained:
                stream.task = asyncio.create_task(_read(self.kube, self.choice, stream, self.mouth, self.pace))
        self.is_first = False

    def _check(self, stream: _Stream) -> None:
        """Raise what has ended a stream, unless asking again may help."""
        if stream.task is None or not stream.task.done():
            return
        error = stream.task.exception()
        stream.task = None
        if error is None or isinstance(error, KubeSilence):
            return
        if not isinstance(error, KubeError) or error.status in (401, 403):
            raise error
        if error.status != 404:  # 404: the pod is gone, and so will be its stream's reason to go on
            self._remark(f"{stream.pod.name}: {error}")

    async def _is_over(self, pods: Sequence[PodView]) -> bool:
        """Whether the run is over, and what its pods have written is told."""
        if not all(self.streams[pod.life].drained for pod in pods[:MAX_FOLLOWED] if pod.begun):
            return False
        document = await find_object(self.kube, RUNS, *self.choice.key)
        if document is None:
            return True
        run = parse_observed_run(document)
        if not is_over(run.status):
            if not pods:
                self._remark(f"waits for pods: {state_word(run.status)}")
            return False
        return True

    def _remark(self, text: str) -> None:
        """Say something once."""
        if text not in self.remarks:
            self.remarks.add(text)
            self.mouth.remark(text)
