"""The informer cache: the last state of every run and of its pods. PURE: a data structure that the watches fill.

States come from watches, lists and answers to our own writes, in any order: the larger resourceVersion is the later,
and a deleted object stays deleted. A list is seconds old when its last page is read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.observed_run import Key, ObservedRun

MAX_DELETED = 20_000  # minutes of a busy cluster's deletions; an answer or a list is late by seconds


class InformerCache:
    """Runs by key, pods by run and name."""

    def __init__(self) -> None:
        self._runs: dict[Key, ObservedRun] = {}
        self._pods: dict[Key, dict[str, ObservedPod]] = {}
        self._deleted: dict[str, None] = {}
        """uids of deleted objects, the oldest first."""

    def keys(self) -> list[Key]:
        """Return every run's key."""
        return list(self._runs)

    def run(self, key: Key) -> ObservedRun | None:
        """Return the run; None if there is none."""
        return self._runs.get(key)

    def pods(self, run: ObservedRun) -> tuple[ObservedPod, ...]:
        """Return the pods that `run` owns, and the last state of its trainers' deleted pods; in order of names."""
        found = self._pods.get(run.key, {})
        return tuple(found[name] for name in sorted(found) if found[name].owner == run.uid)

    def coordinators(self) -> Iterator[tuple[ObservedRun, ObservedPod]]:
        """Yield every run whose coordinator runs, or has left a termination message, with that pod."""
        for run in list(self._runs.values()):
            for pod in self.pods(run):
                reports = bool(pod.termination_message) if pod.over else bool(pod.ip) and pod.started is not None
                if pod.is_coordinator and reports:
                    yield run, pod

    def put_run(self, run: ObservedRun) -> bool:
        """Store a run unless a newer state is stored; return whether it was stored."""
        old = self._runs.get(run.key)
        if run.uid in self._deleted or (old is not None and old.version >= run.version):
            return False
        self._runs[run.key] = run
        return True

    def drop_run(self, run: ObservedRun) -> None:
        """Drop a deleted run. Its pods are dropped when they are deleted themselves."""
        self._mark_deleted(run.uid)
        old = self._runs.get(run.key)
        if old is None or old.uid == run.uid:
            self._runs.pop(run.key, None)

    def put_pod(self, pod: ObservedPod) -> bool:
        """Store a pod unless a newer state is stored; return whether it was stored."""
        if pod.uid in self._deleted:
            return False
        pods = self._pods.setdefault(pod.run, {})
        old = pods.get(pod.name)
        if old is not None and old.version >= pod.version:
            return False
        pods[pod.name] = pod
        return True

    def drop_pod(self, pod: ObservedPod) -> bool:
        """Drop a deleted pod, but keep a trainer's last state: it holds how the attempt ended."""
        self._mark_deleted(pod.uid)
        pods = self._pods.get(pod.run, {})
        old = pods.get(pod.name)
        if old is None or old.uid != pod.uid or old.gone:
            return False
        last = pod if pod.version >= old.version else old
        if pod.pod_role.role == "trainer":
            pods[pod.name] = replace(last, gone=True)
        else:
            del pods[pod.name]
        if not pods:
            del self._pods[pod.run]
        return True

    def _mark_deleted(self, uid: str) -> None:
        self._deleted[uid] = None
        if len(self._deleted) > MAX_DELETED:
            del self._deleted[next(iter(self._deleted))]

    def forget(self, key: Key) -> None:
        """Drop the kept pods of a deleted run."""
        if key not in self._runs:
            left = {name: pod for name, pod in self._pods.pop(key, {}).items() if not pod.gone}
            if left:
                self._pods[key] = left

    def reconcile_lists(
        self, runs: Iterable[ObservedRun], pods: Iterable[ObservedPod], version: int, namespace: str | None
    ) -> set[Key]:
        """Store the whole lists of `namespace` (None: of all); return the runs of which something changed.

        Both lists were complete at `version`. A stored object that is in neither was deleted, and its event was missed.
        """
        runs, pods = list(runs), list(pods)
        changed = {run.key for run in runs if self.put_run(run)} | {pod.run for pod in pods if self.put_pod(pod)}
        known_runs, known_pods = {run.key for run in runs}, {(pod.run, pod.name) for pod in pods}
        for run in self._stored_runs(namespace):
            if run.key not in known_runs and run.version <= version:
                self.drop_run(run)
                changed.add(run.key)
        for pod in self._stored_pods(namespace):
            missed = (pod.run, pod.name) not in known_pods and pod.version <= version
            if missed and self.drop_pod(pod):
                changed.add(pod.run)
        return changed

    def _stored_runs(self, namespace: str | None) -> list[ObservedRun]:
        return [run for run in self._runs.values() if namespace in (None, run.key[0])]

    def _stored_pods(self, namespace: str | None) -> list[ObservedPod]:
        return [pod for key, found in self._pods.items() if namespace in (None, key[0]) for pod in found.values()]
