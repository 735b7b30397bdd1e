"""Builds what trackers get: the resolved spec, points of steps and evaluations, the summary. PURE."""

from collections.abc import Iterator, Mapping, Sequence

from scalerl_api import RLRun
from scalerl_api.evaluations import find_best, held_out
from scalerl_api.recipe import Recipe
from scalerl_api.wire import EvalPoint
from scalerl_runtime.trackers.interface import TrackedPoint, Values

EVAL_VALUES = ("pass_rate", "standard_error", "mean_tokens", "truncation_share", "entropy")


def build_config(run: RLRun, recipe: Recipe) -> dict[str, str | int | float | bool]:
    """Return the spec with its defaults, and the recipe as preset and overrides give it, by dotted field names."""
    spec = run.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    spec["recipe"] = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dict(_flatten("", spec))


def _flatten(path: str, value: object) -> Iterator[tuple[str, str | int | float | bool]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flatten(f"{path}.{name}" if path else str(name), part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _flatten(f"{path}.{index}", part)
    elif isinstance(value, str | int | float | bool):
        yield path, value


def build_eval_point(points: Sequence[EvalPoint], seconds: float) -> TrackedPoint:
    """Return the evaluations of one step, one or more test sets, as `<set>/<value>`."""
    values = {
        f"{point.dataset}/{name}": float(value)
        for point in points
        for name in EVAL_VALUES
        if (value := getattr(point, name)) is not None
    }
    for point in points:
        for name, by_k in (("pass", point.pass_at_k), ("maj", point.maj_at_k)):
            values |= {f"{point.dataset}/{name}_at_{k}": value for k, value in (by_k or {}).items()}
    values["compute_gpu_hours"] = points[0].compute_gpu_hours
    return TrackedPoint("eval", points[0].step, values, seconds)


def build_summary(outcome: str, step: int, compute_gpu_hours: float, evals: Sequence[EvalPoint]) -> Values:
    """Return the last numbers of an attempt."""
    summary: dict[str, str | int | float | bool] = {
        "outcome": outcome,
        "step": step,
        "compute_gpu_hours": compute_gpu_hours,
    }
    best = find_best(evals)
    if best is not None:
        summary |= {
            "last_pass_rate": held_out(evals)[-1].pass_rate,
            "best_pass_rate": best.pass_rate,
            "best_step": best.step,
        }
    return summary
