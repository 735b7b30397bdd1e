"""The cost of devices over all attempts."""

from pathlib import Path

from scalerl_runtime.storage.cost import CostFile


def test_attempts_add_up_and_each_save_replaces_the_last(tmp_path: Path) -> None:
    first = CostFile(tmp_path)
    assert first.total({"trainer": 2.0}) == {"trainer": 2.0}
    first.save({"trainer": 10.0, "generator": 4.0})
    first.save({"trainer": 30.0, "generator": 5.0})
    second = CostFile(tmp_path)
    assert second.before == {"trainer": 30.0, "generator": 5.0}
    assert second.total({"trainer": 1.0, "generator": 0.5}) == {"trainer": 31.0, "generator": 5.5}
