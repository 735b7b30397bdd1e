"""A generated page is written, or said to be stale."""

from pathlib import Path

import pytest

from scalerl_api.pages.generated_page import write_page


def test_check_fails_on_a_stale_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    assert write_page(str(page), lambda: "a\n", ["--check"]) == 1
    assert "make generate" in capsys.readouterr().err
    assert write_page(str(page), lambda: "a\n", []) == 0
    assert write_page(str(page), lambda: "a\n", ["--check"]) == 0
    assert write_page(str(page), lambda: "b\n", ["--check"]) == 1
    assert page.read_text() == "a\n", "--check writes nothing"
