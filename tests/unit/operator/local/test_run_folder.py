"""The files of a run's folder survive crashes and refuse two drivers."""

import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from scalerl_api import InvalidRun, RLRun, RLRunStatus
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.durable_files import append_line, save_text
from scalerl_operator.local.run_folder import FolderBusy, RunFolder
from scalerl_operator.local.yaml_document import load_document, parse_document
from scalerl_operator.run.attempts import start_attempt

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


BROKEN: list[tuple[str, str, str]] = [
    ("a bracket that is open", "a: [1, 2\nb: 3\n", "f.yaml:2:"),
    ("a tab", "a:\n\tb: 1\n", "f.yaml:2:1"),
    ("a key that is there twice", "spec:\n  seed: 1\n  seed: 2\n", "f.yaml:3:3: key 'seed' is set twice"),
    ("two documents", "a: 1\n---\nb: 2\n", "f.yaml:2:1"),
    ("an object of the program's", "a: !!python/object:os.system {}\n", "f.yaml:1:4"),
    ("a character that YAML forbids", "a: \x00\n", "f.yaml: "),
]


@pytest.mark.parametrize(("text", "place"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_yaml_names_file_and_line(text: str, place: str) -> None:
    with pytest.raises(InvalidRun) as caught:
        parse_document(text, "f.yaml")
    assert str(caught.value).startswith(place)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_cannot_be_read_is_a_fault_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidRun, match="No such file"):
        load_document(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(InvalidRun, match="byte 9 is not UTF-8"):
        load_document(tmp_path / "latin.yaml")


def test_merge_keys_are_allowed() -> None:
    text = "base: &base {a: 1}\nx: {<<: *base, b: 2}\n"
    assert parse_document(text, "f") == {"base": {"a": 1}, "x": {"a": 1, "b": 2}}


def test_status_file_is_the_run_with_its_status(folder: RunFolder, make_run: Callable[..., RLRun]) -> None:
    run = make_run(recipe={"preset": "gspo", "promptsPerStep": 8, "optimizer": {"warmupSteps": 2}})
    run = run.model_copy(update={"status": RLRunStatus(attempt=3)})
    records.save_status(folder, run)
    assert yaml.safe_load(folder.status.read_text())["spec"]["recipe"] == {
        "preset": "gspo",
        "promptsPerStep": 8,
        "optimizer": {"warmupSteps": 2},
    }
    found = records.load_run(folder)
    assert found.spec == run.spec
    assert found.status == run.status


def test_saving_replaces_and_leaves_no_scraps(folder: RunFolder) -> None:
    for text in ("first, and longer", "second"):
        save_text(folder.status, text)
    assert folder.status.read_text() == "second"
    assert [path.name for path in folder.path.iterdir()] == ["status.yaml"]
    assert stat.S_IMODE(folder.status.stat().st_mode) == 0o644


def test_a_cut_line_does_not_spoil_the_next(folder: RunFolder) -> None:
    folder.forecasts.write_text('{"whole": 1}\n{"cu')
    append_line(folder.forecasts, '{"next": 2}')
    assert folder.forecasts.read_text() == '{"whole": 1}\n{"cu\n{"next": 2}\n'


def test_the_last_line_of_an_attempt_counts(folder: RunFolder) -> None:
    first, second = start_attempt(1, NOW), start_attempt(2, NOW)
    killed = first.model_copy(update={"ended": NOW, "exit_code": 137})
    for each in (first, second, killed):
        records.append_attempt(folder, each)
    assert records.load_attempts(folder) == (killed, second)


def test_one_driver_at_a_time(folder: RunFolder) -> None:
    assert not records.is_driven(folder)
    with records.lock_folder(folder):
        assert records.is_driven(folder)
        with pytest.raises(FolderBusy, match="in use"), records.lock_folder(folder):
            pass
    assert not records.is_driven(folder)


def test_a_truncated_termination_message_is_none(folder: RunFolder) -> None:
    assert records.load_termination(folder) is None
    folder.termination.write_text('{"reason": "Fin')
    assert records.load_termination(folder) is None
    folder.termination.write_text('{\n  "reason": "Finished",\n  "step": 7\n}\n')
    found = records.load_termination(folder)
    assert found is not None
    assert found.step == 7


def test_log_tail(folder: RunFolder) -> None:
    assert records.load_log_tail(folder, num_lines=3) == []
    folder.log.write_text("".join(f"line {number}\n" for number in range(5000)))
    assert records.load_log_tail(folder, num_lines=2) == ["line 4998", "line 4999"]
