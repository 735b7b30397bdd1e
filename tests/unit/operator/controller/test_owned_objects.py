"""Objects of a run beside its pods: the calls that create, check and update them, and strangers' objects."""

import asyncio
import json
from typing import Any

import pytest

from scalerl_operator.controller.owned_objects import NotOurs, make_child
from scalerl_operator.kube.client import KubeClient, KubeError

Json = dict[str, Any]
HEAD: Json = {"name": "tiny-token", "namespace": "research"}
LABELS = {"app.kubernetes.io/managed-by": "scalerl-operator", "scalerl.io/run": "tiny", "other": "label"}
SECRET: Json = {"kind": "Secret", "metadata": {**HEAD, "labels": LABELS, "ownerReferences": [{"uid": "u1"}]}}
CLAIM: Json = {"kind": "PersistentVolumeClaim", "metadata": {**HEAD, "labels": LABELS}}

CREATE = "POST application/json"
CHECK, APPLY = "PATCH application/json-patch+json", "PATCH application/apply-patch+yaml"
FOUND: Json = {"metadata": {**HEAD, "uid": "s7"}}
ROWS: list[tuple[str, bool, list[Any], list[str], int | None]] = [
    ("it is made", False, [FOUND], [CREATE], None),
    ("it is the run's already", False, [409, FOUND, FOUND], [CREATE, CHECK, APPLY], None),
    ("it is the run's, and a quota refuses another", False, [403, FOUND, FOUND], [CREATE, CHECK, APPLY], None),
    ("a quota refuses it", False, [403, 404], [CREATE, CHECK], 403),
    ("it is gone before the check", False, [409, 404], [CREATE, CHECK], 409),
    ("the server fails", False, [500], [CREATE], 500),
    ("it was made before", True, [FOUND, FOUND], [CHECK, APPLY], None),
    ("it was made before and is gone", True, [404, FOUND], [CHECK, CREATE], None),
    ("another takes its place after the check", True, [FOUND, 409], [CHECK, APPLY], 409),
    ("the right to patch is missing", True, [403], [CHECK], 403),
]


def make(fake_api: Any, document: Json, given: list[Any], *, is_known: bool) -> list[Any]:
    """Return the calls; a number in `given` is the status of a refusal. Raises KubeError."""
    answers = [fake_api.refusal(each, "Because") if isinstance(each, int) else each for each in given]

    async def story() -> list[Any]:
        async with fake_api.serving(*answers) as api:
            kube = KubeClient(api.connection())
            try:
                await make_child(kube, document, is_known=is_known)
            except KubeError as error:
                error.add_note(json.dumps([_what(call) for call in api.calls]))
                raise
            finally:
                await kube.close()
            return list(api.calls)

    return asyncio.run(story())


def _what(call: Any) -> str:
    return f"{call.method} {call.headers['Content-Type']}"


@pytest.mark.parametrize(("known", "given", "calls", "status"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_calls_by_state_of_the_object(
    fake_api: Any, known: bool, given: list[Any], calls: list[str], status: int | None
) -> None:
    if status is None:
        assert [_what(call) for call in make(fake_api, SECRET, given, is_known=known)] == calls
        return
    with pytest.raises(KubeError) as caught:
        make(fake_api, SECRET, given, is_known=known)
    assert not isinstance(caught.value, NotOurs)
    assert (caught.value.status, json.loads(caught.value.__notes__[0])) == (status, calls)


@pytest.mark.parametrize(("known", "given"), [(False, [409, 422]), (True, [422])], ids=["new", "known"])
def test_a_strangers_object_is_left_alone(fake_api: Any, known: bool, given: list[Any]) -> None:
    with pytest.raises(NotOurs, match="Secret tiny-token: 409 AlreadyExists: it is not this run's") as caught:
        make(fake_api, SECRET, given, is_known=known)
    assert APPLY not in json.loads(caught.value.__notes__[0])


def test_only_the_checked_object_is_overwritten(fake_api: Any) -> None:
    *_, check, applied = make(fake_api, SECRET, [409, FOUND, FOUND], is_known=False)
    assert json.loads(check.body) == [{"op": "test", "path": "/metadata/ownerReferences/0/uid", "value": "u1"}]
    assert json.loads(applied.body) == {**SECRET, "metadata": {**SECRET["metadata"], "uid": "s7"}}
    assert "uid" not in SECRET["metadata"]


def test_a_claim_without_an_owner_belongs_to_the_run_by_its_labels(fake_api: Any) -> None:
    """A later run of the same name uses the claim again."""
    check, _ = make(fake_api, CLAIM, [FOUND, FOUND], is_known=True)
    assert json.loads(check.body) == [
        {"op": "test", "path": "/metadata/labels/app.kubernetes.io~1managed-by", "value": "scalerl-operator"},
        {"op": "test", "path": "/metadata/labels/scalerl.io~1run", "value": "tiny"},
    ]
