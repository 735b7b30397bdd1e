"""The trainer group of a run's spec. PURE."""

from math import gcd
from typing import Literal

from pydantic import Field

from scalerl_api.base import ApiModel
from scalerl_api.passthrough import PodTemplate, Settings


class TrainerOffload(ApiModel):
    """State of the trainer that is kept in host memory, by DeepSpeed's ZeRO-Offload."""

    optimizer: Literal["none", "cpu"] = "none"
    """`cpu`: AdamW's moments and float32 weights, 12 bytes a parameter over all ranks, in host memory; the update is
    computed there."""
    parameters: Literal["none", "cpu"] = "none"
    """`cpu`: the shares of the weights in host memory; a layer's are on the device while it is computed. Only with
    `zeroStage: 3` and `optimizer: cpu`."""


class TrainerSpec(ApiModel):
    """The trainer group (DeepSpeed): a gang."""

    replicas: int = Field(default=1, ge=1, le=4096)
    """Pods (processes on CPU)."""
    min_replicas: int | None = Field(default=None, ge=1, le=4096)
    """On a cluster: fewest pods with which a restarted run goes on, when there is no room for all of them
    (`deadlines.gangSeconds`); the next restart asks for all again. The batch stays the same. Fewer ranks hold more
    each, so they need more memory. Unset: all."""
    gpus_per_replica: int = Field(default=1, ge=0, le=16)
    """GPUs of one replica; 0 trains on the CPU, one rank per replica."""
    zero_stage: Literal[1, 2, 3] = 1
    """State that DeepSpeed shards over the ranks: 1 the optimizer, 2 gradients too, 3 weights too. In bfloat16 1 shards
    gradients too: their sums are float32, 4 bytes a parameter."""
    sequence_parallel: int = Field(default=1, ge=1, le=256)
    """Ranks that share each packed row, a part each, for long sequences (DeepSpeed-Ulysses): activations of a rank are
    divided by it. It divides the ranks and the model's attention heads. Updates are those of 1; docs/gpu.md."""
    micro_batch_tokens: int = Field(default=16_384, ge=16, le=10_000_000)
    """Token budget of one packed micro-batch; the longest sequence must fit. With `sequenceParallel` it is that of the
    row that the ranks share."""
    activations: Literal["checkpoint", "offload", "keep"] = "checkpoint"
    """Memory of the forward pass: `checkpoint` keeps the input of each decoder layer and computes the layer again in
    the backward pass; `offload` does the same and keeps the inputs in host memory; `keep` computes nothing twice."""
    offload: TrainerOffload = TrainerOffload()
    """State in host memory."""
    deepspeed: Settings = Field(default={}, max_length=50)
    """Further settings of DeepSpeed, under its names: `zero_optimization: {reduce_bucket_size: 200000000}`. A setting
    that scalerl sets itself is refused by name, and one that DeepSpeed does not know; docs/gpu.md has examples."""
    template: PodTemplate = PodTemplate()
    """Additions to the pods of the group, on a cluster."""

    @property
    def ranks(self) -> int:
        """Processes, each with a share of the state."""
        return self.replicas * max(1, self.gpus_per_replica)

    @property
    def data_parallel_ranks(self) -> int:
        """Ranks, or groups of `sequenceParallel` ranks that share rows: each has rows of its own."""
        return max(1, self.ranks // self.sequence_parallel)

    @property
    def replicas_step(self) -> int:
        """Replicas whose ranks are whole groups of `sequenceParallel`: a gang has a multiple of it."""
        return self.sequence_parallel // gcd(max(1, self.gpus_per_replica), self.sequence_parallel)

    @property
    def rank_tokens(self) -> int:
        """Most tokens that a rank computes at a time."""
        return -(-self.micro_batch_tokens // self.sequence_parallel)

    @property
    def has_whole_groups(self) -> bool:
        """Whether a full gang and the smallest one have whole groups of ranks that share rows."""
        return not any(count % self.replicas_step for count in (self.replicas, self.min_replicas or 0))
