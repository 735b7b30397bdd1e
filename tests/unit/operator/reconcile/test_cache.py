"""The watch caches: snapshots in any order, missed events, runs of the same name."""

from datetime import UTC, datetime
from typing import Any

import pytest

from scalerl_operator.reconcile.cache import InformerCache
from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.observed_run import ObservedRun
from scalerl_operator.resources.names import PodRole

KEY = ("research", "tiny")
CREATED = datetime(2026, 5, 4, tzinfo=UTC)


def run(version: int, uid: str = "u1", namespace: str = "research") -> ObservedRun:
    return ObservedRun((namespace, "tiny"), uid, version, 1, "scalerl.io/operator", False, {}, {}, None)


def pod(name: str, version: int, uid: str = "p1", **values: Any) -> ObservedPod:
    role: Any = "trainer" if "trainer" in name else "generator"
    given = {"owner": "u1", "attempt": 1, "created": CREATED, **values}
    return ObservedPod(KEY, name, uid, version=version, pod_role=PodRole(role, 0), **given)


@pytest.fixture
def store() -> InformerCache:
    found = InformerCache()
    found.put_run(run(10))
    return found


def names(store: InformerCache) -> list[tuple[str, bool]]:
    observed = store.run(KEY)
    assert observed is not None
    return [(each.name, each.gone) for each in store.pods(observed)]


def test_an_older_state_is_not_stored(store: InformerCache) -> None:
    assert not store.put_run(run(10))
    assert not store.put_run(run(9))
    assert store.put_run(run(11))
    assert store.put_pod(pod("trainer-0", 5))
    assert not store.put_pod(pod("trainer-0", 4))


def test_a_trainer_that_is_gone_is_remembered_and_a_generator_is_not(store: InformerCache) -> None:
    for name in ("trainer-0", "generator-0"):
        store.put_pod(pod(name, 5, uid=name))
        assert store.drop_pod(pod(name, 6, uid=name, termination_message="bye"))
    assert names(store) == [("trainer-0", True)]
    observed = store.run(KEY)
    assert observed is not None
    assert store.pods(observed)[0].termination_message == "bye"


def test_what_is_gone_does_not_come_back_but_its_successor_does(store: InformerCache) -> None:
    store.put_pod(pod("trainer-0", 5))
    store.drop_pod(pod("trainer-0", 6))
    assert not store.put_pod(pod("trainer-0", 7))
    assert store.put_pod(pod("trainer-0", 8, uid="p2"))
    assert names(store) == [("trainer-0", False)]


def test_a_generator_that_is_deleted_does_not_come_back_by_a_late_answer(store: InformerCache) -> None:
    store.put_pod(pod("generator-0", 5))
    assert store.drop_pod(pod("generator-0", 7))
    assert not store.put_pod(pod("generator-0", 6)), "the answer to its deletion, read after the watch's event"
    assert names(store) == []
    assert store.put_pod(pod("generator-0", 8, uid="p2"))


def test_what_was_deleted_while_a_list_was_read_is_not_in_it(store: InformerCache) -> None:
    store.put_pod(pod("generator-0", 5))
    listed = [run(10), run(11, "u9", "other")], [pod("generator-0", 5), pod("generator-1", 6, "p3")]
    store.drop_pod(pod("generator-0", 7))
    store.drop_pod(pod("generator-1", 8, "p3"))
    store.drop_run(run(12, "u9", "other"))
    assert store.reconcile_lists(*listed, 6, None) == set()
    assert names(store) == []
    assert store.keys() == [KEY]


def test_only_the_newest_burials_are_remembered(store: InformerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalerl_operator.reconcile.cache.MAX_DELETED", 2)
    for index in range(3):
        store.drop_pod(pod("generator-0", 5, f"p{index}"))
    assert [store.put_pod(pod(f"generator-{index}", 5, f"p{index}")) for index in range(3)] == [True, False, False]


def test_the_end_of_a_predecessor_says_nothing(store: InformerCache) -> None:
    store.put_pod(pod("trainer-0", 8, uid="p2"))
    assert not store.drop_pod(pod("trainer-0", 9, uid="p1"))
    assert names(store) == [("trainer-0", False)]


def test_pods_of_a_run_of_the_same_name_are_not_its_successors(store: InformerCache) -> None:
    store.put_pod(pod("trainer-0", 5))
    store.drop_run(run(11))
    store.put_run(run(12, uid="u2"))
    assert names(store) == []


def test_a_late_end_of_a_run_does_not_end_its_successor(store: InformerCache) -> None:
    store.put_run(run(12, uid="u2"))
    store.drop_run(run(11, uid="u1"))
    assert store.keys() == [KEY]


def test_a_list_finds_what_a_watch_has_missed(store: InformerCache) -> None:
    store.put_run(run(10, namespace="other"))
    store.put_pod(pod("trainer-0", 5))
    store.put_pod(pod("generator-0", 30))
    changed = store.reconcile_lists([run(10)], [], 20, "research")
    assert changed == {KEY}
    assert names(store) == [("generator-0", False), ("trainer-0", True)], "what came after the list is not missed"
    assert len(store.keys()) == 2, "the list is of one namespace"
    assert store.reconcile_lists([run(10)], [], 25, None) == {("other", "tiny")}


def test_coordinators_are_those_that_can_be_asked() -> None:
    rows = [
        (pod("trainer-0", 5, ip="10.0.0.1", started=CREATED), 1),
        (pod("trainer-0", 5, ip="", started=CREATED), 0),
        (pod("trainer-0", 5, ip="10.0.0.1", started=None), 0),
        (pod("trainer-0", 5, ip="10.0.0.1", started=CREATED, exit_code=1), 0),
        (pod("generator-0", 5, ip="10.0.0.1", started=CREATED), 0),
    ]
    for observed, count in rows:
        fresh = InformerCache()
        fresh.put_run(run(10))
        fresh.put_pod(observed)
        assert len(list(fresh.coordinators())) == count
