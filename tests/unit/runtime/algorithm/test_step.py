import math

import numpy as np
import pytest
import torch

from scalerl_api.recipe import Loss
from scalerl_runtime.algorithm.loss import LossStats, objective
from scalerl_runtime.algorithm.microbatch import TrainSequence
from scalerl_runtime.algorithm.results import StepResult, SyncReport
from scalerl_runtime.algorithm.step import (
    NonFinite,
    check_finite,
    fresh_mismatch,
    mismatch_of,
    mismatch_values,
    pack,
    sync_values,
)

VOCABULARY = 6
LENGTHS = (3, 9, 5, 2, 7, 4, 6)


def make_sequences(seed):
    rng = np.random.default_rng(seed)
    return [
        TrainSequence(
            tokens=rng.integers(0, VOCABULARY, size).astype(np.int32),
            trained=np.arange(size) >= 1 + index % 2,
            logp_gen=rng.uniform(-4, -0.5, size).astype(np.float32),
            advantage=float(rng.normal()),
            weight=float(rng.uniform(0.01, 0.2)),
            lag=np.zeros(size, np.int32),
        )
        for index, size in enumerate(LENGTHS)
    ]


def plain_loss(table, sequences, ratio_max, kl_coefficient):
    """CISPO with a k3 term, token after token; the policy is a table of bigrams."""
    total = torch.zeros((), dtype=torch.float64)
    for each in sequences:
        for place in range(1, len(each.tokens)):
            if each.trained[place]:
                logp = table.log_softmax(-1)[each.tokens[place - 1], each.tokens[place]]
                ratio = torch.exp(logp - float(each.logp_gen[place]))
                loss = -min(float(ratio.detach()), ratio_max) * each.advantage * logp
                loss = loss + kl_coefficient * (ratio - 1 - ratio.log())
                total = total + each.weight * loss
    return total


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("budget", [9, 14, 100])
def test_micro_batches_and_ranks_add_up_to_the_plain_loss(budget, ranks):
    sequences = make_sequences(7)
    table = torch.randn(
        VOCABULARY, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    ).requires_grad_()
    expected = plain_loss(table, sequences, 1.5, 0.3)
    (gradient,) = torch.autograd.grad(expected, table)
    packed = pack(sequences, budget=budget, ranks=ranks, quadratic=0.01)
    assert len(packed.batches) == ranks
    assert len({len(rows) for rows in packed.batches}) == 1, "as many rows on every rank"
    assert packed.tokens == sum(LENGTHS)
    total, found = 0.0, torch.zeros_like(table)
    for row in (row for rows in packed.batches for row in rows):
        policy = table.log_softmax(-1)[row.tokens[row.select]]
        logp = policy[torch.arange(len(row.targets)), row.targets]
        value, _ = objective(
            Loss(kind="cispo", ratio_max=1.5),
            0.3,
            logp,
            torch.from_numpy(row.logp_gen).double(),
            -(policy.exp() * policy).sum(-1),
            torch.from_numpy(row.advantage).double(),
            torch.from_numpy(row.completion),
            torch.ones(len(logp), dtype=torch.bool),
            torch.from_numpy(row.weight),
        )
        total += float(value.detach())
        found += torch.autograd.grad(value, table)[0]
    # The advantage travels as float32: 2**-24 of it is lost.
    assert total == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-7)


def test_sync_values():
    found = sync_values(SyncReport(3, 8, gather_seconds=1.0, send_seconds=2.5, stall_seconds=4.0))
    assert found["weight_sync_seconds"] == 7.5
    assert [found[f"weight_{part}_seconds"] for part in ("gather", "send", "stall")] == [1.0, 2.5, 4.0]


def test_mismatch_is_split_by_lag():
    from scalerl_runtime.algorithm.mismatch import measure_mismatch

    logp, logp_gen = np.array([-1.0, -1.0]), np.array([-1.0, -1.5])
    measured = measure_mismatch(logp, logp_gen, np.array([0, 1]), np.ones(2, np.bool_))
    found = {(name, bucket): value for name, bucket, value in mismatch_values(measured)}
    assert found["mismatch_abs_by_lag", "0"] == 0.0
    assert found["mismatch_abs_by_lag", "1"] == pytest.approx(0.5)
    assert found["mismatch_kl_by_lag", "1"] == pytest.approx(math.exp(0.5) - 1.5)
    assert not [key for key in found if key[1] == "all"]


