"""The command line's answer when the runtime's check answers, fails, or answers something else."""

import json
import sys
from pathlib import Path

import pytest

from scalerl_api.wire import ModelFault, ModelVerdict
from scalerl_operator.local.model_verdicts import fetch_verdicts

FILES = [Path("a.yaml"), Path("b.yaml")]


def answering(text: str, code: int = 0, errors: str = "") -> list[str]:
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.stderr.write({errors!r}); sys.exit({code})"]


def test_verdicts_are_read_from_the_last_line() -> None:
    fault = {"path": "spec.model.source", "value": "x", "allowed": "y"}
    lines = "a library's greeting\n" + json.dumps([{"faults": [fault], "unchecked": ""}, {"unchecked": "absent"}])
    assert fetch_verdicts(FILES, answering(lines, 64)) == [
        ModelVerdict(faults=(ModelFault(path="spec.model.source", value="x", allowed="y"),)),
        ModelVerdict(unchecked="absent"),
    ]


@pytest.mark.parametrize("text", ["", "no JSON", '{"faults": 3}', "[3, 4]", "[]"])
def test_a_check_that_fails_says_so_for_every_file(text: str) -> None:
    found = fetch_verdicts(FILES, answering(text, 1, "first\nthe reason\n"))
    assert found == [ModelVerdict(unchecked="the check failed: the reason")] * 2


def test_no_file_starts_no_process() -> None:
    assert fetch_verdicts([], ["/does/not/exist"]) == []
