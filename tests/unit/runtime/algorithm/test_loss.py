import math

import pytest
import torch

from scalerl_api.recipe import Loss
from scalerl_runtime.algorithm.loss import LossStats, kl_k3, objective, supervised_objective, token_loss
from scalerl_runtime.algorithm.microbatch import build_micro_batch

torch.set_num_threads(1)

CISPO = Loss(kind="cispo", ratio_max=3.0)
GRPO = Loss(kind="grpo", clip_low=0.2, clip_high=0.7)
DAPO = Loss(kind="dapo", clip_low=0.2, clip_high=0.3)
GSPO = Loss(kind="gspo", clip_low=0.1, clip_high=0.25)
LOSSES = [CISPO, GRPO, DAPO, GSPO]


def tensor(values, *, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def one_token(loss, ratio, advantage):
    """Value and gradient of a single token whose policy probability is 0.5 and whose ratio is `ratio`."""
    logp = tensor([math.log(0.5)], grad=True)
    each = token_loss(
        loss, logp, tensor([math.log(0.5 / ratio)]), tensor([advantage]), torch.tensor([0]), torch.tensor([True])
    )
    each.sum().backward()
    return each.item(), logp.grad.item()


LOG_HALF = math.log(0.5)


@pytest.mark.parametrize(
    ("loss", "ratio", "advantage", "value", "gradient"),
    [
        # CISPO: -min(ratio, 3) * A * log 0.5, gradient -min(ratio, 3) * A whatever the side
        pytest.param(CISPO, 2.0, 1.5, -3.0 * LOG_HALF, -3.0, id="below the cap the weight is the ratio"),
        pytest.param(CISPO, 3.5, 1.0, -3.0 * LOG_HALF, -3.0, id="the cap is on the ratio itself, not on 1 + 3"),
        pytest.param(CISPO, 8.0, -1.0, 3.0 * LOG_HALF, 3.0, id="a capped token keeps its gradient, also downwards"),
        pytest.param(CISPO, 0.01, -1.0, 0.01 * LOG_HALF, 0.01, id="there is no lower clip"),
        # GRPO: 0.8 .. 1.2 on both sides, clip_high is not read
        pytest.param(GRPO, 1.1, 2.0, -2.2, -2.2, id="inside the clip value and gradient are ratio times advantage"),
        pytest.param(GRPO, 1.3, 1.0, -1.2, 0.0, id="above the symmetric clip a good token has no gradient"),
        pytest.param(GRPO, 1.3, -1.0, 1.3, 1.3, id="above the clip a bad token is still pushed down"),
        pytest.param(GRPO, 0.7, -1.0, 0.8, 0.0, id="below the clip a bad token has no gradient"),
        pytest.param(GRPO, 0.7, 1.0, -0.7, -0.7, id="below the clip a good token is still pushed up"),
        # DAPO: 0.8 .. 1.3
        pytest.param(DAPO, 1.25, 1.0, -1.25, -1.25, id="the asymmetric clip is higher above"),
        pytest.param(DAPO, 1.4, 1.0, -1.3, 0.0, id="above it there is no gradient"),
        pytest.param(DAPO, 0.7, -1.0, 0.8, 0.0, id="below it stays at 1 - clip_low"),
        # GSPO of a single token is a token clip 0.9 .. 1.25
        pytest.param(GSPO, 1.2, 1.0, -1.2, -1.2, id="a sequence of one token is its own sequence ratio"),
        pytest.param(GSPO, 1.5, 1.0, -1.25, 0.0, id="the sequence clip above"),
        pytest.param(GSPO, 0.8, -2.0, 1.8, 0.0, id="the sequence clip below"),
    ],
)
def test_one_token_by_hand(loss, ratio, advantage, value, gradient):
    assert one_token(loss, ratio, advantage) == pytest.approx((value, gradient), abs=1e-12)


def test_gspo_takes_the_mean_over_the_completions_trained_tokens():
    # Completion 0: differences 0.1, 0.3 and a forced 9.9 -> s = exp(0.2) = 1.2214 < 1.25, A = 1.
    # Completion 1: differences 0.4, 0.2 -> s = exp(0.3) = 1.3499 > 1.25, clipped, A = 2.
    logp = tensor([-1.0, -2.0, -0.5, -1.5, -0.7], grad=True)
    logp_gen = logp.detach() - tensor([0.1, 0.3, 9.9, 0.4, 0.2])
    completion = torch.tensor([0, 0, 0, 1, 1])
    mask = torch.tensor([True, True, False, True, True])
    each = token_loss(GSPO, logp, logp_gen, tensor([1.0, 1.0, 1.0, 2.0, 2.0]), completion, mask)
    s = math.exp(0.2)
    torch.testing.assert_close(each, tensor([-s, -s, 0.0, -2.5, -2.5]))
    each.sum().backward()
    # d/dlogp_t of two tokens of -s, where ds/dlogp_t = s / 2: -s each; the clipped completion has none.
    torch.testing.assert_close(logp.grad, tensor([-s, -s, 0.0, 0.0, 0.0]))


# An independent reference: plain loops, no tensors, gradients written out by hand.


def reference(loss, logp, logp_gen, advantage, completion, mask):
    """Return the token losses, and the gradient of their weighted sum for weights 1, 2, 3, ..."""
    n = len(logp)
    value, gradient = [0.0] * n, [0.0] * n
    for t in range(n):
        if not mask[t]:
            continue
        a, weight = advantage[t], t + 1.0
        members = [u for u in range(n) if mask[u] and completion[u] == completion[t]]
        if loss.kind == "gspo":
            ratio = math.exp(sum(logp[u] - logp_gen[u] for u in members) / len(members))
        else:
            members = [t]
            ratio = math.exp(logp[t] - logp_gen[t])
        if loss.kind == "cispo":
            capped = ratio if ratio < loss.ratio_max else loss.ratio_max
            value[t] = -capped * a * logp[t]
            gradient[t] += -weight * capped * a
            continue
        low = 1 - loss.clip_low
        high = 1 + (loss.clip_low if loss.kind == "grpo" else loss.clip_high)
        clipped = high if ratio > high else low if ratio < low else ratio
        if ratio * a <= clipped * a:
            value[t] = -ratio * a
            for u in members:
                gradient[u] += -weight * a * ratio / len(members)
        else:
            value[t] = -clipped * a
    return value, gradient


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_plain_loops(loss, seed):
    generator = torch.Generator().manual_seed(seed)
    n = 40
    logp = -3 * torch.rand(n, generator=generator, dtype=torch.float64)
    logp_gen = logp + 0.8 * torch.randn(n, generator=generator, dtype=torch.float64)
    completion = torch.randint(0, 6, (n,), generator=generator)
    advantage = torch.randn(6, generator=generator, dtype=torch.float64)[completion]
    mask = torch.rand(n, generator=generator) < 0.8
    logp.requires_grad_()
    each = token_loss(loss, logp, logp_gen, advantage, completion, mask)
    (each * torch.arange(1, n + 1)).sum().backward()
    value, gradient = reference(
        loss, logp.tolist(), logp_gen.tolist(), advantage.tolist(), completion.tolist(), mask.tolist()
    )
    torch.testing.assert_close(each, tensor(value), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logp.grad, tensor(gradient), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, -1e38])
