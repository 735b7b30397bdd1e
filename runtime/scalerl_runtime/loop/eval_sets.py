"""The test sets of a run: which are due at a step, with which prompts and which sampling. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_api.data import NamedDatasetSpec
from scalerl_api.rlrun import RLRunSpec
from scalerl_api.wire import HELD_OUT
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.types import Prompt


@dataclass(frozen=True)
class EvalSet:
    """Prompts that are sampled together, in one way."""

    dataset: str
    prompts: Sequence[Prompt]
    samples: int  # completions per prompt
    temperature: float | None = None  # None: the recipe's; 0: the likeliest token
    parts: Sequence[str] = ()  # sources that are also reported on their own, as parts of this set


def list_eval_sets(spec: RLRunSpec, data: Data, step: int) -> list[EvalSet]:
    """Return the test sets that are due at `step`, the held-out prompts first."""
    names = [each.label for each in spec.data.train]
    samples = spec.data.held_out.samples_per_prompt
    own = EvalSet(HELD_OUT, data.held_out, samples, parts=names if len(names) > 1 else ())
    return [
        own,
        *(
            EvalSet(
                each.name,
                data.downstream[each.name],
                each.count_samples(samples),
                each.temperature,
            )
            for each in spec.data.downstream
            if _is_due(each, spec, step)
        ),
    ]


def list_due_datasets(spec: RLRunSpec, step: int) -> frozenset[str]:
    """Return the data sets that an evaluation of `step` reports."""
    later = {each.name for each in spec.data.downstream if not _is_due(each, spec, step)}
    return frozenset({HELD_OUT, *spec.data.named_sets.values()} - later)


def _is_due(test: NamedDatasetSpec, spec: RLRunSpec, step: int) -> bool:
    return test.every_steps is None or step % test.every_steps == 0 or step == spec.budget.steps
