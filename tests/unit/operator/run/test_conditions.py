"""docs/conditions.md has every name that the types allow, and no other."""

from typing import Any, get_args

import pytest

from scalerl_api.status import Condition, StopCause
from scalerl_operator.run import conditions as vocabulary
from scalerl_operator.run.conditions import COMPLETE, FAILED, PAUSED, build_page


def words(kind: Any) -> set[str]:
    """The words of a Literal, or of a union of Literals."""
    found = get_args(kind)
    return {each for part in found for each in (words(part) if get_args(part) else {part})}


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        (Condition.model_fields["type"].annotation, vocabulary.CONDITIONS),
        (vocabulary.StandingReason, vocabulary.STANDINGS),
        (vocabulary.HealthReason, vocabulary.HEALTH),
        (vocabulary.ForecastReason, vocabulary.FORECASTS),
        (vocabulary.StopReason, vocabulary.STOPS),
        (vocabulary.EventReason, vocabulary.EVENTS),
        (StopCause, vocabulary.CAUSES),
    ],
    ids=["conditions", "standings", "health", "forecasts", "stops", "events", "causes"],
)
def test_every_word_is_explained_and_every_explained_word_is_said(kind: Any, table: dict[str, Any]) -> None:
    assert words(kind) == set(table)


def test_every_outcome_ends_or_rests_the_run() -> None:
    assert sorted([*COMPLETE, *FAILED, *PAUSED]) == sorted(words(vocabulary.Outcome))


def test_a_warning_is_what_fails_a_run() -> None:
    assert {name for name in FAILED if vocabulary.EVENTS[name][0] == "Warning"} == set(FAILED)
    assert {vocabulary.EVENTS[name][0] for name in COMPLETE} == {"Normal"}


@pytest.mark.parametrize(
    "row",
    [
        "| `Suspended` | `spec.suspend` is true and the run holds no device. |",
        "| `StoppedByPolicy` | `Complete` | A stop policy has ended the run after a checkpoint. This is no failure. | "
        "See `status.stop`. |",
        "| `Training` |  | Optimizer steps run. |  |",
        "| `FailedCreate` | Warning | The API server refuses a pod or a shared object (quota, policy, template), or "
        "its name is in use. |",
        "| `GangBroken` | A trainer's pod is gone. | as that pod's end |",
    ],
)
def test_row(row: str) -> None:
    assert row in build_page().splitlines()