def test_values_at_masked_tokens_do_not_spread(loss, poison):
    loss = loss.model_copy(update={"entropy_bonus": 0.1})
    logp, clean = tensor([-1.0, poison, -2.0], grad=True), tensor([-1.1, -0.6, -2.1])
    completion, mask = torch.tensor([0, 0, 0]), torch.tensor([True, False, True])
    poisoned = clean.clone()
    poisoned[1] = poison
    weight, advantage = tensor([0.5, poison, 0.25]), tensor([1.0, poison, 1.0])
    entropy = tensor([0.3, poison, 0.2], grad=True)
    total, stats = objective(loss, 0.2, logp, poisoned, entropy, advantage, completion, mask, weight)
    total.backward()
    assert token_loss(loss, logp, poisoned, advantage, completion, mask)[1].item() == 0.0
    assert logp.grad[1].item() == 0.0
    assert entropy.grad[1].item() == 0.0
    assert torch.isfinite(logp.grad).all()
    ones = tensor([1.0, 1.0, 1.0])
    half = tensor([0.5, 0.5, 0.25])
    unpoisoned = tensor([-1.0, -0.5, -2.0])
    want, _ = objective(loss, 0.2, unpoisoned, clean, tensor([0.3, 7.0, 0.2]), ones, completion, mask, half)
    assert total.item() == want.item()
    assert stats.tokens == 2


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("difference", [500.0, -500.0])
def test_extreme_ratios_stay_finite_in_float32(loss, advantage, difference):
    logp = torch.tensor([-1.0], requires_grad=True)
    entropy = torch.zeros(1)
    total, stats = objective(
        loss,
        0.5,
        logp,
        torch.tensor([-1.0 - difference]),
        entropy,
        torch.tensor([advantage]),
        torch.tensor([0]),
        torch.tensor([True]),
        torch.ones(1),
    )
    total.backward()
    assert math.isfinite(total.item())
    assert math.isfinite(logp.grad.item())
    assert stats.outside == 1


