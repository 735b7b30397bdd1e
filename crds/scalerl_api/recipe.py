"""The ScaleRL recipe: its parts, their alternatives, and the presets of the paper. PURE.

Source of every number: Khatri et al. 2025, arXiv:2510.13786, sections 2, 3 and A.16, unless a comment says otherwise.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from scalerl_api.base import ApiModel

Curriculum = Literal["uniform", "linear", "exponential", "staged"]
PresetName = Literal["scalerl", "grpo", "dapo", "magistral", "minimax", "gspo"]

CLOSE_PLACE = "{close}"  # in the phrase: the tag that closes the thinking
# The paper's phrase (section 3.2). It ends the thinking, so the answer follows it.
INTERRUPTION_PHRASE = f"Okay, time is up. Let me stop thinking and formulate a final answer now. {CLOSE_PLACE}"
MIN_TEMPERATURE = 0.01  # vLLM raises a smaller one, above 0, to it
TAG_PATTERN = r"^\S(.*\S)?$"  # tokenizers move white space at the ends of a text
TAG_ALLOWED = "one line of text without white space at its ends"


class Asynchrony(ApiModel):
    """How far generation may run ahead of training."""

    mode: Literal["pipeline", "offPolicy", "synchronous"] = "pipeline"
    """`pipeline`: both run at once, weights are pushed in flight. `offPolicy`: generate `offPolicySteps` batches, then
    train on them. `synchronous`: one batch, one step. Changing it mid-run takes effect at the next restart."""
    max_lag: int = Field(default=8, ge=1, le=64)
    """Most optimizer steps between the version that produced a token and the version that trains on it (`pipeline`)."""
    off_policy_steps: int = Field(default=8, ge=1, le=64)
    """Steps trained on one generated set (`offPolicy`)."""
    kv_cache: Literal["keep", "recompute"] = "keep"
    """Cache of running completions at an in-flight update: keep the stale one, or recompute it."""

    @property
    def largest_lag(self) -> int:
        """Most steps between the version of a token and the version that trains on it, as guaranteed by the mode."""
        return {"pipeline": self.max_lag, "offPolicy": self.off_policy_steps - 1, "synchronous": 0}[self.mode]


class Loss(ApiModel):
    """The policy loss and its optional terms."""

    kind: Literal["cispo", "dapo", "gspo", "grpo"] = "cispo"
    """`cispo`: truncated importance weight times log-probability. `dapo`: token clip, asymmetric. `grpo`: token clip,
    symmetric (`clipLow`). `gspo`: sequence ratio, clipped."""
    ratio_max: float = Field(default=5.0, ge=1.0, le=100.0)
    """CISPO: absolute cap of the ratio itself (not 1 + epsilon). The paper finds 4, 5 and 8 alike."""
    clip_low: float = Field(default=0.2, ge=0.0, le=1.0)
    """Lower clip: ratios below 1 - clipLow carry no gradient where the advantage is negative."""
    clip_high: float = Field(default=0.26, ge=0.0, le=10.0)
    """Upper clip of `dapo` and `gspo`: ratios above 1 + clipHigh carry no gradient where the advantage is positive."""
    kl_coefficient: float = Field(default=0.0, ge=0.0, le=10.0)
    """Weight of the KL term (k3 estimate) against the generator's policy; 0 turns it off, as ScaleRL does."""
    kl_target: float | None = Field(default=None, ge=1e-6, le=10.0)
    """Adapt the coefficient so that the measured KL (nats per token) stays near this; unset keeps it constant."""
    entropy_bonus: float = Field(default=0.0, ge=0.0, le=1.0)
    """Weight of the mean token entropy (nats) added to the objective; 0 turns it off, as ScaleRL does."""


class ThinkTags(ApiModel):
    """The texts around the thinking. Any pair that the model's tokenizer can spell, in one token or in several."""

    open: str = Field(default="<think>", min_length=1, max_length=100, pattern=TAG_PATTERN)
    """Text that opens the thinking. The prompt may end in it, else the model has to write it."""
    close: str = Field(default="</think>", min_length=1, max_length=100, pattern=TAG_PATTERN)
    """Text that closes the thinking; the answer follows it. Changing a tag mid-run takes effect at the next restart."""

    @property
    def overlap(self) -> bool:
        """Whether one tag is the other or a part of it."""
        return self.open in self.close or self.close in self.open


