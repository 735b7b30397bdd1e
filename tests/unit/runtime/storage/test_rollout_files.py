"""The parquet files of completions: round trip, bound, resume, failures of the disk."""

from dataclasses import fields, replace
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl_api.rollouts import Rollout, RolloutFileName, parse_name
from scalerl_runtime.storage import rollout_files
from scalerl_runtime.storage.rollout_files import (
    RolloutsNotStored,
    RolloutStore,
    StoredStep,
    build_schema,
    choose_prompts,
    plan_thinning,
)

ROW = Rollout(
    step=7,
    dataset=None,
    attempt=2,
    epoch=3,
    prompt_id=11,
    sample=1,
    prompt="2 + 3 =",
    reference="5",
    completion="<think>so</think>5",
    reward=1.0,
    rewards={"math": 1.0, "style": -0.5},
    excluded=False,
    advantage=0.75,
    admitted_version=4,
    version_min=5,
    version_max=6,
    lag=1,
    finish="length",
    num_tokens=9,
    forced_start=2,
    forced_end=4,
    forced_text_start=6,
    forced_text_end=8,
    turns=4,
    tool_errors=2,
    observations=((1, 3), (8, 9)),
    source="sums",
    mean_logp=-0.25,
)
LARGE = 10**9


def make_noise(size: int) -> str:
    """Return text that does not compress."""
    random = Random(0)
    return "".join(chr(random.randrange(0x4E00, 0x9E00)) for _ in range(size))


def read(path: Path) -> list[Rollout]:
    rows = pq.read_table(path).to_pylist()
    spans = [tuple((start, end) for start, end in row["observations"]) for row in rows]
    return [
        Rollout(**{**row, "rewards": dict(row["rewards"]), "observations": each})
        for row, each in zip(rows, spans, strict=True)
    ]


def make_store(folder: Path, max_bytes: int = LARGE) -> RolloutStore:
    return RolloutStore(folder, max_bytes=max_bytes, seed=1)


def steps_of(folder: Path, dataset: str | None = None) -> list[int]:
    names = [parse_name(path.name) for path in folder.iterdir()]
    return sorted(name.step for name in names if name is not None and name.dataset == dataset)


def test_every_field_has_its_column() -> None:
    assert build_schema().names == [each.name for each in fields(Rollout)]
    assert all(getattr(ROW, each.name) != each.default for each in fields(Rollout) if each.name != "excluded")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["", "\0", "\r\n\x1b[31m", "😀"]
)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            replace,
            st.just(ROW),
            prompt=texts,
            completion=texts,
            reference=texts,
            reward=numbers,
            advantage=numbers,
            rewards=st.dictionaries(texts, st.floats(-1, 1), max_size=2),
            dataset=st.none() | texts,
            forced_start=st.none() | st.integers(0, 2**31 - 1),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_rows_are_read_as_they_were_written(rows: list[Rollout], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rows")
    make_store(folder).save_step(7, rows)
    assert read(folder / "step-000007.parquet") == rows


def test_prompt_text_is_stored_once(tmp_path: Path) -> None:
    prompt = make_noise(30_000)
    rows = [replace(ROW, prompt=prompt, sample=sample) for sample in range(32)]
    make_store(tmp_path).save_step(1, rows[:1])
    make_store(tmp_path).save_step(2, rows)
    one, many = ((tmp_path / f"step-00000{step}.parquet").stat().st_size for step in (1, 2))
    assert many < 1.2 * one


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=60),
    max_bytes=st.integers(0, 20_000),
    max_files=st.integers(1, 40),
    protected=st.sets(st.integers(0, 59), max_size=3),
)
def test_thinned_files_fit_or_only_the_newest_is_left(
    sizes: list[int], max_bytes: int, max_files: int, protected: set[int]
) -> None:
    stored = [StoredStep(3 * index, size) for index, size in enumerate(sizes)]
    removed = plan_thinning(stored, max_bytes=max_bytes, max_files=max_files, protect={3 * each for each in protected})
    left = [each for each in stored if each.step not in removed]
    assert len(removed) == len(set(removed))
    assert stored[-1] in left
    fits = sum(each.num_bytes for each in left) <= max_bytes and len(left) <= max_files
    assert fits or left == [stored[-1]]
    kept = {0, *(3 * each for each in protected)} & {each.step for each in stored}
    if not kept <= {each.step for each in left}:  # only when nothing else was left to remove
        assert {each.step for each in left} <= kept | {stored[-1].step}