def test_k3_by_hand():
    # r = 2: 2 - 1 - log 2; r = 1/2: 1/2 - 1 + log 2; r = 1: 0
    logp = tensor([-1.0, -1.0, -1.0], grad=True)
    each = kl_k3(logp, tensor([-1.0 - math.log(2), -1.0 + math.log(2), -1.0]))
    torch.testing.assert_close(each, tensor([1 - math.log(2), math.log(2) - 0.5, 0.0]))
    each.sum().backward()
    torch.testing.assert_close(logp.grad, tensor([1.0, -0.5, 0.0]))  # r - 1


def test_k3_over_the_generators_tokens_is_kl_of_generator_from_policy():
    # Three tokens, enumerated with the generator's probabilities: value and gradient must be exactly KL(gen || policy).
    gen = tensor([0.5, 0.3, 0.2])
    logits = tensor([0.1, -0.4, 0.7], grad=True)
    (gen * kl_k3(torch.log_softmax(logits, 0), gen.log())).sum().backward()
    policy = torch.softmax(logits.detach(), 0)
    estimate = (gen * kl_k3(policy.log(), gen.log())).sum()
    assert estimate.item() == pytest.approx((gen * (gen / policy).log()).sum().item(), abs=1e-12)
    torch.testing.assert_close(logits.grad, policy - gen)  # gradient of KL(gen || softmax(logits))
    assert abs((policy * (policy / gen).log()).sum().item() - estimate.item()) > 1e-3  # the other direction differs


def test_objective_adds_the_terms_by_weight():
    # CISPO, one token of ratio 2, A = 1, logp = log 0.5; k3 = 1 - log 2; entropy 0.4; weight 0.25.
    loss = Loss(kind="cispo", ratio_max=5.0, entropy_bonus=0.5)
    logp, entropy = tensor([LOG_HALF], grad=True), tensor([0.4], grad=True)
    total, stats = objective(
        loss,
        0.1,
        logp,
        tensor([math.log(0.25)]),
        entropy,
        tensor([1.0]),
        torch.tensor([0]),
        torch.tensor([True]),
        tensor([0.25]),
    )
    total.backward()
    log2 = math.log(2)
    assert total.item() == pytest.approx(0.25 * (2 * log2 + 0.1 * (1 - log2) - 0.5 * 0.4), abs=1e-12)
    assert logp.grad.item() == pytest.approx(0.25 * (-2 + 0.1 * (2 - 1)), abs=1e-12)
    assert entropy.grad.item() == pytest.approx(-0.25 * 0.5, abs=1e-12)
    assert stats == LossStats(
        tokens=1,
        loss=pytest.approx(total.item()),
        clipped=0,
        outside=1,
        kl=pytest.approx(1 - log2),
        entropy=pytest.approx(0.4),
        ratio_max=pytest.approx(2.0),
    )


def test_terms_that_are_off_change_nothing_bit_for_bit():
    logp, logp_gen = tensor([-0.3, -0.9], grad=True), tensor([-0.5, -0.8])
    rest = (tensor([1.0, -1.0]), torch.tensor([0, 1]), torch.tensor([True, True]))
    weight = tensor([0.5, 0.5])
    entropy = tensor([0.3, math.inf], grad=True)  # not looked at
    total, _ = objective(CISPO, 0.0, logp, logp_gen, entropy, *rest, weight)
    assert total.item() == (weight * token_loss(CISPO, logp, logp_gen, *rest)).sum().item()
    total.backward()
    assert entropy.grad is None


