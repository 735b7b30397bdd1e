"""A pod's node in a run: its role, its Ray node's command, its termination message."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from scalerl_api import RLRun, parse_run
from scalerl_runtime.actors.options import Environment
from scalerl_runtime.actors.ray_node import (
    NodeRole,
    build_node_command,
    is_still_needed,
    serve,
    write_termination_message,
)

ROOT = Path(__file__).parents[4]
VARIABLES = {
    "SCALERL_ROLE": "trainer",
    "SCALERL_COORDINATOR": "trainer-0.qwen.research.svc",
    "SCALERL_POD_IP": "10.4.5.6",
}
NODE = NodeRole(
    role="generator",
    coordinator="trainer-0.qwen.research.svc",
    address="10.4.5.6",
    capacity=3,
    save_seconds=0.0,
    object_store_bytes=721_420_288,
)
MEMBER = replace(NODE, role="trainer", save_seconds=307.0)


@pytest.fixture
def run() -> RLRun:
    document = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    document["spec"]["trainer"] = {"replicas": 1, "gpusPerReplica": 4}
    document["spec"]["generator"] = {"gpusPerReplica": 2}
    document["spec"]["deadlines"] = {"checkpointSeconds": 307}
    return parse_run(document)


def test_capacity_is_a_trainers_ranks_or_one_engine(run: RLRun) -> None:
    node = NodeRole.parse(VARIABLES, run)
    assert (node.role, node.coordinator, node.address, node.capacity) == (
        "trainer",
        "trainer-0.qwen.research.svc",
        "10.4.5.6",
        4,
    )
    assert NodeRole.parse({**VARIABLES, "SCALERL_ROLE": "generator"}, run).capacity == 1


@pytest.mark.parametrize("role", ["trainer", "generator"])
def test_every_node_has_an_object_store_for_the_largest_batch(run: RLRun, role: str) -> None:
    """The quickstart's batch: 24 x 8 completions of 24 + 32 + 24 tokens, 14 bytes each."""
    node = NodeRole.parse({**VARIABLES, "SCALERL_ROLE": role}, run)
    assert node.object_store_bytes == 536_870_912 + 24 * 8 * 80 * 14


def test_a_trainer_serves_for_the_checkpoint_deadline_and_a_generator_not_at_all(run: RLRun) -> None:
    assert NodeRole.parse(VARIABLES, run).save_seconds == 307
    assert NodeRole.parse({**VARIABLES, "SCALERL_ROLE": "generator"}, run).save_seconds == 0


NEEDED = [
    ("right after SIGTERM a member saves with the others", MEMBER, 0.0, 0, True),
    ("one look that does not find the head is no end", MEMBER, 5.0, 2, True),
    ("a head that is gone needs nobody", MEMBER, 5.0, 3, False),
    ("the last second of the time for a checkpoint", MEMBER, 306.9, 0, True),
    ("the rest of the grace is for Ray's own end", MEMBER, 307.0, 0, False),
    ("a generator has nothing to save", NODE, 0.0, 0, False),
]


@pytest.mark.parametrize(
    ("node", "seconds", "misses", "needed"), [row[1:] for row in NEEDED], ids=[r[0] for r in NEEDED]
)
def test_members_that_still_serve_after_sigterm(node: NodeRole, seconds: float, misses: int, needed: bool) -> None:
    assert is_still_needed(node, seconds_since_signal=seconds, misses=misses) is needed


def looks(answers: list[bool]) -> Callable[[], Awaitable[bool]]:
    """Return a probe of the head that yields one of `answers` at each call."""

    async def look() -> bool:
        return answers.pop(0)

    return look


def served(node: NodeRole, program: str, answers: list[bool], *, probe_seconds: float) -> int:
    """Return the exit code of a node that runs `program` in a pod after SIGTERM."""

    async def run() -> int:
        stopping = asyncio.Event()
        stopping.set()
        command = [sys.executable, "-c", program]
        return await serve(node, command, stopping, looks(answers), probe_seconds=probe_seconds)

    return asyncio.run(run())


def test_a_member_serves_until_the_head_is_gone() -> None:
    """A deleted run's pods all get SIGTERM at once, and the coordinator's last checkpoint needs every trainer."""
    answers = [True, True, False, True, False, False, False]
    assert served(MEMBER, "import time; time.sleep(600)", answers, probe_seconds=0.0) == -15
    assert answers == []


def test_a_generator_stops_at_once() -> None:
    answers = [True]
    assert served(NODE, "import time; time.sleep(600)", answers, probe_seconds=0.0) == -15
    assert answers == [True]


def test_a_member_whose_node_exits_does_not_wait() -> None:
    assert served(MEMBER, "raise SystemExit(7)", [True, True], probe_seconds=60.0) == 7


def test_a_missing_variable_is_named(run: RLRun) -> None:
    with pytest.raises(KeyError, match="SCALERL_POD_IP"):
        NodeRole.parse({key: value for key, value in VARIABLES.items() if key != "SCALERL_POD_IP"}, run)


def test_every_port_is_fixed() -> None:
    """Written by hand: a NetworkPolicy names these ports."""
    command = build_node_command(NODE, head=False, num_cpus=7, folder="")[3:]
    assert command == [
        "start",
        "--address=trainer-0.qwen.research.svc:6379",
        "--block",
        "--node-ip-address=10.4.5.6",
        "--node-manager-port=6380",
        "--object-manager-port=6381",
        "--runtime-env-agent-port=6382",
        "--dashboard-agent-grpc-port=6383",
        "--dashboard-agent-listen-port=6384",
        "--metrics-export-port=6385",
        "--min-worker-port=10002",
        "--max-worker-port=10999",
        "--num-cpus=7",
        '--resources={"generator": 3}',
        "--object-store-memory=721420288",
        "--disable-usage-stats",
        "--no-redirect-output",
    ]


def test_the_head_is_found_at_its_own_port_and_does_not_block() -> None:
    command = build_node_command(NODE, head=True, num_cpus=7, folder="/tmp/ray-x")
    assert command[3:6] == ["start", "--head", "--port=6379"]
    assert "--temp-dir=/tmp/ray-x" in command
    assert "--block" not in command


def test_termination_message_is_copied_into_the_mounted_file(tmp_path: Path) -> None:
    words, place = tmp_path / "termination.json", tmp_path / "log"
    words.write_text('{"reason": "Finished"}')
    place.write_text("")
    before = place.stat().st_ino
    write_termination_message({"SCALERL_TERMINATION_FILE": str(words), "SCALERL_TERMINATION_PATH": str(place)})
    assert place.read_text() == '{"reason": "Finished"}'
    assert place.stat().st_ino == before, "a mounted file cannot be replaced"


def test_without_message_or_mounted_file_nothing_is_copied(tmp_path: Path) -> None:
    write_termination_message({"SCALERL_TERMINATION_PATH": str(tmp_path / "log")})
    write_termination_message(
        {"SCALERL_TERMINATION_FILE": str(tmp_path / "none"), "SCALERL_TERMINATION_PATH": str(tmp_path / "log")}
    )
    assert not (tmp_path / "log").exists()


def test_the_coordinator_joins_a_cluster_only_where_there_is_one(tmp_path: Path) -> None:
    base = {name: str(tmp_path) for name in ("SCALERL_SPEC", "SCALERL_FOLDER", "SCALERL_TOKEN_FILE")}
    base["SCALERL_TERMINATION_FILE"] = str(tmp_path / "t")
    assert Environment.parse(base).cluster is None
    assert Environment.parse({**base, "SCALERL_RAY_CLUSTER": "10.4.5.6:6379"}).cluster == "10.4.5.6:6379"
