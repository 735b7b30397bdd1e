"""Stored completions for the report: excerpts of texts, and pass rates of the prompts as a picture. PURE."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scalerl_api.rollouts import Rollout
from scalerl_operator.render.html import Excerpt, Excerpts, Picture
from scalerl_operator.render.plots import BLUE, GREEN, GREY, ORANGE, clean_axes, png_of
from scalerl_operator.render.report_data import RolloutReport
from scalerl_operator.render.rollout_view import describe_reference
from scalerl_operator.render.text import escape
from scalerl_operator.run.prompt_rates import PromptRates
from scalerl_operator.run.rollout_selection import choose_evenly

PROMPT_ENDS = (500, 200)  # characters shown of a longer prompt's start and end
COMPLETION_ENDS = (600, 900)
MAX_ROWS = 400  # prompts in the picture; of more, evenly chosen ones
MAX_STEP_LABELS = 14

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Segments = list[tuple[str, bool]]
"""(text, whether the policy did not write it)."""


def build_excerpts(report: RolloutReport) -> list[Excerpts]:
    """Return the excerpts of completions that exist."""
    parts = [
        (
            "Best completions of the last evaluation",
            "Highest reward; among equals, of the prompts that are solved least often.",
            report.best,
        ),
        (
            "Worst completions of the last evaluation",
            "Lowest reward; among equals, of the prompts that are solved least often.",
            report.worst,
        ),
        (
            "One prompt over time",
            "The held-out prompt whose pass rate rose most, at the first, a middle and the last evaluation.",
            report.over_time,
        ),
    ]
    return [Excerpts(title, [_excerpt(each) for each in found], note) for title, note, found in parts if found]


def draw_prompt_rates(rates: Sequence[PromptRates]) -> Picture | None:
    """Return the pass rate of each prompt in each evaluation; None with fewer than two evaluations."""
    steps = sorted({point.step for each in rates for point in each.points})
    if len(steps) < 2:
        return None
    figure = Figure(figsize=(12.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(2.2, 1.0))
    matrix = _matrix(rates, steps)
    _draw_heat(figure, left, matrix, steps)
    _draw_shares(right, matrix, steps)
    text = "pass rate of each held-out prompt at each evaluation; shares of prompts solved never, sometimes, always"
    return Picture("Pass rate of each held-out prompt", png_of(figure), text)


def _matrix(rates: Sequence[PromptRates], steps: Sequence[int]) -> Matrix:
    """Return [prompts, steps] pass rates, NaN where a prompt was not graded; the prompts by falling mean."""
    column = {step: index for index, step in enumerate(steps)}
    found = np.full((len(rates), len(steps)), math.nan)
    for row, each in enumerate(sorted(rates, key=lambda each: (-each.mean, each.prompt_id))):
        for point in each.points:
            found[row, column[point.step]] = point.rate
    return found


def _draw_heat(figure: Figure, axes: Axes, matrix: Matrix, steps: Sequence[int]) -> None:
    rows = choose_evenly(range(len(matrix)), MAX_ROWS)
    axes.set_facecolor("#F3F4F6")
    # Cells, not an image: a row must not be blended with its neighbours.
    mesh = axes.pcolormesh(matrix[rows], cmap="Blues", vmin=0.0, vmax=1.0)
    axes.invert_yaxis()
    labelled = choose_evenly(range(len(steps)), MAX_STEP_LABELS)
    axes.set_xticks([index + 0.5 for index in labelled], [str(steps[index]) for index in labelled])
    axes.set_yticks([])
    axes.set_xlabel("evaluated step")
    axes.set_ylabel(f"{len(matrix)} prompts, most often solved first")
    axes.set_title("pass rate of each prompt", fontsize=10, color=GREY, loc="left")
    figure.colorbar(mesh, ax=axes, label="pass rate", pad=0.01)


def _draw_shares(axes: Axes, matrix: Matrix, steps: Sequence[int]) -> None:
    graded = np.maximum(1, np.count_nonzero(~np.isnan(matrix), axis=0))
    never, always = (np.count_nonzero(matrix == rate, axis=0) / graded for rate in (0.0, 1.0))
    for share, label, colour, marker in (
        (never, "never solved", ORANGE, "s"),
        (1.0 - never - always, "sometimes", BLUE, "o"),
        (always, "always", GREEN, "^"),
    ):
        axes.plot(steps, share, marker=marker, ms=4, lw=1.6, color=colour, label=label)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("evaluated step")
    axes.set_title("share of the prompts", fontsize=10, color=GREY, loc="left")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.06), ncols=3, borderpad=0.0)
    clean_axes(axes)


def _excerpt(rollout: Rollout) -> Excerpt:
    reward = "no reward" if rollout.reward is None else f"reward {rollout.reward:+g}"
    cut = "cut at the limit" if rollout.finish == "length" else rollout.finish
    source = f"{rollout.source} · " if rollout.source else ""
    scores = ", ".join(f"{name} {value:+g}" for name, value in rollout.rewards.items())
    reward += f" ({scores})" if len(rollout.rewards) > 1 else ""
    reference = f" · reference {describe_reference(rollout.reference)}" if rollout.reference else ""
    right = rollout.is_right
    return Excerpt(
        heading=f"step {rollout.step} · {source}prompt {rollout.prompt_id} · {reward} · {rollout.num_tokens} tokens"
        + f" · {cut}{reference}",
        grade="none" if right is None else "right" if right else "wrong",
        prompt="".join(text for text, _ in cut_middle([(rollout.prompt, False)], PROMPT_ENDS)),
        segments=cut_middle(rollout.segments, COMPLETION_ENDS),
    )


def cut_middle(segments: Segments, ends: tuple[int, int]) -> Segments:
    """Return the parts without the middle of a long text, control characters spelled out."""
    size, (head, tail) = sum(len(text) for text, _ in segments), ends
    left_out = size - head - tail
    if left_out > 0:
        note = (f" [… {left_out:,} characters …] ", False)
        segments = [*_slice(segments, 0, head), note, *_slice(segments, size - tail, size)]
    return [(escape(text), forced) for text, forced in segments if text]


def _slice(segments: Segments, start: int, end: int) -> Segments:
    found, position = [], 0
    for text, forced in segments:
        found.append((text[max(0, start - position) : max(0, end - position)], forced))
        position += len(text)
    return found
