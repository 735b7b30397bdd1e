"""Chooses the prompt of the next group: one whose group was lost, else the stream's next that is left. PURE."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from scalerl_api.recipe import Recipe
from scalerl_api.rlrun import RLRunSpec
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.algorithm.curriculum import AllPromptsExcludedError, PromptStream
from scalerl_runtime.loop.group_buffer import GroupBuffer
from scalerl_runtime.loop.run_state import TrainingState
from scalerl_runtime.types import Prompt

NUM_NAMED = 10  # refused prompts in an error


class PromptSupply:
    """The training prompts of a run, in the order of its curriculum."""

    def __init__(self, prompts: Sequence[Prompt], recipe: Recipe, spec: RLRunSpec):
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._order = [prompt.id for prompt in prompts]
        self._index_of = {prompt.id: index for index, prompt in enumerate(prompts)}
        self._stream = PromptStream(recipe.curriculum, np.array([p.difficulty for p in prompts]), seed=spec.seed)
        self._max_bad_share = spec.data.max_bad_share

    def next(self, state: TrainingState, groups: GroupBuffer, refused: Collection[int]) -> tuple[Prompt, int]:
        """Return the next prompt and its epoch, and advance the stream of `state`.

        `refused`: ids that an engine has refused; they are not handed out again. Raises AllPromptsExcludedError if
        every prompt is solved or refused.
        """
        excluded = self._find_excluded(state, refused)
        if len(excluded) == len(self._order):
            raise AllPromptsExcludedError(
                f"all {len(self._order)} prompts are solved (pass rate above noPositiveThreshold)"
                + (f", or refused by the engine ({len(refused)})" if refused else "")
            )
        while (reissue := groups.next_reissue()) is not None:
            epoch, prompt = reissue
            if prompt not in refused:
                return self._prompts[prompt], epoch
        drawn = state.draw(self._stream, excluded)
        return self._prompts[self._order[drawn.prompt]], drawn.epoch

    def is_exhausted(self, state: TrainingState, refused: Collection[int]) -> bool:
        """Whether every prompt is solved or refused."""
        return len(self._find_excluded(state, refused)) == len(self._order)

    def _find_excluded(self, state: TrainingState, refused: Collection[int]) -> set[int]:
        """Positions of the prompts that are left out."""
        return {self._index_of[each] for each in (*state.history.excluded, *refused) if each in self._index_of}

    def check_refused(self, refused: Mapping[int, str]) -> None:
        """Raise InvalidRun if engines refuse more than `maxBadShare` of the prompts, as for bad rows at loading."""
        if len(refused) <= self._max_bad_share * len(self._order) and len(refused) < len(self._order):
            return
        found = f"{len(refused)} of {len(self._order)} prompts are refused by the engine"
        allowed = f"a share of at most {self._max_bad_share:g}, and one good prompt; the first ones follow"
        named = [Fault(f"prompt {each}", why, "a prompt that the engine takes") for each, why in refused.items()]
        raise InvalidRun([Fault("spec.data.maxBadShare", found, allowed), *named[:NUM_NAMED]])
