"""Engines of tiny models follow the trainer: one family for each feature in CI, all of them by `make models`.

The columns of the engine in docs/models.md are measured here.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from engine_rows import measure_all
from model_table import ENGINE, UNKNOWN, merge_columns, read_table, round_up, write_table
from tiny_models import shared_families

# A family for each way in which an update differs from plain dense parameters.
FEATURES = {
    "qwen3": "separate head",
    "gpt2": "tied head under another name, positions learned",
    "gpt_neox": "renamed head; vLLM runs transformers' own class",
    "phi": "bias in the head",
    "qwen3_moe": "fused experts",
    "mixtral": "fused experts under other names",
    "gpt_oss": "copied by the engine's model itself",
}
PAGE = Path(__file__).parents[2] / "docs/models.md"
LONGEST = 120  # characters of the engine's own words
FLOOR = 1e-5  # nats
ERROR_NATS = 1e-4  # float32 on both sides; a dropped or stale tensor is off by more than 1e-2
SECONDS = 90.0  # of one family; it takes three on an idle machine


def families() -> list[str]:
    if os.environ.get("SCALERL_ALL_MODELS"):
        table = read_table(PAGE.read_text())
        return [family for family in shared_families() if table.get(family, {}).get("trainer") == "trained"]
    return list(FEATURES)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return measure_all(families(), tmp_path_factory.mktemp("rows"), seconds=SECONDS)


@pytest.mark.parametrize("family", families())
def test_an_engine_follows_the_trainer(rows: dict[str, dict[str, Any]], family: str) -> None:
    """Wrong in vLLM 0.32 alone for experts on the CPU, for gpt-oss and for tied heads: they keep their first values."""
    row = rows[family]
    if family not in FEATURES and not {"refused", "failed"}.isdisjoint(row):
        pytest.skip(str(row))
    assert row.get("gaps") == [], row
    if family in FEATURES:  # of others the page has the number, and a run its self-check
        assert row["before"] < ERROR_NATS
        assert row["after"] < ERROR_NATS


def cells(row: dict[str, Any]) -> dict[str, str]:
    """The family's cells in ENGINE's columns."""
    words = " ".join((row.get("refused") or row.get("failed") or "").replace("|", "/").split())
    if words:
        return dict(zip(ENGINE, (f"refused: {words[:LONGEST]}", UNKNOWN), strict=True))
    return {name: round_up(row[stage], floor=FLOOR) for name, stage in zip(ENGINE, ("before", "after"), strict=True)}


def test_page_is_what_is_measured(request: pytest.FixtureRequest, rows: dict[str, dict[str, Any]]) -> None:
    page, measured = PAGE.read_text(), {family: cells(row) for family, row in rows.items()}
    table = read_table(page)
    if request.config.getoption("--rewrite-golden"):
        kept = {family: {name: row[name] for name in ENGINE} for family, row in table.items()}
        PAGE.write_text(write_table(page, merge_columns(table, kept | measured, ENGINE)))
        return
    found = {family: {name: table[family][name] for name in ENGINE} for family in measured}
    assert found == measured, "docs/models.md differs; if it should, `make models` and read the diff"
