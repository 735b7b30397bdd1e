"""Documents that the API server accepts and refuses.

The tables of tests/admission, which `scalerl validate` is tested on too.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACCEPTED, REJECTED, FIELDS, CLUSTER = (
    yaml.safe_load((ROOT / f"tests/admission/{name}.yaml").read_text())
    for name in ("accepted", "rejected", "fields", "cluster")
)
ONE_GPU = ROOT / "examples/qwen3-0.6b-one-gpu.yaml"  # for `scalerl run` only
EXAMPLES = sorted(set((ROOT / "examples").glob("*.yaml")) - {ONE_GPU})
# The API server has no rules on data.train, which has no type there: the operator refuses such a run.
SOURCES = ROOT / "tests/unit/api/broken/held_out_larger_than_data.yaml"
BROKEN = sorted(set((ROOT / "tests/unit/api/broken").glob("*.yaml")) - {SOURCES})

Document = dict[str, Any]
Ask = Callable[[Document], str | None]
Edit = Callable[[Document], Document]


def by_case(rows: list[Document]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=[row["case"] for row in rows])


@by_case(ACCEPTED)
def test_accepted(row: Document, ask: Ask, edit: Edit) -> None:
    assert ask(edit(row["changes"])) is None


@by_case(REJECTED)
def test_rejected_with_the_message_of_the_command_line(row: Document, ask: Ask, edit: Edit) -> None:
    message = ask(edit(row["changes"]))
    assert message is not None
    path, words = row["message"].split(": ", 1)
    assert row.get("server", words) in message
    assert re.sub(r"\.name$", "", path) in message


@by_case([row for row in FIELDS if row["server"]])
def test_field_rejected_with_the_servers_message(row: Document, ask: Ask, edit: Edit) -> None:
    message = ask(edit(row["changes"]))
    assert message is not None
    assert row["server"] in message


@by_case([row for row in FIELDS if not row["server"]])
def test_command_line_alone_is_stricter(row: Document, ask: Ask, edit: Edit) -> None:
    """The API server accepts every file that `scalerl validate` accepts; the few that only it accepts are listed."""
    assert ask(edit(row["changes"])) is None


@by_case(CLUSTER)
def test_settings_without_support_on_a_cluster_are_rejected(row: Document, ask: Ask, edit: Edit) -> None:
    assert row["message"] in str(ask(edit(row["changes"])))


def test_the_example_for_one_gpu_is_not_for_a_cluster(cluster: Any) -> None:
    done = cluster.kubectl("create", "--dry-run=server", "-f", ONE_GPU)
    assert done.returncode == 1
    assert CLUSTER[0]["message"] in done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_accepted(path: Path, cluster: Any) -> None:
    done = cluster.kubectl("create", "--dry-run=server", "-f", path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_file_is_rejected(path: Path, cluster: Any) -> None:
    done = cluster.kubectl("create", "--dry-run=server", "-f", path)
    assert done.returncode == 1
