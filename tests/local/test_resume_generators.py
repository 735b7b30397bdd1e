"""kill -9 of a generator or its engine at each phase of a run; killed_run.py says what must hold."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from killed_run import check_killed_run  # noqa: E402


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("victim", ["generator", "engine"])
def test_resume_matrix(
    victim: str,
    tmp_path: Path,
    write_run: Callable[[dict[str, Any]], Path],
    lines: Callable[[Path], list[dict[str, Any]]],
) -> None:
    check_killed_run(victim, tmp_path, write_run, lines)
