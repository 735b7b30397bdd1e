import hashlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from scalerl_runtime.storage import checkpoint
from scalerl_runtime.storage.checkpoint import (
    CheckpointError,
    CheckpointStore,
    PendingEval,
    RunState,
    find_damage,
    find_damaged_part,
    groups_from_arrays,
    groups_to_arrays,
    load_buffer,
    load_state,
)
from scalerl_runtime.storage.shards import OPTIMIZER, WEIGHTS, Chunk, ShardsError, StoredTensors, write_chunks
from scalerl_runtime.storage.trainer_state import RankPart
from scalerl_runtime.types import Completion, Episode, Group, Prompt

PROMPTS = {i: Prompt(i, f"p{i}", np.array([i], np.int32), "") for i in (4, 9)}


def completion(tokens, finish="stop", reward=1.0, episode=None):
    size = len(tokens)
    return Completion(
        tokens=np.array(tokens, np.int32),
        logps=np.linspace(-1.0, -0.25, size).astype(np.float32),
        versions=np.arange(3, 3 + size, dtype=np.int32),
        forced=np.arange(size) == 1,
        finish=finish,
        text=f"é{tokens}\n",
        reward=reward,
        episode=episode,
    )


EPISODE = Episode(turns=4, errors=3, cut=2, observations=((1, 5), (6, 9)))
GROUPS = [
    Group(PROMPTS[9], 2, 3, (completion([5, 6, 7]), completion([], reward=None))),
    Group(PROMPTS[4], 1, 2, (completion([8], finish="length", reward=-1.0, episode=EPISODE),)),
]


def seal(store, step, protect=frozenset(), weights="w"):
    unfinished = store.begin(step)
    (unfinished / "rank0").mkdir()
    (unfinished / "rank0" / "weights.bin").write_text(f"{weights}{step}")
    return store.commit(unfinished, [], RunState(step=step, warm_steps=1, compute_gpu_hours=0.5), GROUPS, protect)


def test_state_is_unchanged_by_a_round_trip(tmp_path):
    state = RunState(
        step=7,
        warm_steps=40,
        compute_gpu_hours=1.5,
        consumed=21,
        stream={"epoch": 2, "place": 3},
        in_flight=((2, 4), (2, 9)),
        num_evals=3,
        ledger_lines=7,
        pending_evals=(PendingEval(4, 0.75),),
    )
    store = CheckpointStore(tmp_path, 2)
    path = store.commit(store.begin(7), [], state, [], frozenset())
    assert path.name == "step-00000007"
    assert load_state(path) == state
    assert load_buffer(path, {}) == []


def test_experts_are_kept_of_those_completions_that_have_some():
    first, second = (np.arange(size * 4, dtype=np.uint16).reshape(size, 2, 2) for size in (3, 1))
    plain = completion([5, 6, 7])
    parts = (replace(plain, experts=first), plain, replace(completion([8]), experts=second))
    arrays = groups_to_arrays([Group(PROMPTS[9], 2, 3, parts)])
    (found,) = groups_from_arrays(arrays, PROMPTS)
    restored = [each.experts for each in found.completions]
    assert restored[1] is None
    assert restored[0].tolist() == first.tolist()
    assert restored[2].tolist() == second.tolist()
    assert restored[0].dtype == np.uint16
    assert "experts" not in groups_to_arrays(GROUPS)


def test_buffer_is_laid_out_end_to_end():
    arrays = groups_to_arrays(GROUPS)
    assert arrays["group"].tolist() == [[9, 2, 3, 2], [4, 1, 2, 1]], "prompt, epoch, admitted version, completions"
    assert arrays["length"].tolist() == [3, 0, 1]
    assert arrays["tokens"].tolist() == [5, 6, 7, 8]
    assert arrays["versions"].tolist() == [3, 4, 5, 3]
    assert arrays["cut"].tolist() == [False, False, True]
    assert np.array_equal(arrays["reward"], [1.0, np.nan, -1.0], equal_nan=True)
    assert [arrays[k].dtype for k in ("tokens", "logps", "versions", "forced")] == ["int32", "float32", "int32", "bool"]


