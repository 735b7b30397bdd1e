"""Copies a run's stored completions out of its coordinator's pod, as `kubectl exec` does. I/O.

The API server's proxy removes the token that the coordinator's HTTP asks for, and a user needs no token otherwise
(docs/notes/053-kubectl-for-people.md). So the files are read with the user's own permission to execute in pods.
"""

from dataclasses import dataclass
from pathlib import Path

from scalerl_api.rollouts import ROLLOUTS, RolloutFileName, parse_name
from scalerl_operator.cli.cluster_reader import StoredRun, fetch_pods
from scalerl_operator.cli.exit_codes import EXIT_FAILED, CommandError
from scalerl_operator.kube.client import KubeClient
from scalerl_operator.kube.pod_exec import run_in_pod
from scalerl_operator.resources.names import CONTAINER, RUN_FOLDER, claim_name, folder_in_claim

MAX_FETCHED = 40  # files of one answer
MAX_FILE_BYTES = 2**30
SILENCE_SECONDS = 60.0
_FOLDER = f"{RUN_FOLDER}/{ROLLOUTS}"


@dataclass(frozen=True)
class PodRollouts:
    """The completions in the folder of a coordinator that runs."""

    kube: KubeClient
    place: tuple[str, str, str]
    """Namespace, pod, container."""

    async def list_names(self) -> list[RolloutFileName]:
        """Return the stored steps and evaluations. Raises KubeError."""
        output = await self._run("sh", "-c", f"if [ -d {_FOLDER} ]; then ls -1 {_FOLDER}; fi")
        found = (parse_name(line) for line in output.decode(errors="replace").splitlines())
        return [name for name in found if name is not None]

    async def fetch(self, name: RolloutFileName, folder: Path) -> Path:
        """Copy one file into `folder` and return its path. Raises KubeError."""
        path = folder / str(name)
        path.write_bytes(await self._run("cat", f"{_FOLDER}/{name}"))
        return path

    async def _run(self, *command: str) -> bytes:
        return await run_in_pod(self.kube, self.place, command, max_bytes=MAX_FILE_BYTES, seconds=SILENCE_SECONDS)


async def find_coordinator(kube: KubeClient, found: StoredRun, where: str) -> tuple[str, str, str]:
    """Return namespace, pod and container of the running coordinator. Raises KubeError, CommandError without one."""
    for pod in await fetch_pods(kube, found.key, role="trainer", index=0):
        if pod.is_coordinator and pod.container_state == "running":
            return found.key[0], pod.name, CONTAINER
    claim = found.run.spec.checkpoint.claim_name or claim_name(found.key[1])
    folder = folder_in_claim(found.key[1], found.observed.uid)
    text = (
        f"no coordinator of {where} runs, and completions are read from its pod. They are kept in {folder}/{ROLLOUTS}"
        f" of the claim {claim}: copy {folder} from a pod that mounts the claim, then `scalerl rollouts FOLDER`"
    )
    raise CommandError(text, EXIT_FAILED)
