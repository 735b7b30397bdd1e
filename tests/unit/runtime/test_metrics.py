from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scalerl_runtime.metrics import STATE_METRICS, STEP_METRICS, Publisher, document


def samples(publisher):
    """Value by name and labels (in the order of their names), as Prometheus reads it."""
    families = text_string_to_metric_families(publisher.render().decode())
    return {
        (s.name, *(value for _, value in sorted(s.labels.items()))): s.value
        for family in families
        for s in family.samples
    }


def test_gauges_counters_and_labels_are_read_by_prometheus():
    publisher = Publisher()
    publisher.set({"reward": -0.25, "step": 3.0})
    publisher.set_labelled("pass_rate", "held_out", 0.5)
    publisher.raise_to("gpu_seconds_total", 7.0, "trainer", "wait")
    found = samples(publisher)
    assert found["scalerl_reward",] == -0.25
    assert found["scalerl_step",] == 3.0
    assert found["scalerl_pass_rate", "held_out"] == 0.5
    assert found["scalerl_gpu_seconds_total", "wait", "trainer"] == 7.0


def test_counter_never_falls():
    publisher = Publisher()
    for value in (4.0, 9.0, 2.0):
        publisher.raise_to("generator_restarts_total", value)
    assert samples(publisher)["scalerl_generator_restarts_total",] == 9.0


def test_lag_histogram_is_cumulative():
    publisher = Publisher()
    publisher.observe_lags([5, 0, 2])  # five tokens of lag 0, two of lag 2
    publisher.observe_lags([1, 3, 0, 0, 0, 4] + [0] * 27 + [6])  # lag 5 counts as "at most 6", lag 33 is beyond all
    found = samples(publisher)
    expected = {"0.0": 6, "1.0": 9, "2.0": 11, "3.0": 11, "4.0": 11, "6.0": 15, "8.0": 15, "32.0": 15, "+Inf": 21}
    assert {bound: found["scalerl_token_lag_bucket", bound] for bound in expected} == expected
    assert found["scalerl_token_lag_count",] == 21
    assert found["scalerl_token_lag_sum",] == 2 * 2 + 3 * 1 + 4 * 5 + 6 * 33


def test_unknown_name_is_an_error():
    with pytest.raises(KeyError, match="speed"):
        Publisher().set({"speed": 1.0})


def test_no_name_is_used_twice():
    names = [metric.name for metric in (*STEP_METRICS, *STATE_METRICS)]
    assert len(set(names)) == len(names)


def test_page_is_fresh():
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert page.read_text() == document(), "run `make generate`"
