"""Chooses the prompt of the next group: one whose group was lost, else the mixture's next that is left. PURE."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from scalerl_api.data import TrainSourceSpec
from scalerl_api.recipe import Recipe
from scalerl_api.rlrun import RLRunSpec
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.algorithm.prompts.curriculum import AllPromptsExcludedError, PromptStream
from scalerl_runtime.algorithm.prompts.mixture import Mixture, WeightedStream
from scalerl_runtime.loop.group_buffer import GroupBuffer
from scalerl_runtime.loop.run_state import TrainingState
from scalerl_runtime.types import Prompt

NUM_NAMED = 10  # refused prompts in an error


class PromptSupply:
    """The training prompts of a run: each source in the order of its curriculum, the sources by their weights."""

    def __init__(self, prompts: Sequence[Prompt], recipe: Recipe, spec: RLRunSpec):
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._by_source: dict[str, list[Prompt]] = {each.label: [] for each in spec.data.train}
        self._place: dict[int, tuple[str, int]] = {}  # by id: the source, and the place in its stream
        for prompt in prompts:
            own = self._by_source[prompt.source]
            self._place[prompt.id] = prompt.source, len(own)
            own.append(prompt)
        self._mixture = Mixture(
            {
                each.label: WeightedStream(self._build_stream(index, each, recipe, spec.seed), each.weight)
                for index, each in enumerate(spec.data.train)
            }
        )
        self._max_bad_share = spec.data.max_bad_share

    def _build_stream(self, index: int, source: TrainSourceSpec, recipe: Recipe, seed: int) -> PromptStream:
        difficulty = np.array([prompt.difficulty for prompt in self._by_source[source.label]])
        # The first source has the run's seed, as the only source of earlier versions has.
        own = seed if index == 0 else int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        return PromptStream(source.curriculum or recipe.curriculum, difficulty, seed=own)

    def next(self, state: TrainingState, groups: GroupBuffer, refused: Collection[int]) -> tuple[Prompt, int]:
        """Return the next prompt and its epoch, and advance the streams of `state`.

        `refused`: ids that an engine has refused; they are not handed out again. Raises AllPromptsExcludedError if
        every prompt of every source is solved or refused.
        """
        excluded = self._find_excluded(state, refused)
        if self._is_all(excluded):
            raise AllPromptsExcludedError(
                f"all {len(self._prompts)} prompts are solved (pass rate above noPositiveThreshold)"
                + (f", or refused by the engine ({len(refused)})" if refused else "")
            )
        while (reissue := groups.next_reissue()) is not None:
            epoch, prompt = reissue
            if prompt not in refused and prompt in self._prompts:  # accepted new data may lack it
                return self._prompts[prompt], epoch
        draw = state.draw(self._mixture, excluded)
        return self._by_source[draw.source][draw.drawn.prompt], draw.drawn.epoch

    def is_exhausted(self, state: TrainingState, refused: Collection[int]) -> bool:
        """Whether every prompt is solved or refused."""
        return self._is_all(self._find_excluded(state, refused))

    def _is_all(self, excluded: Mapping[str, set[int]]) -> bool:
        return sum(len(places) for places in excluded.values()) == len(self._prompts)

    def _find_excluded(self, state: TrainingState, refused: Collection[int]) -> dict[str, set[int]]:
        """Return the places of the prompts that are left out, by source."""
        found: dict[str, set[int]] = {}
        for each in (*state.history.excluded, *refused):
            if each in self._place:
                source, place = self._place[each]
                found.setdefault(source, set()).add(place)
        return found

    def check_refused(self, refused: Mapping[int, str]) -> None:
        """Raise InvalidRun if engines refuse more than `maxBadShare` of the prompts, as for bad rows at loading."""
        num_prompts = len(self._prompts)
        if len(refused) <= self._max_bad_share * num_prompts and len(refused) < num_prompts:
            return
        found = f"{len(refused)} of {num_prompts} prompts are refused by the engine"
        allowed = f"a share of at most {self._max_bad_share:g}, and one good prompt; the first ones follow"
        named = [Fault(f"prompt {each}", why, "a prompt that the engine takes") for each, why in refused.items()]
        raise InvalidRun([Fault("spec.data.maxBadShare", found, allowed), *named[:NUM_NAMED]])
