"""Plays episodes: the policy's turns on one generator, the environment's replies between them. I/O.

Tokens in, tokens out: a turn's request has the exact ids of the prompt and of everything so far. Only observations are
tokenised, each once. An episode stays on its generator, whose prefix cache has what came before.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from scalerl_runtime.data.turn_markup import TurnMarkup, TurnTokenizer
from scalerl_runtime.deadlines import all_or_none, within
from scalerl_runtime.environments.pool import EnvironmentFailed
from scalerl_runtime.environments.protocol import Step
from scalerl_runtime.environments.transcript import Transcript
from scalerl_runtime.think_tags import decode_exactly
from scalerl_runtime.types import Completion, EngineOutput, Prompt

NOT_SOLVED = -1.0  # an episode that ends at a limit, without a reward of its environment

Engine = Callable[[Prompt, int, int | None], Awaitable[EngineOutput]]
"""Samples one completion of at most so many tokens, by a seed if there is one, on the episode's generator."""
TurnEngine = Callable[[Prompt, int], Awaitable[EngineOutput]]
"""The same for the turns of one episode."""


class Session(Protocol):
    """One episode's environment."""

    async def step(self, message: str) -> Step:
        """Return the reply to a turn. Raises EnvironmentFailed."""
        ...

    def close(self) -> None:
        """Free its state."""
        ...


class EnvironmentSource(Protocol):
    """Environments of one class."""

    @property
    def label(self) -> str:
        """Name of its rewards."""
        ...

    async def open(self, prompt: str, reference: str) -> Session:
        """Begin an episode. Raises EnvironmentFailed."""
        ...


@dataclass(frozen=True)
class EpisodeRules:
    """The limits of a run's episodes."""

    max_turns: int
    observation_tokens: int  # of one observation, its markup not counted
    completion_tokens: int  # of an episode, observations included
    generate_seconds: float  # in the engine, over all turns of an episode


class EpisodePlayer:
    """Plays the episodes of a run's prompts whose source has an environment."""

    def __init__(
        self,
        environments: Mapping[str, EnvironmentSource],
        rules: EpisodeRules,
        markup: TurnMarkup,
        tokenizer: TurnTokenizer,
    ):
        """`environments`: by the name of a prompt's source."""
        self._environments = environments
        self._rules = rules
        self._markup = markup
        self._tokenizer = tokenizer

    def has(self, prompt: Prompt) -> bool:
        """Whether the prompt's source has an environment."""
        return prompt.source in self._environments

    async def play(self, engine: Engine, prompt: Prompt, seeds: Sequence[int | None], phase: str) -> list[Completion]:
        """Return an episode of `prompt` for each seed, whole. When the engine fails one of them, none is returned.

        Raises PromptRefused, GeneratorLost or DeadlineExceeded.
        """
        return await all_or_none([self._play_one(_seed_turns(engine, seed), prompt, phase) for seed in seeds])

    async def _play_one(self, engine: TurnEngine, prompt: Prompt, phase: str) -> Completion:
        transcript, session = Transcript(self._rules.completion_tokens), None
        source = self._environments[prompt.source]
        turns = _TimedEngine(engine, prompt, self._rules, phase)
        output: EngineOutput | None = None
        try:
            while True:
                output = await turns.sample(transcript)
                transcript.add_turn(output)
                if session is None:
                    session = await source.open(prompt.text, prompt.answer)
                step = await session.step(output.text)
                if step.error:
                    transcript.count_error()
                if step.done:
                    return transcript.build(step.reward, output.finish, source.label)
                if not self._continue(transcript, step):
                    return transcript.build(NOT_SOLVED if step.reward is None else step.reward, "length", source.label)
        except EnvironmentFailed:  # the environments log it
            assert output is not None, "the environment comes after the policy's first turn"
            return transcript.build(None, output.finish, source.label)
        finally:
            if session is not None:
                session.close()

    def _continue(self, transcript: Transcript, step: Step) -> bool:
        """Append the observation; False if there is no turn, or no room for one more token, after it."""
        if transcript.turns >= self._rules.max_turns:
            return False
        # Spelled out: an observation that names a special token must not write a turn of the policy's.
        ids = self._tokenizer.encode(step.observation, add_special_tokens=False, split_special_tokens=True)
        text = step.observation
        limit = self._rules.observation_tokens
        if len(ids) > limit:
            transcript.count_cut()
            ids = ids[:limit]
            text = decode_exactly(self._tokenizer, ids)
        tokens = [*self._markup.before, *ids, *self._markup.after]
        if len(tokens) >= transcript.room:
            return False
        transcript.add_observation(tokens, f"{self._markup.before_text}{text}{self._markup.after_text}")
        return True


def _seed_turns(engine: Engine, seed: int | None) -> TurnEngine:
    """Return the engine with a seed of its own for each turn of an episode."""
    turns = itertools.count()

    async def sample(prompt: Prompt, max_tokens: int) -> EngineOutput:
        return await engine(prompt, max_tokens, None if seed is None else (seed + next(turns)) % 2**63)

    return sample


class _TimedEngine:
    """The engine of one episode. Mutable: it counts the seconds that are left."""

    def __init__(self, engine: TurnEngine, prompt: Prompt, rules: EpisodeRules, phase: str):
        self._engine = engine
        self._prompt = prompt
        self._rules = rules
        self._phase = phase
        self._seconds = rules.generate_seconds

    async def sample(self, transcript: Transcript) -> EngineOutput:
        """Return the policy's next turn. Raises DeadlineExceeded when the turns together took too long."""
        prompt = self._prompt
        if transcript.turns:
            prompt = replace(prompt, tokens=np.concatenate([prompt.tokens, transcript.tokens]))
        clock = asyncio.get_running_loop().time
        began = clock()
        output = await within(self._seconds, self._phase, self._engine(prompt, transcript.room))
        self._seconds -= clock() - began
        return output
