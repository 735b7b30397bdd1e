"""kill -9 of a generator or its engine at each phase of a run; killed_run.py says what must hold.

The engine is a process of its own here, as it is on devices; by itself a CPU's is a thread of the generator.
"""

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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if victim == "engine":
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    check_killed_run(victim, tmp_path, write_run, lines)
