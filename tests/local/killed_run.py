"""A run whose processes are killed at each phase, and what must hold of it. For test_resume.py and its neighbour."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from living_children import living_children

from scalerl_api import parse_run
from scalerl_api.wire import HELD_OUT
from scalerl_operator.cli.commands import CliDeps
from scalerl_operator.cli.main import main
from scalerl_operator.local.rollout_files import find_file, list_names
from scalerl_runtime.algorithm.prompts.curriculum import PromptStream, StreamPosition
from scalerl_runtime.data.run_data import load_data
from scalerl_runtime.data.scratch_model import build_tokenizer

COORDINATOR = Path(__file__).with_name("faulty_coordinator.py")
PHASES = ["warm start", "generating", "training", "broadcasting", "copying", "writing", "sealing", "evaluating"]
NTH = {"warm start": 14, "generating": 9, "training": 3} | dict.fromkeys(PHASES[3:7], 2) | {"evaluating": 1}
# The victim at each phase, the victims between them, and whether the generator is vLLM's. A dead coordinator or trainer
# takes the whole attempt along, engines too: fifteen starts of it have the stand-in, the two of `once` the real one.
MATRIX = {
    "coordinator": (None, ["stand-in"]),
    "trainer": (None, ["stand-in"]),
    "generator": ("coordinator", []),
    "engine": ("trainer", []),
}
MAX_COMMANDS = 11  # `scalerl run --resume` until it is finished; one per kill of the coordinator, and some to spare


def first_issues(run_file: Path, count: int) -> set[tuple[int, int]]:
    """(epoch, prompt id) of the first `count` prompts, from the data and the seed alone."""
    run = parse_run(yaml.safe_load(run_file.read_text()))
    recipe = run.spec.resolved_recipe()
    data = load_data(run, recipe, build_tokenizer(64), run.spec.seed)
    import numpy as np

    stream = PromptStream("uniform", np.array([p.difficulty for p in data.train]), seed=run.spec.seed)
    position, found = StreamPosition(), set()
    for _ in range(count):
        issue, position = stream.draw(position)
        found.add((issue.epoch, data.train[issue.prompt].id))
    return found


def check_completions(folder: Path, ledger: list[dict[str, Any]]) -> None:
    """The stored completions are those of the ledger's steps and of each evaluation, each once."""
    names = list_names(folder)
    stored = {name: pq.read_table(find_file(folder, name)).to_pylist() for name in names}
    steps = {name.step: stored[name] for name in names if name.dataset is None}
    assert sorted(steps) == [line["step"] for line in ledger]
    for line in ledger:
        rows = [(row["epoch"], row["prompt_id"], row["sample"]) for row in steps[line["step"]]]
        assert len(rows) == len(set(rows))
        assert {row[:2] for row in rows} == {tuple(prompt) for prompt in line["prompts"]}
    evals = {name.step: stored[name] for name in names if name.dataset == HELD_OUT}
    assert sorted(evals) == [0, 4, 8, 12, 14]
    assert all(len({(row["prompt_id"], row["sample"]) for row in rows}) == len(rows) for rows in evals.values())
    assert len({len(rows) for rows in evals.values()}) == 1, "every evaluation in full"


def check_killed_run(
    victim: str,
    tmp_path: Path,
    write_run: Callable[[dict[str, Any]], Path],
    lines: Callable[[Path], list[dict[str, Any]]],
    *,
    changes: dict[str, Any] | None = None,
) -> None:
    """No eval point is lost, no prompt is trained twice or skipped, the bound on the lag holds, no process stays.

    `changes`: of the spec.
    """
    before = living_children()
    run_file, folder, plan = write_run({"spec": changes or {}}), tmp_path / "run", tmp_path / "plan.json"
    once, options = MATRIX[victim]
    # While generators start beside the warm start there is no engine to kill, and a dead one costs it nothing.
    # A checkpoint is sealed by the coordinator alone.
    phases = [p for p in PHASES if (once is None or p != "warm start") and (victim == "coordinator" or p != "sealing")]
    kills = [[phase, NTH[phase], victim] for phase in phases]
    if once is not None:
        kills.insert(phases.index("copying"), ["training", NTH["training"], once])
    plan.write_text(json.dumps(kills))
    deps = CliDeps(coordinator=[sys.executable, str(COORDINATOR), str(plan), *options], poll_seconds=0.2)
    command = ["run", str(run_file), "--folder", str(folder), "--quiet"]
    codes = [main(command, deps=deps)]
    while codes[-1] != 0 and len(codes) < MAX_COMMANDS:
        codes.append(main([*command, "--resume"], deps=deps))
    log = (folder / "coordinator.log").read_text()[-4000:] if (folder / "coordinator.log").exists() else ""
    assert codes[-1] == 0, f"{codes}\n{log}"
    assert json.loads(plan.read_text()) == [], "every kill must have struck"
    warm_steps = len(plan.with_suffix(".warm").read_text())
    # Every second of the 40 steps has a checkpoint. The kill while completions are generated may come before step 0's:
    # the engines' self-check samples before it.
    # The newest of them may still be written when the process dies.
    assert warm_steps <= 40 + 2 + 2 + 2, "a killed warm start goes on from its checkpoint"
    ledger = lines(folder / "ledger.jsonl")
    assert [line["step"] for line in ledger] == list(range(1, 15))
    trained = [tuple(prompt) for line in ledger for prompt in line["prompts"]]
    assert len(trained) == len(set(trained)) == 14 * 4, "none twice"
    assert set(trained) == first_issues(run_file, 14 * 4), "none skipped"
    # An evaluation whose generator died is made up for at the end, from its own checkpoint.
    assert sorted(line["step"] for line in lines(folder / "evals.jsonl")) == [0, 4, 8, 12, 14]
    check_completions(folder, ledger)
    assert max(line["values"]["lag_max"] for line in lines(folder / "metrics.jsonl")) <= 4
    assert living_children() <= before, "a process is left behind"
