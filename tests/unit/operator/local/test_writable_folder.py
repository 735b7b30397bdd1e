"""A folder that a run cannot write is named before anything starts."""

import errno
import os
from pathlib import Path

import pytest

from scalerl_operator.cli.main import main
from scalerl_operator.local.writable_folder import make_writable

QUICKSTART = Path(__file__).parents[4] / "examples" / "quickstart.yaml"


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert make_writable(tmp_path / "a" / "b") is None
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only"), (errno.EACCES, "denied"), (errno.EDQUOT, "quota")],
)
def test_an_error_of_the_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    def fail(_file: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    obstacle = make_writable(tmp_path / "a")
    assert obstacle is not None
    assert obstacle.startswith(f"{tmp_path / 'a'}: ")
    assert words in obstacle


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_file_in_the_way_is_a_wrong_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", str(QUICKSTART), "--folder", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == (
        f"scalerl: --folder cannot be written: {tmp_path / 'file'} is a file, not a folder\n"
    )


@pytest.mark.parametrize("place", ["/proc/scalerl", "/sys/scalerl"])
def test_a_read_only_place_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str], place: str) -> None:
    assert main(["run", str(QUICKSTART), "--folder", place]) == 2
    assert capsys.readouterr().err.startswith(f"scalerl: --folder cannot be written: {place}: ")


def test_checkpoints_that_cannot_be_written_are_a_wrong_spec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    text = QUICKSTART.read_text().replace("spec:\n", f"spec:\n  checkpoint: {{path: {tmp_path}/file/x}}\n", 1)
    (tmp_path / "run.yaml").write_text(text)
    assert main(["run", str(tmp_path / "run.yaml"), "--folder", str(tmp_path / "run")]) == 64
    assert capsys.readouterr().err.startswith(f"spec.checkpoint.path: {tmp_path}/file/x, a folder that can be written")