@pytest.mark.parametrize(
    ("loss", "clipped"),
    [
        pytest.param(CISPO, 2, id="cispo counts ratios above the cap of 3: 4.0 twice"),
        pytest.param(GRPO, 2, id="grpo counts good tokens above 1.2 (4.0) and bad ones below 0.8 (0.5)"),
        pytest.param(Loss(kind="dapo", clip_low=0.6, clip_high=0.3), 1, id="dapo with 0.4 below leaves 0.5 alone"),
        pytest.param(GSPO, 3, id="gspo counts the trained tokens of clipped completions: all of 0, none of 1 and 2"),
    ],
)
def test_stats_by_hand(loss, clipped):
    # Completion 0 is good: ratios 1, 4, 1.05 (s = 4.2^(1/3) = 1.61) and a masked 9. Completion 1 is bad: 0.5 and 4
    # (s = 1.41, not below 0.9). Completion 2 is good: 0.3.
    ratio = tensor([1.0, 4.0, 1.05, 9.0, 0.5, 4.0, 0.3])
    mask = torch.tensor([True, True, True, False, True, True, True])
    total, stats = objective(
        loss,
        0.0,
        ratio.log() - 2.0,
        torch.full((7,), -2.0, dtype=torch.float64),
        tensor([0.1, 0.2, 0.3, 9.0, 0.4, 0.5, 0.6]),
        tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0]),
        torch.tensor([0, 0, 0, 0, 1, 1, 2]),
        mask,
        torch.ones(7, dtype=torch.float64),
    )
    assert stats.clipped == clipped
    assert stats.tokens == 6
    assert stats.outside == 4  # 4, 0.5, 4, 0.3
    assert stats.ratio_max == pytest.approx(4.0)
    assert stats.entropy == pytest.approx(2.1)
    assert stats.loss == pytest.approx(total.item())
    assert stats.mean(stats.entropy) == pytest.approx(0.35)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_micro_batches_add_up_to_the_batch(loss):
    generator = torch.Generator().manual_seed(1)
    n, cut = 24, 10
    logp = -torch.rand(n, generator=generator, dtype=torch.float64)
    logp_gen = logp + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64)
    completion = torch.tensor([0] * 6 + [1] * 4 + [2] * 14)  # no completion crosses the cut
    advantage = tensor([1.0, -0.5, 0.7])[completion]
    mask = torch.rand(n, generator=generator) < 0.7
    weight = torch.rand(n, generator=generator, dtype=torch.float64)
    entropy = torch.rand(n, generator=generator, dtype=torch.float64)
    columns = (logp_gen, entropy, advantage, completion, mask, weight)

    def run(*parts):
        leaf = logp.clone().requires_grad_()
        stats = LossStats()
        for part in parts:
            logp_gen, entropy, advantage, completion, mask, weight = (column[part] for column in columns)
            completion = completion - completion.min()
            total, one = objective(loss, 0.3, leaf[part], logp_gen, entropy, advantage, completion, mask, weight)
            total.backward()
            stats = stats + one
        return leaf.grad, stats

    whole_grad, whole = run(slice(0, n))
    parts_grad, parts = run(slice(0, cut), slice(cut, n))
    torch.testing.assert_close(parts_grad, whole_grad, rtol=1e-12, atol=1e-14)
    assert (parts.tokens, parts.clipped, parts.outside) == (whole.tokens, whole.clipped, whole.outside)
    assert parts.ratio_max == whole.ratio_max
    for name in ("loss", "kl", "entropy"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("n", [0, 3])
def test_a_micro_batch_without_a_trained_token_is_zero_and_differentiable(loss, n):
    logp = torch.full((n,), -1.0, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(n, dtype=torch.float64)
    total, stats = objective(
        loss, 0.1, logp, zeros, zeros, zeros, torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=bool), zeros
    )
    total.backward()
    assert total.item() == 0.0
    assert (logp.grad == 0).all()
    assert stats == LossStats()
    assert stats.mean(stats.kl) == 0.0


@pytest.mark.parametrize("kind", ["cispo", "dapo", "gspo", "grpo", "supervised"])
@pytest.mark.parametrize("logp", [-9.0, 0.0, 3.0])
def test_a_stand_in_row_adds_nothing_to_any_statistic(kind, logp):
    """The row of a rank without a sequence; its token's values are arbitrary."""
    row = {name: torch.from_numpy(value) for name, value in vars(build_micro_batch([])).items() if value is not None}
    policy, entropy = torch.full((1,), logp, requires_grad=True), torch.full((1,), 7.0)
    if kind == "supervised":
        value, stats = supervised_objective(policy, entropy, row["weight"])
    else:
        loss, counted = Loss(kind=kind, entropy_bonus=0.5), row["weight"] != 0.0
        given = (row["logp_gen"], entropy, row["advantage"], row["completion"], counted, row["weight"])
        value, stats = objective(loss, 0.3, policy, *given)
    value.backward()
    assert stats == LossStats()
    assert policy.grad.tolist() == [0.0]


def test_supervised_by_hand():
    logp, weight = torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0.5, 0.25, 0.0], dtype=torch.float64)
    value, stats = supervised_objective(logp, torch.tensor([3.0, 5.0, 7.0]), weight)
    assert float(value) == 1.0
    assert stats == LossStats(tokens=2, loss=1.0, entropy=8.0)