def test_buffer_is_bit_for_bit_the_same_after_a_round_trip(tmp_path):
    path = seal(CheckpointStore(tmp_path, 2), 1)
    first, second = load_buffer(path, PROMPTS)
    assert (first.prompt.id, first.epoch, first.admitted_version, len(first.completions)) == (9, 2, 3, 2)
    assert (second.prompt.id, second.epoch, second.admitted_version, len(second.completions)) == (4, 1, 2, 1)
    for found, given in zip(
        [*first.completions, *second.completions], [c for g in GROUPS for c in g.completions], strict=True
    ):
        for name in ("tokens", "logps", "versions", "forced"):
            assert getattr(found, name).tobytes() == getattr(given, name).tobytes()
        assert (found.finish, found.text, found.reward) == (given.finish, given.text, given.reward)
        assert found.episode == given.episode


def test_a_buffer_from_before_episodes_has_none():
    arrays = {name: values for name, values in groups_to_arrays(GROUPS).items() if name != "episode"}
    assert [c.episode for g in groups_from_arrays(arrays, PROMPTS) for c in g.completions] == [None, None, None]


def test_a_group_of_an_unknown_prompt_is_left_out(tmp_path, caplog):
    """New data that was accepted may lack it."""
    path = seal(CheckpointStore(tmp_path, 2), 1)
    (group,) = load_buffer(path, {4: PROMPTS[4]})
    assert group.prompt.id == 4
    assert [c.text for c in group.completions] == [c.text for g in GROUPS if g.prompt.id == 4 for c in g.completions]
    assert "1 completed groups are left out" in caplog.text
    assert groups_from_arrays(groups_to_arrays(GROUPS), {}) == []


def test_a_state_without_a_fingerprint_is_an_older_version_s(tmp_path):
    path = seal(CheckpointStore(tmp_path, 2), 1)
    state = json.loads((path / "state.json").read_text())
    del state["fingerprint"]
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert load_state(tmp_path).fingerprint == {}


def test_state_of_another_layout_is_an_error(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"step": 1, "in_flight": [], "pending_evals": [], "new": 1}))
    with pytest.raises(CheckpointError, match="state.json"):
        load_state(tmp_path)


def test_unfinished_checkpoint_is_invisible(tmp_path):
    store = CheckpointStore(tmp_path, 2)
    assert store.latest() is None
    seal(store, 1)
    (store.begin(2) / "weights.bin").write_text("half")
    assert store.steps() == [1]
    assert store.latest() == store.path(1)
    assert list(store.begin(2).iterdir()) == [], "a new beginning is empty"


def _cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file):
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["rank0/weights.bin", "state.json", "buffer.npz"])
@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (_cut, "a byte is missing"),
        (_flip, "same size, another bit"),
        (lambda file: file.unlink(), "gone"),
    ],
)
def test_a_damaged_checkpoint_is_skipped(tmp_path, caplog, name, damage, rule):
    store = CheckpointStore(tmp_path, 3)
    for step in (1, 2):
        seal(store, step)
    damage(store.path(2) / name)
    assert store.latest() == store.path(1), rule
    assert name in caplog.text


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"files": '])
def test_a_checkpoint_without_a_manifest_is_skipped(tmp_path, text):
    store = CheckpointStore(tmp_path, 3)
    for step in (1, 2):
        seal(store, step)
    (store.path(2) / "manifest.json").write_text(text)
    assert store.latest() == store.path(1)


def test_old_checkpoints_are_deleted_unless_protected(tmp_path):
    store = CheckpointStore(tmp_path, 2)
    for step in (1, 2, 3, 10):
        seal(store, step, protect=frozenset({1}))
    assert store.steps() == [1, 3, 10], "the two newest by number, and what an evaluation still needs"
    seal(store, 11)
    assert store.steps() == [10, 11]


