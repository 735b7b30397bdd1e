"""kill -9 of the coordinator or a trainer at each phase of a run; killed_run.py says what must hold."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalerl_runtime.actors.generator import Generator

sys.path.insert(0, str(Path(__file__).parent))
from killed_run import check_killed_run  # noqa: E402
from stand_in_generator import StandInGenerator  # noqa: E402


def test_the_stand_in_has_the_generators_calls() -> None:
    for name, call in inspect.getmembers(StandInGenerator, inspect.isfunction):
        if not name.startswith("_"):
            assert [*inspect.signature(call).parameters] == [*inspect.signature(getattr(Generator, name)).parameters]


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("victim", ["coordinator", "trainer"])
def test_resume_matrix(
    victim: str,
    tmp_path: Path,
    write_run: Callable[[dict[str, Any]], Path],
    lines: Callable[[Path], list[dict[str, Any]]],
) -> None:
    check_killed_run(victim, tmp_path, write_run, lines)
