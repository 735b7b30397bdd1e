"""The protocol of environments: a class with `reset` and `step`, and the reply of a step. PURE.

    class Guess:
        def __init__(self, *, tries: int = 5): ...        # reward.environment.arguments
        def reset(self, prompt: str, reference: str) -> None: ...
        def step(self, message: str) -> Step: ...         # or async

Each episode has an object of its own. `prompt` is what the policy reads first, `reference` the row's answer, `message`
the text of the policy's turn without the token that ends it.
"""

import math
from dataclasses import dataclass
from numbers import Real

from scalerl_api.validation import shorten


@dataclass(frozen=True)
class Step:
    """The environment's reply to one turn of the policy."""

    observation: str = ""
    """The text that the policy reads next; not used when the episode is over."""
    done: bool = False
    """The episode is over."""
    reward: float | None = None
    """Reward of the episode if this turn is its last, in [-1, 1]; needed when `done`."""
    error: bool = False
    """The policy's turn failed, for example a call of a tool with bad arguments: it is counted."""


def check_reset(returned: object) -> None:
    """Raise TypeError for a `reset` that returns something: a first observation would be dropped without a word."""
    if returned is not None:
        raise TypeError(
            f"reset returned {_show(returned)}; None is allowed: the row's prompt is all that is read first"
        )


def parse_step(returned: object) -> Step:
    """Return a user's reply, checked. Any object with the four attributes is a Step. Raises TypeError, ValueError."""
    names = ("observation", "done", "reward", "error")
    if missing := [name for name in names if not hasattr(returned, name)]:
        raise TypeError(f"step returned {_show(returned)} without {', '.join(missing)}; a Step is allowed")
    observation, done, reward, error = (getattr(returned, name) for name in names)
    if not isinstance(observation, str):
        raise TypeError(f"step returned the observation {_show(observation)}; a string is allowed")
    for name, flag in (("done", done), ("error", error)):
        if not _is_flag(flag):
            raise TypeError(f"step returned {name}={_show(flag)}; True or False is allowed")
    value = None if reward is None else _parse_reward(reward)
    if done and value is None:
        raise ValueError("step ended the episode without a reward; a number from -1 to 1 is needed")
    # A lone surrogate has no bytes: neither a tokenizer nor the wire takes it.
    text = observation.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return Step(text, bool(done), value, bool(error))


def _parse_reward(reward: object) -> float:
    """True is 1 and False -1, as of a verifier."""
    if _is_flag(reward):
        return 1.0 if reward else -1.0
    if isinstance(reward, Real) and math.isfinite(float(reward)) and -1.0 <= float(reward) <= 1.0:
        return float(reward)
    raise ValueError(f"step returned the reward {_show(reward)}; a number from -1 to 1 or a bool is allowed")


def _is_flag(value: object) -> bool:
    """Whether it is a bool, numpy's included, which is no subclass of bool."""
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


def _show(value: object) -> str:
    return shorten(repr(value), 80)
