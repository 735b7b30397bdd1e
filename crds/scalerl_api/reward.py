"""How completions are judged: verifiers, their weights and limits. PURE."""

from typing import Annotated, Literal

from pydantic import Field

from scalerl_api.base import NAME_PATTERN, ApiModel

ENVIRONMENT = "env:"  # a verifier that plays the turns of an episode
VERIFIER_PATTERN = r"^(math|choice|reasoning_gym|code|http:[a-z0-9][-a-z0-9]*|(python|env):[\w.]+:\w+)$"
PACKAGE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
URL_PATTERN = r"^https?://[^\s/@?#]+([/?#]\S*)?$"  # no user and password: the spec holds no secret
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"


Package = Annotated[str, Field(pattern=PACKAGE_PATTERN, max_length=100)]


class WeightedVerifier(ApiModel):
    """One of several verifiers of a source."""

    verifier: str = Field(pattern=VERIFIER_PATTERN, max_length=300)
    """As `reward.verifier`."""
    name: str | None = Field(default=None, pattern=NAME_PATTERN, max_length=52)
    """Label of its rewards; unset: made of the verifier."""
    weight: float = Field(default=1.0, ge=1e-6, le=1e6)
    """Its part of the reward, relative to the others' weights."""

    @property
    def label(self) -> str:
        """Name of its rewards in metrics, stored completions and messages."""
        return self.name if self.name is not None else self.verifier


class VerifiedSpec(ApiModel):
    """A part of the spec that may have verifiers of its own."""

    verifier: str | None = Field(default=None, pattern=VERIFIER_PATTERN, max_length=300)
    """Its own verifier; unset: `spec.reward`'s."""
    verifiers: list[WeightedVerifier] = Field(default=[], max_length=10)
    """Several, whose rewards are averaged by weight; in place of `verifier`."""

    @property
    def judges(self) -> tuple[WeightedVerifier, ...]:
        """The verifiers that it has itself."""
        if self.verifiers:
            return tuple(self.verifiers)
        return () if self.verifier is None else (WeightedVerifier(verifier=self.verifier),)


class HttpJudge(ApiModel):
    """A reward model or an LLM judge behind an URL: the verifier `http:<name>`."""

    name: str = Field(pattern=NAME_PATTERN, max_length=52)
    """Named by the verifier `http:<name>`."""
    url: str = Field(pattern=URL_PATTERN, max_length=2000)
    """Address of the request, such as `http://judge:8000/v1/chat/completions`; without a token."""
    api: Literal["chat", "scores", "pooling", "classify", "score", "rerank", "rewards"] = "chat"
    """Form of request and reply. `chat`: OpenAI-compatible chat completions; the reply's text holds a score. `scores`:
    prompt, completion and reference are sent as JSON, and a `score` comes back. `pooling`, `classify`, `score`,
    `rerank`: the routes of vLLM with these names. `rewards`: OpenRLHF's remote reward model."""
    model: str = Field(default="", max_length=500)
    """Name of the model in the request."""
    prompt: str = Field(default="", max_length=10_000)
    """`chat`: the judge's question, with `{prompt}`, `{completion}` and `{reference}`; empty: docs/judges.md's."""
    lowest: float = Field(default=0.0, ge=-1e6, le=1e6)
    """Score that is the reward -1."""
    highest: float = Field(default=1.0, ge=-1e6, le=1e6)
    """Score that is the reward +1."""
    token_variable: str | None = Field(default=None, pattern=VARIABLE_PATTERN, max_length=200)
    """Environment variable of the trainer that holds the bearer token; on a cluster from a Secret, by
    `trainer.template`. Never the token itself."""
    max_concurrent: int = Field(default=16, ge=1, le=10_000)
    """Requests at once."""
    timeout_seconds: float = Field(default=60.0, ge=0.1, le=3600.0)
    """Longest wait for one reply."""
    retries: int = Field(default=4, ge=0, le=100)
    """Repetitions of a request that fails by an outage, a limit of the rate or a reply without a score."""
    max_requests: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Budget of requests of one attempt; the run ends when it is spent. Unset: none."""
    cache: bool = True
    """Equal questions of an attempt are asked once."""


class EnvironmentOptions(ApiModel):
    """Limits of the verifier `env:package.module:Class`. All tokens of an episode, observations included, are bounded
    by `recipe.length`: thinkTokens + answerTokens."""

    max_turns: int = Field(default=8, ge=1, le=1000)
    """Turns of the policy in one episode. An episode that is not done after the last one gets the last step's reward;
    -1 if it had none."""
    observation_tokens: int = Field(default=1024, ge=1, le=1_000_000)
    """Longest reply of the environment; a longer one is cut, and counted."""
    arguments: dict[str, int | float | str | bool] = Field(default={}, max_length=50)
    """Keyword arguments of the class."""


class RewardSpec(VerifiedSpec):
    """+1 for a right answer, -1 for a wrong one."""

    verifier: str | None = Field(default=None, pattern=VERIFIER_PATTERN, max_length=300)
    """`math`, `choice`, `reasoning_gym`, `code`, `http:<name>`, `python:package.module:function`, or
    `env:package.module:Class`. May be unset if every source has its own."""
    timeout_seconds: float = Field(default=10.0, ge=0.1, le=3600.0)
    """Longest check of one completion. A program under `code` that runs longer is wrong, and so is an answer whose
    comparison (`math`, `choice`, `reasoning_gym`) takes longer twice; for `python:` it is a failure of the verifier."""
    memory_megabytes: int = Field(default=512, ge=16, le=1_000_000)
    """`code`: memory of the program under test."""
    packages: list[Package] = Field(default=[], max_length=20)
    """`code`: installed packages that programs may import, such as numpy."""
    http: list[HttpJudge] = Field(default=[], max_length=10)
    """Judges behind an URL."""
    environment: EnvironmentOptions = EnvironmentOptions()
    """`env:`: limits of an episode."""
