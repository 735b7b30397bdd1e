"""The model as the loss uses it: packed tokens in, log-probabilities of the trained ones out. PURE."""

from typing import Any

import torch
from torch import Tensor, nn

from scalerl_api.recipe import Optimizer
from scalerl_runtime.actors.sequence.sequence_group import SequenceGroup
from scalerl_runtime.actors.varlen_attention import forward_hidden
from scalerl_runtime.algorithm.head import IDENTITY, HeadTransform, Precision, linear_logprob, plan_chunk
from scalerl_runtime.algorithm.microbatch import OWN_CHOICE
from scalerl_runtime.models.parts import find_head
from scalerl_runtime.models.router_replay import RouterReplay
from scalerl_runtime.weights.zero_partitions import full_shape


class LogprobHead(nn.Module):
    """The LM head, returning log-probabilities of targets instead of logits.

    A separate module that holds the weight: ZeRO-3 gathers a parameter where the module that owns it runs. With tied
    embeddings the weight is the embedding's own Parameter.
    """

    def __init__(self, linear: Any, *, precision: Precision, temperature: float, transform: HeadTransform = IDENTITY):
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.precision: Precision = precision
        self.temperature = temperature
        self.transform = transform

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (nats), [M] each, of `targets` [M] given `hidden` [M, H]."""
        return linear_logprob(
            hidden,
            self.weight,
            targets,
            precision=self.precision,
            chunk=plan_chunk(self.weight.shape[0]),
            temperature=self.temperature,
            bias=self.bias,
            transform=self.transform,
        )


class Policy(nn.Module):
    """A causal LM and its fused head.

    The head takes the place of the model's own, so that every parameter keeps its name.
    """

    def __init__(
        self,
        model: Any,
        *,
        precision: Precision,
        temperature: float,
        transform: HeadTransform = IDENTITY,
        group: SequenceGroup | None = None,
    ):
        super().__init__()
        self.model = model
        self._group = group
        self._head_name = find_head(model)
        linear = model.get_submodule(self._head_name)
        head = LogprobHead(linear, precision=precision, temperature=temperature, transform=transform)
        model.set_submodule(self._head_name, head)
        self.replay: RouterReplay | None = None

    @property
    def head(self) -> LogprobHead:
        """The fused head."""
        head: LogprobHead = self.model.get_submodule(self._head_name)
        return head

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        cu_seqlens: Tensor,
        select: Tensor,
        targets: Tensor,
        experts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return log-probability and entropy [M] of `targets` [M], predicted at positions `select` [M] of the row.

        `experts` [N, layers, K] are replayed; only a policy with `replay` has a use for them.
        In a sequence group every rank gets the whole row, computes its part, and returns the whole row's.
        """
        group = self._group
        if self.replay is not None:
            self.replay.set_row(experts if group is None or experts is None else group.cut(experts, OWN_CHOICE))
        hidden = forward_hidden(self.model, tokens, positions, cu_seqlens, group)
        if group is None:
            logp, entropy = self.head(hidden.index_select(0, select), targets)
            return logp, entropy
        own, first = group.find_targets(select, tokens.shape[0])
        logp, entropy = self.head(hidden.index_select(0, select[own] - first), targets[own])
        count = targets.shape[0]
        return group.join_targets(logp, own, count), group.join_targets(entropy, own, count)


def build_optimizer(policy: Policy, options: Optimizer, *, on_host: bool) -> torch.optim.Optimizer:
    """Return AdamW of what is trained; norms and biases do not decay."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if len(full_shape(p)) >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if len(full_shape(p)) < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],  # adapters are matrices only
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.epsilon,
        fused=on_host or None,  # vectorized on the host, where the loop of tensors is slow
    )