def test_same_step_again_replaces_the_first(tmp_path):
    store = CheckpointStore(tmp_path, 2)
    seal(store, 5)
    path = seal(store, 5, weights="new")
    assert (path / "rank0" / "weights.bin").read_text() == "new5"
    assert store.latest() == path


class Killed(BaseException):
    """The process is gone: nothing after it is done."""


def kill_at(monkeypatch, number):
    """Raise at the `number`-th thing that is done to the disk from now on; return what counts them."""
    count = itertools.count(1)

    def dying(original):
        def call(*arguments, **options):
            if next(count) == number:
                raise Killed
            return original(*arguments, **options)

        return call

    for name in ("sync_path", "written", "digest_file", "seal_parts"):
        monkeypatch.setattr(checkpoint, name, dying(getattr(checkpoint, name)))
    monkeypatch.setattr(checkpoint.Path, "rename", dying(checkpoint.Path.rename))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", dying(checkpoint.shutil.rmtree))


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
def test_a_kill_at_any_moment_of_sealing_leaves_a_checkpoint(tmp_path, again):
    """Whatever was done last, the newest whole checkpoint is the one before or the new one, and the next save works."""
    for number in itertools.count(1):
        store = CheckpointStore(tmp_path / str(number), 2)
        seal(store, 1)
        if again:
            seal(store, 2, weights="before")
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, number)
            try:
                seal(store, 2)
                was_killed = False
            except Killed:
                was_killed = True
        found = CheckpointStore(tmp_path / str(number), 2).latest()
        assert found in {store.path(2)} | (set() if again else {store.path(1)})
        assert find_damage(found) is None
        assert seal(store, 3) == store.latest()
        if not was_killed:
            break
    assert number > 10, "moments"


def test_the_trainers_files_are_compared_by_the_ranks(tmp_path):
    """Each file by one rank; the coordinator compares sizes."""
    store = CheckpointStore(tmp_path, 3)
    unfinished = store.begin(1)
    chunks = [Chunk("a", 4, start, torch.full((2,), float(start))) for start in (0, 2)]
    parts = [
        RankPart(*(write_chunks(unfinished / each, rank, [chunk]) for each in (WEIGHTS, OPTIMIZER)), {})
        for rank, chunk in enumerate(chunks)
    ]
    path = store.commit(unfinished, parts, RunState(1, 0, 0.0), [], frozenset())
    assert StoredTensors(path / WEIGHTS).load("a").tolist() == [0, 0, 2, 2]
    entries = json.loads((path / "manifest.json").read_text())["files"]
    assert all(digest.startswith("xxh3-128:") for _, digest in entries.values())
    for name in ("weights/__0_0_0.distcp", "weights/__1_0_0.distcp", "optimizer/__1_0_0.distcp", "weights/.metadata"):
        content = (path / name).read_bytes()
        _flip(path / name)
        assert store.latest() == path
        damage = [find_damaged_part(path, rank, 2) for rank in range(2)]
        assert [each for each in damage if each is not None] == [f"{name} has changed"], "one of them"
        (path / name).write_bytes(content)
        _cut(path / name)
        assert store.latest() is None
        (path / name).write_bytes(content)


def test_chunks_that_are_no_whole_tensor_are_not_sealed(tmp_path):
    store = CheckpointStore(tmp_path, 3)
    unfinished = store.begin(1)
    chunk = Chunk("a", 4, 0, torch.zeros(3))
    part = RankPart(*(write_chunks(unfinished / each, 0, [chunk]) for each in (WEIGHTS, OPTIMIZER)), {})
    with pytest.raises(ShardsError, match="a invalid fill"):
        store.commit(unfinished, [part], RunState(1, 0, 0.0), [], frozenset())
    assert store.latest() is None


def test_a_checkpoint_with_digests_of_older_versions_is_verified(tmp_path):
    store = CheckpointStore(tmp_path, 3)
    path = seal(store, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        entry[1] = hashlib.blake2b((path / name).read_bytes()).hexdigest()[:32]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert store.latest() == path
    _flip(path / "state.json")
    assert store.latest() is None
