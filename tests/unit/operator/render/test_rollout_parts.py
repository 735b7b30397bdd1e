"""Completions in the report: escaped, cut, marked; pass rates of prompts as a picture."""

import io
from dataclasses import replace

import pytest
from PIL import Image
from stored_rollouts import PHRASE, build_row

from scalerl_operator.render.html import Page, build_page
from scalerl_operator.render.report_data import RolloutReport
from scalerl_operator.render.rollout_parts import build_excerpts, cut_middle, draw_prompt_rates
from scalerl_operator.run.prompt_rates import PromptRates, RatePoint


def test_texts_are_escaped_and_the_forced_part_is_marked() -> None:
    row = replace(build_row(7, 2, 1, -1.0, "held_out"), prompt="<script>alert(1)</script>\0")
    page = Page("sums", "Finished", "", (), build_excerpts(RolloutReport(worst=[row])), "")
    text = build_page(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x00" in text
    assert "<mark>time is up&lt;/think&gt;</mark>" in text
    assert '<div class="rollout wrong"><p>step 7 · prompt 2 · reward -1 · 41 tokens · cut at the limit' in text
    assert "<script>" not in text


def test_only_what_exists_has_a_title() -> None:
    assert build_excerpts(RolloutReport()) == []
    (part,) = build_excerpts(RolloutReport(best=[build_row(7, 2, 0, 1.0)]))
    assert part.title == "Best completions of the last evaluation"
    assert [each.grade for each in part.entries] == ["right"]


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ((4, 4), [("abc", False), ("D", True), (" [… 3 characters …] ", False), ("Hij", False), ("k", True)]),
        ((6, 5), [("abc", False), ("DEF", True), ("gHij", False), ("k", True)]),
    ],
)
def test_the_middle_is_cut_across_parts(ends: tuple[int, int], found: list[tuple[str, bool]]) -> None:
    assert cut_middle([("abc", False), ("DEF", True), ("gHij", False), ("k", True)], ends) == found


def test_forced_part_by_hand() -> None:
    assert build_row(7, 2, 1, 1.0).segments == [("<think>2 and 1; ", False), (PHRASE, True), (" 3", False)]
    assert build_row(7, 2, 0, 1.0).segments == [("<think>2 and 1; </think> 3", False)]


def test_pass_rates_are_drawn_from_the_second_evaluation_on() -> None:
    points = tuple(RatePoint(step, step // 10, 4) for step in (0, 10, 20))
    rates = [PromptRates(1, "a", points), PromptRates(2, "b", points[1:])]
    assert draw_prompt_rates([]) is None
    assert draw_prompt_rates([PromptRates(1, "a", points[:1])]) is None
    picture = draw_prompt_rates(rates)
    assert picture is not None
    with Image.open(io.BytesIO(picture.png)) as image:
        assert image.width > 1500
