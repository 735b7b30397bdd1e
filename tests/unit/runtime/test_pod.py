"""A pod's part in a run: its seat, its Ray node's command, its last words."""

from pathlib import Path

import pytest
import yaml

from scalerl_api import RLRun, parse_run
from scalerl_runtime.launch import Environment
from scalerl_runtime.pod import Seat, build_node_command, leave_last_words

ROOT = Path(__file__).parents[3]
VARIABLES = {
    "SCALERL_ROLE": "trainer",
    "SCALERL_LEADER": "trainer-0.qwen.research.svc",
    "SCALERL_POD_IP": "10.4.5.6",
}
SEAT = Seat(role="generator", leader="trainer-0.qwen.research.svc", address="10.4.5.6", places=3)


@pytest.fixture
def run() -> RLRun:
    document = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    document["spec"]["trainer"] = {"replicas": 1, "gpusPerReplica": 4}
    document["spec"]["generator"] = {"gpusPerReplica": 2}
    return parse_run(document)


def test_a_trainers_pod_has_room_for_its_ranks_and_a_generators_for_one_engine(run: RLRun) -> None:
    seat = Seat.parse(VARIABLES, run)
    assert (seat.role, seat.leader, seat.address, seat.places) == (
        "trainer",
        "trainer-0.qwen.research.svc",
        "10.4.5.6",
        4,
    )
    assert Seat.parse({**VARIABLES, "SCALERL_ROLE": "generator"}, run).places == 1


def test_what_is_missing_is_named(run: RLRun) -> None:
    with pytest.raises(KeyError, match="SCALERL_POD_IP"):
        Seat.parse({key: value for key, value in VARIABLES.items() if key != "SCALERL_POD_IP"}, run)


def test_no_port_is_left_to_chance() -> None:
    """Written out by hand: a NetworkPolicy names these."""
    command = build_node_command(SEAT, head=False, num_cpus=7, folder="")[3:]
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
        "--object-store-memory=536870912",
        "--disable-usage-stats",
        "--no-redirect-output",
    ]


def test_the_head_is_found_at_its_own_port_and_does_not_block() -> None:
    command = build_node_command(SEAT, head=True, num_cpus=7, folder="/tmp/ray-x")
    assert command[3:6] == ["start", "--head", "--port=6379"]
    assert "--temp-dir=/tmp/ray-x" in command
    assert "--block" not in command


def test_last_words_are_copied_into_the_mounted_file(tmp_path: Path) -> None:
    words, place = tmp_path / "termination.json", tmp_path / "log"
    words.write_text('{"reason": "Finished"}')
    place.write_text("")
    before = place.stat().st_ino
    leave_last_words({"SCALERL_TERMINATION_FILE": str(words), "SCALERL_LAST_WORDS": str(place)})
    assert place.read_text() == '{"reason": "Finished"}'
    assert place.stat().st_ino == before, "a mounted file cannot be replaced"


def test_no_words_and_no_place_are_no_fault(tmp_path: Path) -> None:
    leave_last_words({"SCALERL_LAST_WORDS": str(tmp_path / "log")})
    leave_last_words({"SCALERL_TERMINATION_FILE": str(tmp_path / "none"), "SCALERL_LAST_WORDS": str(tmp_path / "log")})
    assert not (tmp_path / "log").exists()


def test_the_leader_joins_a_cluster_only_where_there_is_one(tmp_path: Path) -> None:
    base = {name: str(tmp_path) for name in ("SCALERL_SPEC", "SCALERL_FOLDER", "SCALERL_TOKEN_FILE")}
    base["SCALERL_TERMINATION_FILE"] = str(tmp_path / "t")
    assert Environment.parse(base).cluster is None
    assert Environment.parse({**base, "SCALERL_RAY_CLUSTER": "10.4.5.6:6379"}).cluster == "10.4.5.6:6379"
