"""Starts a run's environments and tries each on one of its rows. I/O."""

from collections.abc import Collection, Mapping, Sequence
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


def start_environments(run: RLRun, prompts: Sequence[Prompt], skip: Collection[str] = ()) -> Environments:
    """Return the started environments of `run`; none for a run without one.

    Args:
        run: with its sources and `reward.environment`.
        prompts: of the run, one or more of each source; the first of a source is tried.
        skip: environments that are left out.

    Raises InvalidRun if an environment cannot be used, EnvironmentFailed if its process dies.
    """
    options, seconds = run.spec.reward.environment, run.spec.reward.timeout_seconds
    names = {
        name: judge
        for name, judges in run.spec.judges_by_source().items()
        for judge in judges
        if judge.verifier.startswith(ENVIRONMENT) and judge.verifier not in skip
    }
    with ExitStack() as on_failure:
        pools: dict[tuple[str, str], EnvironmentPool] = {}
        for name, judge in names.items():
            key = judge.verifier, judge.label
            if key not in pools:
                pools[key] = EnvironmentPool(
                    judge.verifier, options.arguments, timeout_seconds=seconds, label=judge.label
                )
                on_failure.callback(pools[key].close)
                first = next(prompt for prompt in prompts if prompt.source == name)
                pools[key].start(first.text, first.answer)
        on_failure.pop_all()
    return Environments({name: pools[judge.verifier, judge.label] for name, judge in names.items()})
