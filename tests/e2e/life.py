"""A run of the end-to-end tests, and how a person sees it. I/O."""

import json
from typing import Any

import yaml
from lab import ROOT, Json, Platform, wait_for


def small_run(platform: Platform, name: str) -> Json:
    """The quickstart's model and recipe on sums of two digits, which it learns in a tenth of the time.

    A step takes a fraction of a second, so the budget never ends: what a test waits for is a start, a death or a save.
    """
    document: Json = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())
    document["metadata"]["name"] = name
    spec = document["spec"]
    for role in ("trainer", "generator"):
        spec[role]["template"] = platform.template()
    spec["generator"] |= {"kvCacheMegabytes": 64}
    spec["data"]["train"] |= {"size": 2000}
    spec["data"]["train"]["task"] = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    spec["recipe"] |= {"promptsPerStep": 8}
    spec["warmStart"] |= {"steps": 75, "warmupSteps": 10, "wrongSteps": 0}
    spec["budget"] = {"steps": 10_000, "evalEverySteps": 10_000}
    spec["checkpoint"] = {"everySteps": 25}
    return document


class Life:
    """The run as a person sees it with kubectl."""

    def __init__(self, platform: Platform, namespace: str, run: str):
        self.platform = platform
        self.namespace = namespace
        self.run = run

    def status(self) -> Json:
        found: Json = self.platform.get("rlrun", self.run, namespace=self.namespace).get("status", {})
        return found

    def step(self) -> int:
        return int(self.status().get("progress", {}).get("step", 0))

    def state(self) -> str:
        return str(self.status().get("progress", {}).get("phase", ""))

    def attempt(self) -> int:
        return int(self.status()["attempt"])

    def condition(self, kind: str) -> Json:
        return next((each for each in self.status().get("conditions", []) if each["type"] == kind), {})

    def ready(self, role: str) -> int:
        return next(int(each["ready"]) for each in self.status()["roles"] if each["name"] == role)

    def pods(self) -> dict[str, str]:
        """Names, shortened to `trainer-0`, with uids."""
        items = self.platform.get("pods", "-l", f"scalerl.io/run={self.run}", namespace=self.namespace)["items"]
        return {each["metadata"]["name"].removeprefix(f"{self.run}-"): each["metadata"]["uid"] for each in items}

    def edit(self, **spec: Any) -> None:
        patch = json.dumps({"spec": spec})
        self.platform.kubectl("patch", "rlrun", self.run, "--type=merge", "-p", patch, namespace=self.namespace)

    def goes_on(self, why: str, steps: int = 2) -> None:
        """Wait until it has trained some steps more than now."""
        before = self.step()
        wait_for(f"training goes on beyond step {before} ({why})", lambda: self.step() >= before + steps)

    def inside(self, pod: str, code: str) -> str:
        return self.platform.kubectl("exec", f"{self.run}-{pod}", "--", "python", "-c", code, namespace=self.namespace)

    def table(self) -> str:
        return self.platform.kubectl("get", "rlruns", namespace=self.namespace)
