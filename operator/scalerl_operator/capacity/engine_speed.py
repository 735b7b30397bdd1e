"""Time of an engine's decoding step and of its prompts, by a roofline with fitted overheads. PURE.

A step of n running sequences takes

    overhead + all-reduces + weights / bandwidth + n (2 active / flops + cache / bandwidth + sequence overhead)

Weights and cache are read by all GPUs of an engine together. The constants are fitted to one published table of vLLM
measurements; `bench/runtime/published_speeds.py` compares the formula with it and with tables that it never saw.
"""

from dataclasses import dataclass

from scalerl_operator.capacity.lengths import Lengths
from scalerl_operator.capacity.work import ModelWork

# Fitted to the ML.ENERGY leaderboard's medians for Qwen3 8B, 14B and 32B in bfloat16 on H100 (task lm-arena-chat,
# commit 0cd52da, 2026-02). The intercepts of 8B, 14B and 32B on one GPU are a line of 2.94 TB/s (.88 of the data
# sheet's) from 1.9 ms; 32B on two GPUs adds 1 ms for the 128 all-reduces of its 64 layers; a running sequence adds
# .036 ms beside its products and its cache, which is scheduling, sampling and output.
BANDWIDTH_SHARE = 0.88
STEP_SECONDS = 1.9e-3
ALL_REDUCE_SECONDS = 8e-6
SEQUENCE_SECONDS = 0.036e-3
ALL_REDUCES_PER_LAYER = 2
DECODE_FLOPS_SHARE = 0.8  # of the sheet's, for a decoding step's products; prompts the same


@dataclass(frozen=True, kw_only=True)
class EngineSpeed:
    """One engine: a model on some GPUs."""

    work: ModelWork
    gpus: int
    """Tensor parallel."""
    flops: float
    """Of one GPU, operations a second in the model's type."""
    bandwidth: float
    """Of one GPU's memory, bytes a second."""
    weight_bytes: float
    """Of a parameter of the layers."""
    head_bytes: float
    """Of a parameter of the head."""
    kv_bytes: float
    """Of a number in the cache."""
    lengths: Lengths
    completions: int = 1
    """That share a prompt, and so its cache while it is computed."""

    def step_seconds(self, running: float) -> float:
        """Return the seconds of a decoding step of `running` sequences at the mean context, >= 0."""
        reading = self.bandwidth * BANDWIDTH_SHARE * self.gpus
        reduces = ALL_REDUCES_PER_LAYER * self.work.layers * ALL_REDUCE_SECONDS if self.gpus > 1 else 0.0
        head = self.work.head_parameters
        weights = (self.work.read_parameters(running) - head) * self.weight_bytes + head * self.head_bytes
        return STEP_SECONDS + reduces + weights / reading + max(0.0, running) * self.sequence_seconds

    @property
    def cache_bytes(self) -> float:
        """Bytes of the cache that a running sequence holds on average, and that each of its steps reads."""
        tokens = self.work.cached_layer_tokens(self.lengths.context)
        return tokens * self.work.kv_numbers / self.work.layers * self.kv_bytes

    @property
    def sequence_seconds(self) -> float:
        """Seconds that each running sequence adds to a step, its share of the prompts included."""
        reading = self.bandwidth * BANDWIDTH_SHARE * self.gpus
        cache = self.cache_bytes / reading
        products = 2 * self.work.active_parameters / (self.flops * DECODE_FLOPS_SHARE * self.gpus)
        return products + cache + SEQUENCE_SECONDS + self.prompt_seconds / self.lengths.mean

    @property
    def prompt_seconds(self) -> float:
        """Seconds of a completion's prompt, which is computed once for its group."""
        work, prompt = self.work, self.lengths.prompt
        flops = 2 * work.body_parameters * prompt + work.attention_flops(1, prompt, prompt * prompt)
        return flops / (self.flops * DECODE_FLOPS_SHARE * self.gpus) / self.completions

    def tokens_per_second(self, running: float) -> float:
        """Return the tokens that the engine samples a second with `running` sequences."""
        return running / self.step_seconds(running)
