"""Starts a run's environments and tries each on one of its rows. I/O."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from scalerl_api.reward import ENVIRONMENT
from scalerl_api.rlrun import RLRun
from scalerl_runtime.environments.pool import EnvironmentPool
from scalerl_runtime.types import Prompt


@dataclass(frozen=True)
class Environments:
    """The environments of a run, with their processes started."""

    by_source: Mapping[str, EnvironmentPool]  # by the name of a prompt's source; those that have an environment

    def close(self) -> None:
        """End every process."""
        for pool in set(self.by_source.values()):
            pool.close()


def start_environments(run: RLRun, prompts: Sequence[Prompt]) -> Environments:
    """Return the started environments of `run`; none for a run without one.

    Args:
        run: with its sources and `reward.environment`.
        prompts: of the run, one or more of each source; the first of a source is tried.

    Raises InvalidRun if an environment cannot be used, EnvironmentFailed if its process dies.
    """
    options, seconds = run.spec.reward.environment, run.spec.reward.timeout_seconds
    names = {
        source.label: judge.verifier
        for source in (*run.spec.data.train, *run.spec.data.downstream)
        for judge in run.spec.judges_of(source)
        if judge.verifier.startswith(ENVIRONMENT)
    }
    with ExitStack() as on_failure:
        pools: dict[str, EnvironmentPool] = {}
        for verifier in dict.fromkeys(names.values()):
            pools[verifier] = EnvironmentPool(verifier, options.arguments, timeout_seconds=seconds)
            on_failure.callback(pools[verifier].close)
            first = next(prompt for prompt in prompts if names.get(prompt.source) == verifier)
            pools[verifier].start(first.text, first.answer)
        on_failure.pop_all()
    return Environments({label: pools[verifier] for label, verifier in names.items()})