def test_stored_steps_get_sparser_with_age() -> None:
    kept: list[StoredStep] = []
    for step in range(2000):
        kept.append(StoredStep(step, 10))
        gone = set(plan_thinning(kept, max_bytes=1000, max_files=4096))
        kept = [each for each in kept if each.step not in gone]
    steps = [each.step for each in kept]
    assert len(steps) == 100
    assert steps[0] == 0
    assert steps[-10:] == list(range(1990, 2000))
    counts = [sum(low <= step < high for step in steps) for low, high in [(0, 1000), (1000, 1800), (1800, 2000)]]
    assert counts[0] < counts[1] < counts[2]
    assert counts[0] >= 5, "the distant past is sparse, not gone"


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_a_smaller_share_of_prompts_is_a_subset(prompts: set[int], one: float, other: float) -> None:
    small, large = (choose_prompts(prompts, share, 5) for share in sorted((one, other)))
    assert set() < small <= large <= prompts


def test_bound_holds_over_steps_and_evaluations(tmp_path: Path) -> None:
    store, bound = make_store(tmp_path, 200_000), 200_000
    noise = make_noise(4000)
    for step in range(1, 61):
        store.save_step(step, [replace(ROW, step=step, prompt_id=p, completion=noise[p:1000]) for p in range(3)])
        if step % 5 == 0:
            store.note_rate(step, 0.9 if step == 20 else 0.1)
            writer = store.open_eval(step, "held_out")
            writer.add([replace(ROW, step=step, dataset="held_out", prompt_id=p) for p in range(4)])
            writer.add([replace(ROW, step=step, dataset="held_out", prompt_id=4, completion=noise)])
            store.save_eval(writer, 1)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= bound
    evals = steps_of(tmp_path, "held_out")
    assert len(evals) < 12, "the bound was reached"
    assert {5, 20, 60} <= set(evals), "first, best and last evaluation"
    steps = steps_of(tmp_path)
    assert (steps[0], steps[-1]) == (1, 60)
    assert len(steps) < 60


def test_a_large_evaluation_keeps_whole_groups(tmp_path: Path) -> None:
    store = make_store(tmp_path, 800_000)
    noise = make_noise(12_000)
    for step in (10, 20):
        writer = store.open_eval(step, "held_out")
        for prompt in range(20):
            rows = [replace(ROW, prompt_id=prompt, sample=i, completion=noise[prompt * 500 + i :]) for i in range(2)]
            writer.add(rows)
        store.save_eval(writer, 1)
    files = [tmp_path / str(RolloutFileName(step, "held_out")) for step in (10, 20)]
    assert all(file.stat().st_size <= 100_000 for file in files), "an eighth of the bound"
    first, second = ([row.prompt_id for row in read(file)] for file in files)
    assert 1 <= len(set(first)) < 20
    assert all(first.count(prompt) == 2 for prompt in first)
    assert first == second, "the same prompts, so that they can be followed over time"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(file.name for file in files)


def test_resume_removes_what_the_run_repeats(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for step in (1, 2, 3):
        store.save_step(step, [ROW])
    for step, dataset in [(0, "held_out"), (2, "held_out"), (2, "aime")]:
        writer = store.open_eval(step, dataset)
        writer.add([ROW])
        store.save_eval(writer, 2)
    (tmp_path / ".step-000004.parquet.part").write_bytes(b"PAR1")  # killed while it was written
    make_store(tmp_path).resume(2, {0: 0.5})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "eval-000000-held_out.parquet",
        "step-000001.parquet",
        "step-000002.parquet",
    ]


def test_a_repeated_step_replaces_its_file(tmp_path: Path) -> None:
    for attempt in (1, 2):
        make_store(tmp_path).save_step(7, [replace(ROW, attempt=attempt)])
    assert [row.attempt for row in read(tmp_path / "step-000007.parquet")] == [2]


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)
    store.save_step(1, [ROW])

    def fail(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rollout_files.os, "fsync", fail)
    with pytest.raises(RolloutsNotStored, match="No space left"):
        store.save_step(2, [ROW])
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001.parquet"]


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("step-000012.parquet", RolloutFileName(12)),
        ("step-12345678.parquet", RolloutFileName(12345678)),
        ("eval-000100-held_out.parquet", RolloutFileName(100, "held_out")),
        ("eval-000100-aime-24.parquet", RolloutFileName(100, "aime-24")),
        (".step-000012.parquet.part", None),
        ("step-12.parquet", None),
        ("notes.txt", None),
    ],
)
def test_names(name: str, meaning: RolloutFileName | None) -> None:
    assert parse_name(name) == meaning
    assert meaning is None or str(meaning) == name
