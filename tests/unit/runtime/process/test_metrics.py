from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scalerl_api.wire import EvalPoint
from scalerl_runtime.process.metrics import EVAL_METRICS, EVAL_POINTS, STATE_METRICS, STEP_METRICS, Publisher, document


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


def test_a_metric_without_a_measurement_has_no_series():
    publisher = Publisher()
    assert {key for key in samples(publisher) if not key[0].startswith("scalerl_token_lag")} == set()
    publisher.set({"entropy": 0.0})
    assert samples(publisher)["scalerl_entropy",] == 0.0


def test_one_phase_at_a_time():
    publisher = Publisher()
    publisher.choose("phase", "starting")
    publisher.choose("phase", "training")
    assert {key: value for key, value in samples(publisher).items() if "phase" in key[0]} == {
        ("scalerl_phase", "training"): 1.0
    }


def point(index, **values):
    given = {"step": 10 * index, "version": 10 * index, "compute_gpu_hours": 0.1 * index, "pass_rate": 0.1 + 0.2}
    fixed = {"index": index, "prompts": 250, "samples": 4, "standard_error": 0.013, "mean_tokens": 31.5, "attempt": 3}
    return EvalPoint(**{**fixed, **given, **values})


def test_every_number_of_an_evaluation_can_be_read_back():
    publisher = Publisher()
    publisher.show_evals([point(6, dataset="sums", excluded=7, entropy=0.75, version_end=64, unsampled=40)])
    text = publisher.render().decode()
    labels = 'dataset="sums",excluded="7",index="6",measured_by="3",prompts="250",samples="4",step="60",'
    labels += 'unsampled="40",version="60",version_end="64"'
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    for field, value in {
        "pass_rate": 0.1 + 0.2,  # 0.30000000000000004: no digit is lost
        "standard_error": 0.013,
        "compute_gpu_hours": 0.1 * 6,
        "mean_tokens": 31.5,
        "entropy": 0.75,
    }.items():
        (sample,) = families[f"scalerl_eval_{field}"]
        assert sample.value == value
        assert ",".join(f'{name}="{text}"' for name, text in sorted(sample.labels.items())) == labels


def test_entropy_without_a_measurement_has_no_series():
    publisher = Publisher()
    publisher.show_evals([point(0), point(1, entropy=0.5)])
    found = [key for key in samples(publisher) if key[0] == "scalerl_eval_entropy"]
    assert [key[3] for key in found] == ["1"]


def test_only_the_newest_evaluations_have_series():
    publisher = Publisher()
    publisher.show_evals([point(index) for index in range(EVAL_POINTS + 5)])
    indices = sorted(int(key[3]) for key in samples(publisher) if key[0] == "scalerl_eval_pass_rate")
    assert indices == list(range(5, EVAL_POINTS + 5))


def test_unknown_name_is_an_error():
    with pytest.raises(KeyError, match="speed"):
        Publisher().set({"speed": 1.0})


def test_no_name_is_used_twice():
    names = [metric.name for metric in (*STEP_METRICS, *STATE_METRICS, *EVAL_METRICS)]
    assert len(set(names)) == len(names)


def test_page_is_fresh():
    page = Path(__file__).parents[4] / "docs" / "metrics.md"
    assert page.read_text() == document(), "run `make generate`"
