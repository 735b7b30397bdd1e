"""The tokens of an episode as they come: the policy's turns, and between them what the environment wrote. PURE."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from scalerl_runtime.types import Completion, EngineOutput, Episode, Experts, Ints


class Transcript:
    """One episode from its prompt on. Mutable: it grows by turns and observations.

    Token ids enter as the engine sampled them and leave as they entered: text that is tokenised again may get other
    ids, and then the log-probabilities would be those of tokens that the policy never chose.
    """

    def __init__(self, limit: int):
        """`limit`: tokens of the whole episode after its prompt, observations included."""
        self._limit = limit
        self._tokens: list[Ints] = []
        self._parts: list[EngineOutput] = []
        self._forced: list[bool] = []  # of each part
        self._texts: list[str] = []
        self._observations: list[tuple[int, int]] = []
        self.turns = 0
        self._errors = 0
        self._cut = 0

    @property
    def room(self) -> int:
        """Tokens that may still be added."""
        return self._limit - sum(map(len, self._tokens))

    @property
    def tokens(self) -> Ints:
        """[T] everything after the prompt."""
        found: Ints = np.concatenate([np.empty(0, np.int32), *self._tokens])
        return found

    def add_turn(self, output: EngineOutput) -> None:
        """Append what the policy wrote."""
        self._add(output, forced=False)
        self.turns += 1

    def count_error(self) -> None:
        """Count a turn that the environment marked as an error."""
        self._errors += 1

    def count_cut(self) -> None:
        """Count an observation that was cut."""
        self._cut += 1

    def add_observation(self, tokens: Sequence[int], text: str) -> None:
        """Append what the policy did not write. It has the version of the token before it: what it is read with."""
        start = sum(map(len, self._texts))
        size = len(tokens)
        version = next((int(part.versions[-1]) for part in reversed(self._parts) if len(part.versions)), None)
        assert version is not None, "an observation follows a turn that has tokens"
        ids = np.array(tokens, dtype=np.int32)
        logps, versions = np.zeros(size, dtype=np.float32), np.full(size, version, dtype=np.int32)
        self._add(EngineOutput(ids, logps, versions, text, "stop"), forced=True)
        self._observations.append((start, start + len(text)))

    def build(self, reward: float | None, finish: Literal["stop", "length"], label: str) -> Completion:
        """Return the episode as one completion. `label`: of the environment that rewards it."""
        parts = self._parts
        flags = [
            np.full(len(part.tokens), forced, dtype=np.bool_) for part, forced in zip(parts, self._forced, strict=True)
        ]
        return Completion(
            tokens=self.tokens,
            logps=np.concatenate([np.empty(0, np.float32), *(part.logps for part in parts)]),
            versions=np.concatenate([np.empty(0, np.int32), *(part.versions for part in parts)]),
            forced=np.concatenate([np.empty(0, np.bool_), *flags]),
            finish=finish,
            text="".join(self._texts),
            reward=reward,
            by_judge={} if reward is None else {label: reward},
            experts=self._join_experts(),
            episode=Episode(self.turns, self._errors, self._cut, tuple(self._observations)),
        )

    def _join_experts(self) -> Experts | None:
        """Return the experts of the prompt's and all tokens but the last: each token's are from its turn's request.

        A request has experts of everything before it too, perhaps of newer weights: the earlier request's are kept.
        """
        turns = [part.experts for part, forced in zip(self._parts, self._forced, strict=True) if not forced]
        joined: Experts | None = None
        for each in turns:
            if each is None:
                return None
            joined = each if joined is None else np.concatenate([joined, each[len(joined) :]])
        return joined

    def _add(self, part: EngineOutput, *, forced: bool) -> None:
        self._tokens.append(part.tokens)
        self._parts.append(part)
        self._forced.append(forced)
        self._texts.append(part.text)
