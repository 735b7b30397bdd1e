"""The free space that a run's checkpoints need."""

import shutil
from collections import namedtuple

import pytest

from scalerl_api import InvalidRun
from scalerl_api.rlrun import ModelSpec
from scalerl_runtime.storage.free_space import SpacePlan, check_space

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("dtype", "num_bytes"), [("bfloat16", 14), ("float32", 16)])
def test_a_checkpoint_is_as_large_as_the_operator_thinks(dtype, num_bytes):
    assert ModelSpec(source="m", dtype=dtype).checkpoint_bytes(1000) == 1000 * num_bytes


@pytest.mark.parametrize(
    ("stored", "free", "is_refused"),
    [(0, 400, False), (0, 399, True), (2, 200, False), (2, 199, False), (2, 99, True), (4, 100, False), (9, 99, True)],
)
def test_a_new_run_needs_all_and_a_resumed_one_more(monkeypatch, tmp_path, stored, free, is_refused):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 1000 - free, free))
    plan = SpacePlan(checkpoint_bytes=100, keep=3, num_stored=stored)
    if not is_refused:
        check_space(tmp_path, plan, "spec.checkpoint.path")
        return
    with pytest.raises(InvalidRun, match=r"spec\.checkpoint\.path: .* free, more space, or a smaller"):
        check_space(tmp_path, plan, "spec.checkpoint.path")


def test_a_file_system_of_unknown_size_is_not_judged(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    check_space(tmp_path / "new", SpacePlan(100, 3, 0), "spec.checkpoint.path")
    assert (tmp_path / "new").is_dir()
