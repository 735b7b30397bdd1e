"""`scalerl run` end to end with a coordinator that trains nothing.

Processes, restarts, records, and what is left behind.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import yaml

from scalerl_api import RLRun, wire
from scalerl_api.status import AttemptStatus
from scalerl_operator.decide.lifecycle import Done, Limits
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.driver import DriverDeps, drive, prepare_folder
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.local.signals import Interrupts
from scalerl_operator.render.text import ProgressView

FAST = Limits(retries=1, exit_seconds=20.0)
BUDGET = {"steps": 50, "evalEverySteps": 10}


@dataclass
class Recorder:
    """A display that remembers, and calls back at every look."""

    on_update: Callable[[ProgressView], None] = lambda _: None
    events: list[str] = field(default_factory=list)

    def update(self, view: ProgressView) -> None:
        self.on_update(view)

    def event(self, text: str) -> None:
        self.events.append(text)


@dataclass
class Stage:
    """One folder and the scenario of the coordinators in it."""

    folder: RunFolder
    command: list[str]
    make_run: Callable[..., RLRun]
    document: Callable[..., dict[str, object]]
    monkeypatch: pytest.MonkeyPatch
    interrupts: Interrupts = field(default_factory=Interrupts)
    recorder: Recorder = field(default_factory=Recorder)
    limits: Limits = FAST
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def play(self, scenario: dict[str, object], *, resume: bool = False, **spec: object) -> Done:
        spec = {"budget": BUDGET, "failurePolicy": {"backoffSeconds": 0}, **spec}
        self.monkeypatch.setenv("FAKE_COORDINATOR", json.dumps(scenario))
        run = self.make_run(**spec)
        with records.lock_folder(self.folder) as lock:
            prepare_folder(self.folder, run, yaml.safe_dump(self.document(**spec)), resume=resume)
            deps = DriverDeps(
                self.interrupts,
                now=self.now,
                command=self.command,
                limits=self.limits,
                poll_seconds=0.02,
                inherit=(lock,),
            )
            return drive(run, self.folder, self.recorder, deps)

    def steps(self) -> list[int]:
        return [point.step for point in records.load_evals(self.folder)]

    def attempts(self) -> tuple[AttemptStatus, ...]:
        return records.load_attempts(self.folder)


def hasty_clock() -> datetime:
    """A clock on which a second of patience is over in 20 ms."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return begin + 50 * (datetime.now(UTC) - begin)