class Length(ApiModel):
    """Lengths in tokens, and the control of the thinking."""

    control: Literal["interruption", "penalty", "none"] = "interruption"
    """`interruption`: at a random budget the phrase is forced, and its tokens are masked from the loss. `penalty`: a
    correct completion loses reward as it nears the limit. `none`: it is cut at the limit."""
    prompt_tokens: int = Field(default=2048, ge=1, le=1_000_000)
    """Longest prompt; a longer one is a bad row."""
    think_tokens: int = Field(default=12_288, ge=1, le=1_000_000)
    """Longest thinking."""
    answer_tokens: int = Field(default=2048, ge=1, le=1_000_000)
    """Room after the thinking, the forced phrase included."""
    interrupt_min: int = Field(default=10_000, ge=1, le=1_000_000)
    """Lower end of the random thinking budget; the upper end is `interruptMax`."""
    interrupt_max: int = Field(default=12_000, ge=1, le=1_000_000)
    """Upper end of the random thinking budget."""
    think_tags: ThinkTags = ThinkTags()
    """The texts that open and close the thinking."""
    phrase: str = Field(default=INTERRUPTION_PHRASE, min_length=1, max_length=500)
    """Text that is forced when the budget is spent. It must close the thinking: `{close}` stands for
    `thinkTags.close`."""
    penalty_cache: int = Field(default=2048, ge=1, le=1_000_000)
    """`penalty`: the reward falls linearly over this many tokens before the limit (the paper's L_cache)."""

    @property
    def forced_phrase(self) -> str:
        """The phrase with its closing tag."""
        return self.phrase.replace(CLOSE_PLACE, self.think_tags.close)

    @property
    def completion_tokens(self) -> int:
        """Most tokens of one completion."""
        return self.think_tokens + self.answer_tokens

    @property
    def sequence_tokens(self) -> int:
        """Most tokens of prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


class Optimizer(ApiModel):
    """AdamW with a linear warm-up to a constant rate."""

    learning_rate: float = Field(default=5e-7, ge=0.0, le=1.0)
    """Rate after the warm-up."""
    warmup_steps: int = Field(default=100, ge=0, le=100_000)
    """Steps of linear warm-up."""
    beta1: float = Field(default=0.9, ge=0.0, le=0.9999)
    """AdamW's first decay. Not stated in the paper; AdamW's usual value."""
    beta2: float = Field(default=0.95, ge=0.0, le=0.99999)
    """AdamW's second decay. Not stated in the paper; 0.95 is usual for language models."""
    epsilon: float = Field(default=1e-15, ge=0.0, le=1e-2)
    """AdamW's epsilon; the paper's value lets tiny gradients count."""
    weight_decay: float = Field(default=0.01, ge=0.0, le=1.0)
    """Decoupled weight decay."""
    grad_clip: float = Field(default=1.0, ge=0.0, le=1000.0)
    """Largest norm of the gradient; 0 turns clipping off. Not stated in the paper."""


StopToken = Annotated[str, Field(min_length=1, max_length=100)]


class Recipe(ApiModel):
    """Every choice of the algorithm. The defaults are ScaleRL."""

    asynchrony: Asynchrony = Asynchrony()
    """Asynchrony between generation and training."""
    loss: Loss = Loss()
    """Policy loss."""
    head: Literal["fp32", "bf16"] = "fp32"
    """Precision of the logits, on generator and trainer alike."""
    aggregation: Literal["promptMean", "sampleMean", "tokenMean"] = "promptMean"
    """`promptMean`: tokens are averaged inside a prompt's group, then prompts. `sampleMean`: inside a completion, then
    completions. `tokenMean`: over all tokens."""
    advantage: Literal["batchStd", "groupStd", "none"] = "batchStd"
    """Divisor of the reward minus its group's mean."""
    zero_variance: Literal["drop", "keep", "refill"] = "drop"
    """Groups whose rewards are all equal: drop them from the loss, keep them, or replace them by further groups."""
    no_positive_resampling: bool = True
    """A prompt whose historic pass rate reaches `noPositiveThreshold` is excluded from later epochs."""
    no_positive_threshold: float = Field(default=0.9, ge=0.0, le=1.0)
    """The historic pass rate at which a prompt is excluded."""
    curriculum: Curriculum = "uniform"
    """Order of prompts in an epoch: shuffled, or from easy to hard at a linear, exponential or three-stage pace."""
    length: Length = Length()
    """Lengths and their control."""
    stop_tokens: list[StopToken] = Field(default=[], max_length=20)
    """Tokens that end a completion, each a text that is one token of the vocabulary (`<|im_end|>`), besides the
    tokenizer's end of sequence. Empty with `promptFormat: chat`: the token that ends a turn of the chat template, and
    those of the model's generation config. Empty with `plain`: none."""
    prompts_per_step: int = Field(default=48, ge=1, le=100_000)
    """Prompts (groups) in one optimizer step."""
    completions_per_prompt: int = Field(default=16, ge=2, le=1024)
    """Completions in one group."""
    temperature: float = Field(default=1.0, ge=MIN_TEMPERATURE, le=2.0)
    """Sampling temperature, for training and evaluation. Not stated in the paper. Top-p and top-k are always off."""
    optimizer: Optimizer = Optimizer()
    """Optimizer."""
    router_replay: bool = False
    """Mixture of experts: the trainer's routers use the experts that the generator's chose for each token, so that
    rounding cannot turn a choice (rollout routing replay, R3). Changing it mid-run takes effect at the next restart."""


# A.16's baselines, as differences from ScaleRL. Where the paper is silent the ScaleRL value stays.
_OFF_POLICY_8 = {"mode": "offPolicy", "offPolicySteps": 8}
_PLAIN = {"head": "bf16", "advantage": "groupStd", "noPositiveResampling": False}
PRESETS: dict[PresetName, dict[str, Any]] = {
    "scalerl": {},
    "grpo": {
        **_PLAIN,
        "asynchrony": _OFF_POLICY_8,
        "loss": {"kind": "grpo", "clipLow": 0.2, "clipHigh": 0.2},
        "aggregation": "sampleMean",
        "zeroVariance": "keep",
    },
    "dapo": {
        **_PLAIN,
        "asynchrony": _OFF_POLICY_8,
        "loss": {"kind": "dapo", "clipLow": 0.2, "clipHigh": 0.26},
        "promptsPerStep": 80,
    },
    "magistral": {
        **_PLAIN,
        "loss": {"kind": "dapo", "clipLow": 0.2, "clipHigh": 0.26},
        "promptsPerStep": 80,
    },
    "minimax": {
        **_PLAIN,
        "asynchrony": _OFF_POLICY_8,
        "head": "fp32",
        "promptsPerStep": 80,
    },
    # The paper's loss arm, not a named baseline: clip 5e-3 above and 3e-3 below did slightly best.
    "gspo": {"loss": {"kind": "gspo", "clipLow": 0.003, "clipHigh": 0.005}},
}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` on top, nested mappings merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
