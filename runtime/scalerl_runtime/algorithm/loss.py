"""Policy losses over flat packed tokens, their optional terms, and the statistics that a step reports. PURE.

Letters: N token positions of one micro-batch. A completion lies in one micro-batch as a whole.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from scalerl_api.recipe import Loss

# exp(20) = 5e8 is far outside every clip; beyond it exp, or zero times its gradient, overflows float32 to nan.
_MAX_LOG_RATIO = 20.0
_NEAR_LOW, _NEAR_HIGH = 0.9, 1.1  # a token outside counts as mismatched (TRL's and NeMo-RL's usual report)


@dataclass(frozen=True)
class LossStats:
    """Sums over the trained tokens of a micro-batch; `a + b` is the report of both together."""

    tokens: int = 0
    loss: float = 0.0  # the objective itself; it is already weighted, so the sum is the whole batch's loss
    clipped: int = 0  # tokens whose ratio the loss clipped
    outside: int = 0  # tokens whose ratio is outside [0.9, 1.1]
    kl: float = 0.0  # sum of k3, nats
    entropy: float = 0.0  # sum, nats
    ratio_max: float = 0.0  # largest ratio; the one field that is a maximum

    def __add__(self, other: "LossStats") -> "LossStats":
        """Return the stats of both."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return LossStats(**{**sums, "ratio_max": max(self.ratio_max, other.ratio_max)})

    def mean(self, total: float) -> float:
        """Return one of the sums divided by the trained tokens; 0 where nothing was trained."""
        return total / max(1, self.tokens)


def token_loss(
    loss: Loss, logp: Tensor, logp_gen: Tensor, advantage: Tensor, completion: Tensor, mask: Tensor
) -> Tensor:
    """Return the loss of each token, [N]; `objective` weights and sums them.

    Args:
        loss: kind and clips.
        logp, logp_gen: [N] log-probability (nats) under trainer, generator; finite where `mask`, anything elsewhere.
        advantage: [N], its completion's advantage at each token.
        completion: [N] int64, which completion of the micro-batch a token belongs to, from 0.
        mask: [N] bool, True at trained tokens. Elsewhere loss and gradient are exactly 0.

    `cispo`: -sg(min(ratio, ratio_max)) * A * logp; the cap is on the ratio itself, and every token keeps its gradient.
    `grpo`, `dapo`: -min(ratio * A, clip(ratio) * A), with 1 + clip_low or 1 + clip_high above.
    `gspo`: the same with the sequence ratio, exp(mean of logp - logp_gen over the completion's trained tokens), whose
    value and gradient every token of the completion carries.
    Sources: Khatri et al. 2025, arXiv:2510.13786 (CISPO as in ScaleRL); Zheng et al. 2025, arXiv:2507.18071 (GSPO).
    """
    log_ratio = _log_ratio(logp, logp_gen, mask)
    advantage = torch.where(mask, advantage, 0.0).to(logp.dtype)
    if loss.kind == "cispo":
        weight = log_ratio.exp().clamp(max=loss.ratio_max).detach()
        return -weight * advantage * torch.where(mask, logp, 0.0)
    ratio = _clipped_ratio_input(loss, log_ratio, completion, mask).exp()
    low, high = _clip_range(loss)
    return -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)


def kl_k3(logp: Tensor, logp_gen: Tensor) -> Tensor:
    """Return r - 1 - log r with r = exp(logp - logp_gen), elementwise: an estimate of KL(generator || policy), >= 0.

    Args:
        logp, logp_gen: same shape, log-probability (nats) of tokens that the *generator* sampled.

    The direction follows from the sampling policy: over tokens drawn from the generator, value and gradient of this
    estimate are both unbiased for KL(generator || policy). The other k3, with r turned over, estimates KL(policy ||
    generator) only over tokens drawn from the policy, which an asynchronous trainer never has.
    Source: Schulman 2020, "Approximating KL divergence" (the estimator k3).
    """
    log_ratio = (logp - logp_gen).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return log_ratio.exp() - 1.0 - log_ratio