def leftovers(folder: RunFolder) -> list[str]:
    """The command lines of all processes that belong to the run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(wire.ENV_FOLDER) == str(folder.path.resolve()):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def stage(
    tmp_path: Path,
    fake_coordinator: list[str],
    make_run: Callable[..., RLRun],
    document: Callable[..., dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    folder = RunFolder(tmp_path / "run")
    yield Stage(folder, fake_coordinator, make_run, document, monkeypatch)
    assert leftovers(folder) == [], "every path leaves nothing alive"
    assert not folder.token.exists(), "a token outlives no coordinator"


def test_a_run_finishes_with_all_points_forecast_once_each(stage: Stage) -> None:
    done = stage.play({"spawn": True})
    assert done.outcome == "Finished"
    assert stage.steps() == [0, 10, 20, 30, 40, 50]
    assert [line.step for line in records.load_forecasts(stage.folder)] == [0, 10, 20, 30, 40, 50]
    status = records.load_run(stage.folder).status
    assert status is not None
    assert status.progress is not None
    assert (status.progress.step, status.progress.phase) == (50, "finished")
    assert status.progress.pass_rate == 0.6621  # 0.2 + 0.5 logistic(20/8)
    assert {c.type: c.status for c in status.conditions}["Complete"] == "True"


def test_at_the_end_every_source_has_the_forecast_of_all_its_points(stage: Stage) -> None:
    """A fit is under way when the last evaluation arrives; its own follows it."""
    assert stage.play({"sources": ["code", "math"]}).outcome == "Finished"
    status = records.load_run(stage.folder).status
    assert status is not None
    assert {each.name: each.points for each in status.source_forecasts} == {"code": 6, "math": 6}


def test_one_completion_is_shown_early(stage: Stage) -> None:
    assert stage.play({}).outcome == "Finished"
    (shown,) = (event for event in stage.recorder.events if "completions right" in event)
    first, second, third = shown.splitlines()
    assert first.endswith(": 3 of 128 completions right")
    assert second == "  reward +1: 12 + 7 = -> <think>so </think> 19"
    assert third == f"  more: scalerl rollouts {stage.folder.path}"


def test_the_token_file_is_for_its_owner_only(stage: Stage) -> None:
    modes = []
    before = set(psutil.Process().children(recursive=True))  # of other tests: a tracker of resources, zombies

    def look(view: ProgressView) -> None:
        if view.progress is not None and not modes:
            modes.append(stat.S_IMODE(stage.folder.token.stat().st_mode))
            token = stage.folder.token.read_text()
            running = set(psutil.Process().children(recursive=True)) - before
            assert len(running) == 2, "supervisor and coordinator"
            assert all(token not in " ".join([*each.cmdline(), *each.environ().values()]) for each in running)
            stage.interrupts.press()

    stage.recorder.on_update = look
    stage.play({"hold": {"1": 5}})
    assert modes == [0o600]


def test_a_killed_coordinator_is_restarted_from_its_checkpoint(stage: Stage) -> None:
    done = stage.play({"crash": {"1": [23, -9]}, "spawn": True, "torn": True})
    assert done.outcome == "Finished"
    first, second = stage.attempts()
    assert (first.exit_code, first.said, second.exit_code) == (137, None, 0)
    assert stage.steps() == [0, 10, 20, 30, 40, 50]
    text = (stage.folder.path / wire.METRICS_FILE).read_text().splitlines()
    assert [json.loads(line)["step"] for line in text if json.loads(line)["attempt"] == 2][0] == 21


def test_a_restarted_coordinator_is_asked_for_its_points_from_the_first(stage: Stage) -> None:
    """Attempt 1 reported points 0 to 2.

    Attempt 2 goes on from step 15, where its point 2 is another one, of step 20.
    """

    def interrupt_once_reported(view: ProgressView) -> None:
        if any(point.step == 20 and point.attempt == 2 for point in view.evals) and not stage.interrupts.count:
            stage.interrupts.press()

    stage.recorder.on_update = interrupt_once_reported
    # Without the point the coordinator would wait at step 25 for ever.
    done = stage.play({"crash": {"1": [23, 1]}, "until_polled": True, "hold": {"2": 25}}, checkpoint={"everySteps": 15})
    assert done.outcome == "Interrupted"
    assert [(point.step, point.attempt) for point in records.load_evals(stage.folder)] == [(0, 1), (10, 1), (20, 2)]


def test_what_a_second_attempt_measures_again_is_forecast_again(stage: Stage) -> None:
    done = stage.play({"crash": {"1": [23, 1]}, "until_polled": True}, checkpoint={"everySteps": 15})
    assert done.outcome == "Finished"
    made = [(line.step, line.attempt) for line in records.load_forecasts(stage.folder)]
    assert made == [(0, 1), (10, 1), (20, 1), (20, 2), (30, 2), (40, 2), (50, 2)]


def test_restarts_are_bounded(stage: Stage) -> None:
    crash = {str(number): [3, 1] for number in range(1, 9)}
    done = stage.play({"crash": crash}, failurePolicy={"maxRestarts": 1, "backoffSeconds": 0})
    assert done.outcome == "RestartsExhausted"
    assert "fell at step 3" in done.message
    # The first attempt left the checkpoint of step 0, which is no progress.
    assert [attempt.exit_code for attempt in stage.attempts()] == [1, 1]


def test_a_fault_of_the_surroundings_spends_no_restart_but_ends_too(stage: Stage) -> None:
    crash = {str(number): [3, 75] for number in range(1, 9)}
    done = stage.play({"crash": crash}, failurePolicy={"maxRestarts": 0})
    assert done.outcome == "RetriesExhausted"
    assert len(stage.attempts()) == 2


def test_a_spec_that_the_runtime_refuses_is_not_tried_again(stage: Stage) -> None:
    stage.monkeypatch.setattr(stage, "document", lambda **_: {"kind": "Nonsense"})
    done = stage.play({})
    assert done.outcome == "InvalidSpec"
    assert len(stage.attempts()) == 1


def test_a_policy_stop_saves_and_is_complete(stage: Stage) -> None:
    policy = {"name": "enough", "when": {"passRate": {"above": 0.25}}, "for": 2}
    done = stage.play({"hold": {"1": 30}}, stopPolicies=[policy])
    assert done.outcome == "StoppedByPolicy"
    status = records.load_run(stage.folder).status
    assert status is not None
    found = {c.type: (c.status, c.reason) for c in status.conditions}
    assert found["Complete"] == ("True", "StoppedByPolicy")
    assert found["Failed"][0] == "False"
    assert status.stop is not None
    assert status.stop.policy == "enough"
    # logistic(-10/8) = 0.223 and logistic(0) = 0.5: both 0.31 and 0.45 are above, at steps 20 and 30.
    assert stage.attempts()[0].checkpoint_step == 30


def test_the_watchdog_restarts_a_run_that_stands_still(stage: Stage) -> None:
    scenario = {"hold": {"1": 25}, "still": {"1": 901.0}}
    done = stage.play(scenario, watchdog={"noStep": {"seconds": 900}})
    assert done.outcome == "Finished"
    first, second = stage.attempts()
    assert (first.stop_cause, first.checkpoint_step, first.exit_code) == ("WatchdogRestart", 25, 0)
    assert second.stop_cause is None
    message = "no step has ended for 900 s; 25 are done"
    assert f"asked to end (WatchdogRestart: NoStep: {message}): saving a checkpoint first" in stage.recorder.events
    assert f"attempt 1 was ended by the watchdog: NoStep: {message}" in stage.recorder.events


def test_a_warning_of_the_watchdog_is_said_once_and_ends_nothing(stage: Stage) -> None:
    done = stage.play({"lag": 9}, watchdog={"staleness": {"above": 8, "steps": 3}})
    assert done.outcome == "Finished"
    assert len(stage.attempts()) == 1
    said = [event for event in stage.recorder.events if event.startswith("Stale: ")]
    assert len(said) == 1
    assert "the oldest tokens lag more than 8 steps, for 3 steps up to step " in said[0]


def test_a_rule_fails_the_run_at_once(stage: Stage) -> None:
    rules = [{"name": "data", "action": "FailRun", "onExitCodes": {"operator": "In", "values": [42]}}]
    done = stage.play({"crash": {"1": [3, 42]}}, failurePolicy={"maxRestarts": 5, "rules": rules})
    assert (done.outcome, done.message) == (
        "FailedByRule",
        "attempt 1 ended with exit code 42: fell at step 3 (rule data: FailRun)",
    )
    assert len(stage.attempts()) == 1


def test_numbers_that_are_none_stop_a_run_that_wants_it(stage: Stage) -> None:
    crash = {"1": [3, wire.EXIT_NON_FINITE]}
    done = stage.play({"crash": crash}, watchdog={"nonFinite": {"action": "Stop"}})
    assert done.outcome == "StoppedByWatchdog"
    assert len(stage.attempts()) == 1


def test_an_observing_policy_is_said_and_ends_nothing(stage: Stage) -> None:
    """logistic(-10/8) = 0.223 at step 20: 0.31; at step 30, 40, 50 more, and no news."""
    policy = {"name": "watch", "when": {"passRate": {"above": 0.3}}, "for": 1, "mode": "Observe"}
    done = stage.play({}, stopPolicies=[policy])
    assert done.outcome == "Finished"
    said = [event for event in stage.recorder.events if event.startswith("policy watch (Observe): the pass rate is ")]
    assert len(said) == 1
    status = records.load_run(stage.folder).status
    assert status is not None
    assert status.stop is not None
    assert [each.step for each in status.stop.inputs] == [50]


def test_interrupt_once_saves_then_resume_goes_on(stage: Stage) -> None:
    def press_once_at_25(view: ProgressView) -> None:
        if view.progress is not None and view.progress.step == 25 and not stage.interrupts.count:
            stage.interrupts.press()

    stage.recorder.on_update = press_once_at_25
    done = stage.play({"hold": {"1": 25}, "spawn": True})
    assert done.outcome == "Interrupted"
    assert [a.checkpoint_step for a in stage.attempts()] == [25]
    stage.interrupts, stage.recorder = Interrupts(), Recorder()
    assert stage.play({}, resume=True).outcome == "Finished"
    assert stage.steps() == [0, 10, 20, 30, 40, 50]
    assert [line.step for line in records.load_forecasts(stage.folder)] == [0, 10, 20, 30, 40, 50]


def test_interrupt_twice_kills_a_deaf_coordinator(stage: Stage) -> None:
    stage.recorder.on_update = lambda view: stage.interrupts.press() if view.progress is not None else None
    done = stage.play({"hold": {"1": 5}, "deaf": True, "spawn": True})
    assert done.outcome == "Interrupted"
    assert stage.attempts()[0].exit_code == 137


def test_a_deaf_coordinator_is_killed_after_its_grace(stage: Stage) -> None:
    stage.limits, stage.now = Limits(exit_seconds=0.05), hasty_clock
    policy = {"name": "enough", "when": {"passRate": {"above": 0.1}}, "for": 1}
    deadlines = {"checkpointSeconds": 1}
    done = stage.play({"hold": {"1": 5}, "deaf": True}, stopPolicies=[policy], deadlines=deadlines)
    assert done.outcome == "StoppedByPolicy"
    assert stage.attempts()[0].exit_code == 137


def test_missed_polls_change_nothing(stage: Stage) -> None:
    missed = []
    stage.recorder.on_update = lambda view: missed.append(view.missed_polls)
    done = stage.play({"unheard": 4, "hold": {}})
    assert done.outcome == "Finished"
    assert max(missed) >= 1
    assert stage.steps() == [0, 10, 20, 30, 40, 50]
    assert len(stage.attempts()) == 1


def test_a_coordinator_that_never_answers_is_ended_and_counted(stage: Stage) -> None:
    stage.limits, stage.now = Limits(exit_seconds=0.05), hasty_clock
    done = stage.play(
        {"silent": True, "hold": {"1": 5}}, deadlines={"startSeconds": 1}, failurePolicy={"maxRestarts": 0}
    )
    assert done.outcome == "RestartsExhausted"
    assert "did not answer" in done.message


def test_an_error_in_the_driver_leaves_nothing(stage: Stage) -> None:
    def fail(view: ProgressView) -> None:
        if view.progress is not None:
            raise RuntimeError("display broke")

    stage.recorder.on_update = fail
    with pytest.raises(RuntimeError, match="display broke"):
        stage.play({"hold": {"1": 5}, "spawn": True})
    assert stage.attempts()[-1].over


def test_kill_9_of_the_driver_leaves_nothing_and_resume_loses_no_point(
    stage: Stage, tmp_path: Path, document: Callable[..., dict[str, object]]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(document(budget=BUDGET)))
    code = (
        "import sys; from scalerl_operator.cli.commands import CliDeps; from scalerl_operator.cli.main import main;"
        f"sys.exit(main(sys.argv[1:], deps=CliDeps({stage.command!r}, 0.02)))"
    )
    stage.monkeypatch.setenv("FAKE_COORDINATOR", json.dumps({"hold": {"1": 25}, "spawn": True}))
    command = [sys.executable, "-c", code, "run", str(file), "--folder", str(stage.folder.path)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    for line in driver.stdout:
        if "step 20:" in line:
            break
    assert any("sleep 1000" in each for each in leftovers(stage.folder)), "the stand-in has processes to lose"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    while records.is_driven(stage.folder):  # the lock lasts until the last of them is gone
        time.sleep(0.01)
    assert leftovers(stage.folder) == []
    assert stage.play({}, resume=True).outcome == "Finished"
    assert stage.steps() == [0, 10, 20, 30, 40, 50]
    lost, second = stage.attempts()
    assert (lost.over, lost.exit_code, second.number) == (True, None, 2)
    assert lost.checkpoint_step in range(20, 26), "the supervisor sent SIGTERM, at any step on its way to 25"


def test_environment_of_the_coordinator_names_places_and_no_secret(stage: Stage) -> None:
    from scalerl_operator.local.coordinator_process import build_environment

    found = build_environment(stage.folder, 7, {"PATH": "/bin"})
    assert found[wire.ENV_ATTEMPT] == "7"
    assert found[wire.ENV_PORT] == "0"
    assert found["PATH"] == "/bin"
    path = stage.folder.path.resolve()
    assert found[wire.ENV_SPEC] == f"{path}/run.yaml"
    assert found[wire.ENV_FOLDER] == str(path)
    assert found[wire.ENV_TERMINATION_FILE] == f"{path}/termination.json"
    assert os.path.dirname(found[wire.ENV_TOKEN_FILE]) == str(path)
