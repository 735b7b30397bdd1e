"""The watchdog's rules over written-down answers of a coordinator."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from scalerl_api import RLRun
from scalerl_api.policies import VITAL_STEPS
from scalerl_api.wire import Progress, StepVital
from scalerl_operator.decide.watchdog import find_alarms, longest_step_seconds
from scalerl_operator.run.attempts import start_attempt
from scalerl_operator.run.observed import ObservedState

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RULES = {
    "noStep": {"seconds": 900, "action": "Restart"},
    "nonFinite": {"action": "Warn"},
    "staleness": {"above": 4, "steps": 3, "action": "Restart"},
    "entropy": {"below": 0.05, "steps": 2, "action": "Stop"},
    "mismatch": {"above": 0.02, "steps": 3, "action": "Stop"},
    "noGradient": {"steps": 4, "action": "Restart"},
}


def snapshot(
    vitals: list[dict[str, Any]], still: float | None = 1.0, *, answered: bool = True, alive: bool = True
) -> ObservedState:
    """A coordinator that has made step 31, 32, ... of `vitals`, the last one `still` seconds ago."""
    steps = [StepVital.model_validate({"step": 31 + i, **each}) for i, each in enumerate(vitals)]
    progress = Progress(
        run="tiny",
        attempt=2,
        phase="training",
        step=30 + len(steps),
        version=30,
        compute_gpu_hours=1.0,
        vitals=steps,
        still_seconds=still,
        time=5.0,
    )
    attempt = start_attempt(2, NOW).model_copy(update={"ended": None if alive else NOW})
    return ObservedState((attempt,), progress=progress, answered=NOW if answered else None)


def lags(*values: float | None) -> list[dict[str, Any]]:
    return [{"lag": value, "entropy": 1.0} for value in values]


def entropies(*values: float | None) -> list[dict[str, Any]]:
    return [{"entropy": value, "lag": 0.0} for value in values]


def mismatches(*values: float | None) -> list[dict[str, Any]]:
    return [{"mismatch": value} for value in values]


def rewards(*values: float | None, gradient: bool = False) -> list[dict[str, Any]]:
    return [{"reward": value, "gradient": gradient} for value in values]


NAN = {"finite": False, "entropy": 1.0, "lag": 0.0}
GOOD = {"entropy": 1.0, "lag": 0.0}

ROWS: list[tuple[ObservedState, list[tuple[str, str]], str]] = [
    (snapshot([GOOD]), [], "a healthy run"),
    (snapshot([GOOD], 900.0), [], "as long as is allowed"),
    (snapshot([GOOD], 900.5), [("NoStep", "Restart")], "longer than is allowed"),
    (snapshot([], 900.5), [("NoStep", "Restart")], "not even a first step"),
    (snapshot([GOOD], None), [], "it does not train: that has deadlines of its own"),
    (snapshot([GOOD], 5000.0, answered=False), [], "the answer is of the attempt before"),
    (snapshot([GOOD], 5000.0, alive=False), [], "nothing runs"),
    (snapshot(lags(5, 5, 5)), [("Stale", "Restart")], "three steps in a row, three asked for"),
    (snapshot(lags(0, 0, 5, 5, 5)), [("Stale", "Restart")], "only the last three count"),
    (snapshot(lags(5, 5)), [], "two steps yet"),
    (snapshot(lags(5, 4, 5)), [], "the bound itself is allowed"),
    (snapshot(lags(5, 5, 5, 0)), [], "the last step is fresh again"),
    (snapshot(lags(5, None, 5)), [], "unknown is not a yes: a step that trained nothing"),
    (snapshot(entropies(0.04, 0.03)), [("EntropyLow", "Stop")], "two steps in a row, two asked for"),
    (snapshot(entropies(0.04, 0.05)), [], "the floor itself is not below it"),
    (snapshot(entropies(0.04)), [], "one step yet"),
    (snapshot(entropies(0.04, None)), [], "unknown is not a yes: a step that trained nothing"),
    (snapshot(mismatches(0.03, 0.04, 0.05)), [("Mismatch", "Stop")], "three such steps, three asked for"),
    (snapshot(mismatches(0.03, 0.04)), [], "two steps yet that have enough tokens"),
    (
        snapshot(mismatches(0.03, None, 0.04, None, None, 0.05)),
        [("Mismatch", "Stop")],
        "steps without do not count",
    ),
    (snapshot(mismatches(0.03, 0.02, 0.05)), [], "the bound itself is allowed, and breaks the row"),
    (snapshot(mismatches(0.03, 0.04, 0.05, 1e-7)), [], "the last one is rounding again"),
    (snapshot(rewards(-1.0, -1.0, -1.0, None)), [("NoGradient", "Restart")], "four steps in a row, four asked for"),
    (snapshot(rewards(-1.0, -1.0, -1.0)), [], "three steps yet"),
    (snapshot([*rewards(-1.0, -1.0, -1.0), *rewards(-0.9, gradient=True), *rewards(-1.0)]), [], "one had a gradient"),
    (snapshot([NAN, GOOD]), [("NonFinite", "Warn")], "a step was left out"),
    (
        snapshot([NAN, *[{"lag": 9.0, "entropy": 0.01}] * 3], 901.0),
        [("EntropyLow", "Stop"), ("NoStep", "Restart"), ("Stale", "Restart"), ("NonFinite", "Warn")],
        "the gravest action first",
    ),
]


@pytest.mark.parametrize(("observed", "alarms"), [row[:2] for row in ROWS], ids=[row[2] for row in ROWS])
def test_which_rules_are_broken(
    make_run: Callable[..., RLRun], observed: ObservedState, alarms: list[tuple[str, str]]
) -> None:
    found = find_alarms(make_run(watchdog=RULES), observed)
    assert [(each.rule, each.action) for each in found] == alarms


def test_what_is_said_does_not_change_while_nothing_happens(make_run: Callable[..., RLRun]) -> None:
    run = make_run(watchdog=RULES)
    for message, first, later in (
        ("no step has ended for 900 s; 31 are done", snapshot([GOOD], 901.0), snapshot([GOOD], 4000.0)),
        ("the oldest tokens lag more than 4 steps, for 3 steps up to step 33",) + (snapshot(lags(5, 6, 7)),) * 2,
        ("entropy below 0.05 nats, for 2 steps up to step 32",) + (snapshot(entropies(0.01, 0.02)),) * 2,
        (
            "log-probabilities of engine and trainer differ by 0.051 nats on average at lag 0, more than 0.02 for 3 "
            "steps up to step 34",
            *(snapshot(mismatches(0.03, None, 0.04, 0.0512)),) * 2,
        ),
        (
            "no step had a gradient for 4 steps up to step 35: every completion of a group got the same reward "
            "(mean reward -0.50)",
            *(snapshot(rewards(1.0, -1.0, None, -1.0, 0.5)),) * 2,
        ),
        (
            "no step had a gradient for 4 steps up to step 34: every completion of a group got the same reward "
            "(no completion has a reward)",
            *(snapshot(rewards(None, None, None, None)),) * 2,
        ),
        ("loss or gradient was no number in 2 of the last 3 steps, step 32 the last",)
        + (snapshot([NAN, NAN, GOOD]),) * 2,
    ):
        assert [each.message for each in find_alarms(run, first)] == [message]
        assert find_alarms(run, later) == find_alarms(run, first)


def test_what_is_watched_unless_it_is_said_otherwise(make_run: Callable[..., RLRun]) -> None:
    """Standing still and NaN start anew; staleness warns beyond what the recipe promises; entropy is not watched."""
    run = make_run(recipe={"promptsPerStep": 16, "optimizer": {"warmupSteps": 3}, "asynchrony": {"maxLag": 6}})
    ten = [{"lag": 7.0, "entropy": 0.0}] * VITAL_STEPS
    assert [(each.rule, each.action) for each in find_alarms(run, snapshot(ten))] == [("Stale", "Warn")]
    assert find_alarms(run, snapshot([{**ten[0], "lag": 6.0}] * VITAL_STEPS)) == ()
    for count, found in ((4, []), (5, [("NoGradient", "Warn")])):
        assert [(each.rule, each.action) for each in find_alarms(run, snapshot(rewards(*[-1.0] * count)))] == found
    assert (run.spec.watchdog.no_step.action, run.spec.watchdog.non_finite.action) == ("Restart", "Restart")


@pytest.mark.parametrize(
    ("dtype", "head", "bound"), [("float32", "fp32", 1e-3), ("bfloat16", "fp32", 0.05), ("float32", "bf16", 0.05)]
)
def test_the_bound_on_the_mismatch_follows_the_precision(
    make_run: Callable[..., RLRun], dtype: str, head: str, bound: float
) -> None:
    recipe = {"promptsPerStep": 16, "optimizer": {"warmupSteps": 3}, "head": head}
    run = make_run(model={"source": "some/model", "dtype": dtype}, recipe=recipe)
    assert find_alarms(run, snapshot(mismatches(*[bound] * 5))) == ()
    assert [(a.rule, a.action) for a in find_alarms(run, snapshot(mismatches(*[bound * 1.01] * 5)))] == [
        ("Mismatch", "Warn")
    ]
    assert find_alarms(run, snapshot(mismatches(*[bound * 1.01] * 4))) == ()


@pytest.mark.parametrize(
    ("asynchrony", "allowed"),
    [
        ({"mode": "pipeline", "maxLag": 3, "offPolicySteps": 9}, 3),
        ({"mode": "offPolicy", "maxLag": 3, "offPolicySteps": 9}, 8),
        ({"mode": "synchronous", "maxLag": 3, "offPolicySteps": 9}, 0),
    ],
)
def test_each_mode_promises_its_own_lag(
    make_run: Callable[..., RLRun], asynchrony: dict[str, Any], allowed: int
) -> None:
    run = make_run(recipe={"promptsPerStep": 16, "optimizer": {"warmupSteps": 3}, "asynchrony": asynchrony})
    assert find_alarms(run, snapshot(lags(*[allowed] * 5))) == ()
    assert [each.rule for each in find_alarms(run, snapshot(lags(*[allowed + 1] * 5)))] == ["Stale"]


def test_a_step_may_take_what_its_deadlines_allow(make_run: Callable[..., RLRun]) -> None:
    """Evaluation 1000, three parts of checkpoints 200 each, weights 30, batch 5 + 7 + 30 + 5, step 4: 1681 s."""
    seconds = {"eval": 1000, "checkpoint": 200, "sync": 30, "generate": 5, "start": 7, "train": 4}
    run = make_run(deadlines={f"{name}Seconds": value for name, value in seconds.items()})
    assert longest_step_seconds(run) == 1681
    assert find_alarms(run, snapshot([GOOD], 1681.0)) == ()
    assert [each.rule for each in find_alarms(run, snapshot([GOOD], 1682.0))] == ["NoStep"]