def objective(
    loss: Loss,
    kl_coefficient: float,
    logp: Tensor,
    logp_gen: Tensor,
    entropy: Tensor,
    advantage: Tensor,
    completion: Tensor,
    mask: Tensor,
    weight: Tensor,
) -> tuple[Tensor, LossStats]:
    """Return sum of weight * (token loss + kl_coefficient * k3 - entropy_bonus * entropy), a scalar, and its stats.

    Args:
        loss: kind, clips and `entropy_bonus`. Its own `kl_coefficient` is only the controller's start.
        kl_coefficient: the coefficient of this step, >= 0; 0 leaves the term out.
        logp, logp_gen, advantage, completion, mask: as for `token_loss`.
        entropy: [N] entropy of the policy at each token (nats); needs a gradient only with an entropy bonus.
        weight: [N], from `token_weights` of the *whole* batch, so that the scalars of all micro-batches and ranks add
            up to the loss of the batch (and their gradients to its gradient; ranks are summed, not averaged).
    """
    each = token_loss(loss, logp, logp_gen, advantage, completion, mask)
    entropy = torch.where(mask, entropy, 0.0)
    kl = kl_k3(_log_ratio(logp, logp_gen, mask), torch.zeros_like(logp))
    if kl_coefficient > 0.0:
        each = each + kl_coefficient * kl
    if loss.entropy_bonus > 0.0:
        each = each - loss.entropy_bonus * entropy
    total = (torch.where(mask, weight, 0.0).to(each.dtype) * each).sum()
    return total, _stats(loss, total, kl, entropy, _Tokens(logp, logp_gen, advantage, completion, mask))


def supervised_objective(logp: Tensor, entropy: Tensor, weight: Tensor) -> tuple[Tensor, LossStats]:
    """Return minus the weighted log-likelihood, a scalar, and its stats; all arguments [N], of the targets.

    A token of weight 0 is a stand-in row's and is counted nowhere.
    """
    counted = weight != 0.0
    value = -(weight.to(logp.dtype) * logp).sum()
    entropies = float(entropy.detach()[counted].sum())
    return value, LossStats(tokens=int(counted.sum()), loss=float(value.detach()), entropy=entropies)


@dataclass(frozen=True)
class _Tokens:
    """Inputs of a micro-batch's statistics, all [N]."""

    logp: Tensor
    logp_gen: Tensor
    advantage: Tensor
    completion: Tensor
    mask: Tensor


@torch.no_grad()
def _stats(loss: Loss, total: Tensor, kl: Tensor, entropy: Tensor, tokens: _Tokens) -> LossStats:
    """Sum up in float64 and fetch all numbers from the device at once."""
    log_ratio, mask = _log_ratio(tokens.logp, tokens.logp_gen, tokens.mask), tokens.mask
    ratio = log_ratio.exp()
    clip_input = _clipped_ratio_input(loss, log_ratio, tokens.completion, mask)
    clipped = mask & _is_clipped(loss, clip_input.exp(), tokens.advantage)
    outside = mask & ((ratio < _NEAR_LOW) | (ratio > _NEAR_HIGH))
    largest = torch.cat([torch.where(mask, ratio, 0.0), ratio.new_zeros(1)]).max()
    sums = [mask.sum(), total, clipped.sum(), outside.sum(), kl.double().sum(), entropy.double().sum(), largest]
    count, value, num_clipped, num_outside, kl_sum, entropy_sum, ratio_max = torch.stack(
        [each.double() for each in sums]
    ).tolist()
    return LossStats(int(count), value, int(num_clipped), int(num_outside), kl_sum, entropy_sum, ratio_max)


def _log_ratio(logp: Tensor, logp_gen: Tensor, mask: Tensor) -> Tensor:
    """[N] bounded logp - logp_gen; 0 and without gradient outside `mask`, whatever lies there."""
    return torch.where(mask, logp - logp_gen, 0.0).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _clipped_ratio_input(loss: Loss, log_ratio: Tensor, completion: Tensor, mask: Tensor) -> Tensor:
    """[N] logarithm of the ratio that is clipped: the token's own, or with `gspo` its completion's mean."""
    if loss.kind != "gspo" or completion.numel() == 0:
        return log_ratio
    num_completions = int(completion.max()) + 1
    sums = log_ratio.new_zeros(num_completions).index_add(0, completion, log_ratio)
    counts = log_ratio.new_zeros(num_completions).index_add(0, completion, mask.to(log_ratio.dtype))
    return (sums / counts.clamp(min=1.0))[completion]


def _clip_range(loss: Loss) -> tuple[float, float]:
    high = loss.clip_low if loss.kind == "grpo" else loss.clip_high
    return 1.0 - loss.clip_low, 1.0 + high


def _is_clipped(loss: Loss, ratio: Tensor, advantage: Tensor) -> Tensor:
    """[N] True where `cispo` caps its weight, or where another loss gives no gradient."""
    if loss.kind == "cispo":
        return ratio > loss.ratio_max
    low, high = _clip_range(loss)
    return ((advantage > 0.0) & (ratio > high)) | ((advantage < 0.0) & (ratio < low))
