"""The watch caches: the last snapshot of every run and of its pods. PURE: a data structure, filled by whoever watches.

Sights come from watches, from lists and from the answers to our own writes, in any order: the larger resourceVersion is
the later, and whoever was deleted stays so. A list is seconds old when its last page is read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.observed_run import Key, ObservedRun

BURIED = 20_000  # minutes of a busy cluster's deletions; an answer or a list is late by seconds


class InformerCache:
    """Runs by key, pods by run and name."""

    def __init__(self) -> None:
        self._runs: dict[Key, ObservedRun] = {}
        self._pods: dict[Key, dict[str, ObservedPod]] = {}
        self._buried: dict[str, None] = {}
        """uids of what was deleted, the oldest first."""

    def keys(self) -> list[Key]:
        """Return every run's key."""
        return list(self._runs)

    def run(self, key: Key) -> ObservedRun | None:
        """Return the run; None if there is none."""
        return self._runs.get(key)

    def pods(self, run: ObservedRun) -> tuple[ObservedPod, ...]:
        """Return the pods that `run` owns, and the last snapshot of its trainers' that are gone; in order of names."""
        found = self._pods.get(run.key, {})
        return tuple(found[name] for name in sorted(found) if found[name].owner == run.uid)

    def coordinators(self) -> Iterator[tuple[ObservedRun, ObservedPod]]:
        """Yield every run whose coordinator runs, or has left last words, with that pod."""
        for run in list(self._runs.values()):
            for pod in self.pods(run):
                speaks = bool(pod.last_words) if pod.over else bool(pod.ip) and pod.started is not None
                if pod.is_coordinator and speaks:
                    yield run, pod

    def put_run(self, run: ObservedRun) -> bool:
        """Take a snapshot of a run in; return whether it is news."""
        old = self._runs.get(run.key)
        if run.uid in self._buried or (old is not None and old.version >= run.version):
            return False
        self._runs[run.key] = run
        return True

    def drop_run(self, run: ObservedRun) -> None:
        """Forget a run that is deleted. Its pods go when they are gone themselves."""
        self._bury(run.uid)
        old = self._runs.get(run.key)
        if old is None or old.uid == run.uid:
            self._runs.pop(run.key, None)

    def put_pod(self, pod: ObservedPod) -> bool:
        """Take a snapshot of a pod in; return whether it is news."""
        if pod.uid in self._buried:
            return False
        pods = self._pods.setdefault(pod.run, {})
        old = pods.get(pod.name)
        if old is not None and old.version >= pod.version:
            return False
        pods[pod.name] = pod
        return True

    def drop_pod(self, pod: ObservedPod) -> bool:
        """Forget a pod that is deleted, but for a trainer's last snapshot: it says how an attempt ended."""
        self._bury(pod.uid)
        pods = self._pods.get(pod.run, {})
        old = pods.get(pod.name)
        if old is None or old.uid != pod.uid or old.gone:
            return False
        last = pod if pod.version >= old.version else old
        if pod.place.role == "trainer":
            pods[pod.name] = replace(last, gone=True)
        else:
            del pods[pod.name]
        if not pods:
            del self._pods[pod.run]
        return True

    def _bury(self, uid: str) -> None:
        self._buried[uid] = None
        if len(self._buried) > BURIED:
            del self._buried[next(iter(self._buried))]

    def forget(self, key: Key) -> None:
        """Drop what is left of a run that is deleted."""
        if key not in self._runs:
            left = {name: pod for name, pod in self._pods.pop(key, {}).items() if not pod.gone}
            if left:
                self._pods[key] = left

    def reconcile_lists(
        self, runs: Iterable[ObservedRun], pods: Iterable[ObservedPod], version: int, namespace: str | None
    ) -> set[Key]:
        """Take the whole lists of `namespace` (None: of all) in; return the runs of which something was news.

        Both lists were complete at `version`. What was seen before and is in neither is deleted: its event was missed.
        """
        runs, pods = list(runs), list(pods)
        news = {run.key for run in runs if self.put_run(run)} | {pod.run for pod in pods if self.put_pod(pod)}
        known_runs, known_pods = {run.key for run in runs}, {(pod.run, pod.name) for pod in pods}
        for run in self._stored_runs(namespace):
            if run.key not in known_runs and run.version <= version:
                self.drop_run(run)
                news.add(run.key)
        for pod in self._stored_pods(namespace):
            missed = (pod.run, pod.name) not in known_pods and pod.version <= version
            if missed and self.drop_pod(pod):
                news.add(pod.run)
        return news

    def _stored_runs(self, namespace: str | None) -> list[ObservedRun]:
        return [run for run in self._runs.values() if namespace in (None, run.key[0])]

    def _stored_pods(self, namespace: str | None) -> list[ObservedPod]:
        return [pod for key, found in self._pods.items() if namespace in (None, key[0]) for pod in found.values()]