def sequence(size, lags):
    """A prompt of one token and `size` trained ones, all of generator log-probability -1."""
    return TrainSequence(
        tokens=np.arange(size + 1, dtype=np.int32),
        trained=np.arange(size + 1) >= 1,
        logp_gen=np.full(size + 1, -1.0, np.float32),
        advantage=1.0,
        weight=0.1,
        lag=np.array([0, *lags], np.int32),
    )


def results_of(packed, error_of, limit=None):
    """The reports of ranks: log-probabilities differ by `error_of(lag)`, those of a stand-in row by 7."""
    results = []
    for rows in packed.batches:
        error = np.concatenate([[error_of(lag) if w else 7.0 for lag, w in zip(r.lag, r.weight)] for r in rows])  # noqa: B905 # as long
        gen, lag = (np.concatenate([getattr(r, name) for r in rows])[:limit] for name in ("logp_gen", "lag"))
        results.append(StepResult(LossStats(), 1.0, 1.0, 1, gen + error[: len(gen)].astype(np.float32), gen, lag))
    return results


def test_only_completions_of_the_trained_version_alone_count_at_lag_0():
    """70 fresh tokens are .25 off; a completion that met an update ends with 40 tokens of lag 0, which are not pure."""
    sequences = [sequence(70, [0] * 70), sequence(60, [2] * 20 + [0] * 40), sequence(50, [1] * 50)]
    packed = pack(sequences, budget=100, ranks=1, quadratic=0.0)
    results = results_of(packed, lambda lag: 0.25 + lag)
    assert fresh_mismatch(packed, results) == 0.25
    assert mismatch_of(packed, results)["0"].tokens == 110


def test_a_mismatch_of_few_tokens_is_unknown():
    for size, found in ((63, None), (64, 0.25)):
        packed = pack([sequence(size, [0] * size)], budget=100, ranks=1, quadratic=0.0)
        assert fresh_mismatch(packed, results_of(packed, lambda _lag: 0.25)) == found


def test_a_stand_in_row_is_no_mismatch():
    """Of three ranks one has a sequence; the others run a row that no generator sampled."""
    packed = pack([sequence(64, [0] * 64)], budget=100, ranks=3, quadratic=0.0)
    assert sum(len(row.targets) for rows in packed.batches for row in rows) == 66
    results = results_of(packed, lambda _lag: 0.25)
    assert fresh_mismatch(packed, results) == 0.25
    assert {name: found.abs_max for name, found in mismatch_of(packed, results).items()} == {"all": 0.25, "0": 0.25}


def test_a_rank_that_reports_its_first_tokens_only_is_compared_at_those():
    packed = pack([sequence(70, [0] * 70), sequence(70, [3] * 70)], budget=140, ranks=1, quadratic=0.0)
    results = results_of(packed, lambda lag: 0.25 + lag, limit=80)
    assert fresh_mismatch(packed, results) in (0.25, None)
    assert mismatch_of(packed, results)["all"].tokens == 80


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "bad"),
    [
        ({"loss": 0.5, "grad_norm": 1.0}, ""),
        ({"loss": NAN, "grad_norm": 1.0}, "loss is nan"),
        ({"loss": 0.5, "grad_norm": INF}, "grad_norm is inf"),
        ({"loss": -INF, "grad_norm": NAN}, "loss is -inf, grad_norm is nan"),
        ({"loss": 0.5, "grad_norm": 1.0, "ratio_max": INF}, ""),
        ({"lag_mean": 1.0}, ""),
    ],
    ids=[
        "sound",
        "the loss",
        "the gradient",
        "both",
        "another metric says nothing against the step",
        "nothing trained",
    ],
)
def test_a_step_with_non_finite_values(values, bad):
    for action in ("Restart", "Stop"):
        if bad:
            with pytest.raises(NonFinite, match=f"^step 9: {bad}; its update was left out$"):
                check_finite(values, "step 9", action)
        else:
            assert check_finite(values, "step 9", action)["non_finite"] == 0.0
    kept = check_finite(values, "step 9", "Warn")
    assert kept == {**{k: v for k, v in values.items() if math.isfinite(v)}, "non_finite": float(bool(bad))}
