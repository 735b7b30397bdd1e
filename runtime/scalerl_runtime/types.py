"""Values that generation passes to training: prompts, completions, groups, and the errors of lost processes. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Experts = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Prompt:
    """One row of a data set, ready for the generator."""

    id: int  # position in its data set; the same in every epoch and after a restart
    text: str
    tokens: Ints  # [Tp]
    answer: str  # the verifier's reference; JSON where it needs more than a string
    difficulty: float = 0.0  # any scale, larger is harder; orders the curricula
    think_tokens: int | None = None  # thinking at the end of `tokens`; None: the prompt opens no thinking
    question: str = ""  # before its rendering; empty: it is `text`
    source: str = ""  # name of its training source or downstream set; a single training source may have none


@dataclass(frozen=True)
class Reward:
    """The reward of one completion."""

    reward: float | None  # in [-1, 1]; None: a verifier failed
    error: str = ""  # why there is no reward
    by_judge: Mapping[str, float] = field(default_factory=dict)  # each verifier's reward by its label
    timed_out: bool = False  # it is wrong because a comparison took longer than `reward.timeoutSeconds`, twice


@dataclass(frozen=True)
class Episode:
    """How a completion of several turns arose: the policy wrote its turns, the environment what stands between them."""

    turns: int  # of the policy
    errors: int = 0  # replies that the environment marked as errors, of a tool for example
    cut: int = 0  # observations longer than `observationTokens`
    observations: tuple[tuple[int, int], ...] = ()  # (start, end) in the completion's text, the turn's markup included


@dataclass(frozen=True)
class Completion:
    """One sample of the model's answer, or one episode. The four arrays have one entry per token after the prompt."""

    tokens: Ints  # [T]
    logps: Floats  # [T] log-probability (nats) under the generator that sampled the token
    versions: Ints  # [T] version of the weights that sampled the token, or were loaded when it was added
    forced: Flags  # [T] True where the policy did not choose it: the interruption did, or an environment wrote it
    finish: Literal["stop", "length"]  # `length`: cut at the limit
    text: str
    reward: float | None = None  # in [-1, 1]; None: the verifier itself failed
    experts: Experts | None = None  # [Tp + T - 1, layers, K], of the prompt's tokens too; None: not recorded
    by_judge: Mapping[str, float] = field(default_factory=dict)  # each verifier's reward by its label
    episode: Episode | None = None  # None: a single answer, without an environment


@dataclass(frozen=True)
class Group:
    """A prompt's completions."""

    prompt: Prompt
    epoch: int
    admitted_version: int  # no token is older than this
    completions: tuple[Completion, ...]

    @property
    def rewards(self) -> NDArray[np.float64]:
        """[G] rewards; NaN where the verifier failed."""
        return np.array([np.nan if c.reward is None else c.reward for c in self.completions], dtype=np.float64)


class GeneratorLost(RuntimeError):
    """A generator's process or engine is gone; its prompts must be generated again."""

    def __init__(self, index: int, cause: object):
        super().__init__(f"generator {index} is lost: {cause}")
        self.index = index


class GeneratorRestarted(GeneratorLost):
    """The generator's engine is gone, and another one, which is in order, has taken its place."""


class PromptRefused(ValueError):
    """An engine refuses this prompt, or a request for it: too long, unknown tokens. The engine goes on."""


class TrainerLost(RuntimeError):
    """A trainer rank is gone; the run resumes from its checkpoint."""


class ClusterUnavailable(RuntimeError):
    """Ray did not start, or its cluster cannot be joined.

    Ray's limit for a node is 30 s, which a busy machine may exceed.
    """


class SyncFailed(RuntimeError):
    """A weight update did not reach these generators."""

    def __init__(self, failed: frozenset[int], cause: object):
        super().__init__(f"weight update failed on generators {sorted(failed)}: {cause}")
        self.failed = failed


@dataclass(frozen=True)
class SamplingRequest:
    """Sampling parameters of one completion."""

    max_tokens: int
    temperature: float
    think_budget: int | None = None  # tokens after the tag that opens the thinking; None: no interruption
    seed: int | None = None
    think_tokens: int | None = None  # of the prompt
    ignore_ends: bool = False  # sample on to `max_tokens` after a token that ends a completion


@dataclass(frozen=True)
class EngineOutput:
    """One completion as the engine returned it: no reward, no forced mask. Arrays have one entry per token."""

    tokens: Ints
    logps: Floats
    versions: Ints
    text: str
    finish: Literal["stop", "length"]
    experts: Experts | None = None  # [Tp + T - 1, layers, K] that routed the prompt's and these tokens but the last


def build_completion(output: EngineOutput, reward: Reward, forced: Flags) -> Completion:
    """Return an engine's output with its reward and the mask of its forced tokens."""
    return Completion(
        tokens=output.tokens,
        logps=output.logps,
        versions=output.versions,
        forced=forced,
        finish=output.finish,
        text=output.text,
        reward=reward.reward,
        by_judge=reward.by_judge,
        experts=output.experts,
    )
