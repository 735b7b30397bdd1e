"""Episodes as completions: ids unchanged, masks, versions and the room that is left."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl_api import parse_run
from scalerl_runtime.algorithm.batch import EpisodeStats, build_batch, measure_episodes
from scalerl_runtime.algorithm.rollout_rows import RowSource, step_rows
from scalerl_runtime.environments.transcript import Transcript
from scalerl_runtime.types import EngineOutput, Group, Prompt

PROMPT = Prompt(3, "2 * 3", np.array([9, 9], np.int32), "6")


def turn(ids, versions, text="t"):
    logps = np.linspace(-0.1, -0.9, len(ids), dtype=np.float32)
    return EngineOutput(np.array(ids, np.int32), logps, np.array(versions, np.int32), text, "stop")


def calculated():
    """calc(2*3), 6, then the answer: the weights changed within the first turn and again before the second."""
    transcript = Transcript(limit=20)
    transcript.add_turn(turn([5, 6, 7], [4, 4, 5], "calc(2*3)"))
    transcript.add_observation([40, 41], "\n6\n")
    transcript.add_turn(turn([8], [6], "6."))
    return transcript


def test_an_episode_by_hand():
    transcript = calculated()
    assert (transcript.room, transcript.turns) == (14, 2)
    found = transcript.build(1.0, "stop", "env:a:B")
    assert found.tokens.tolist() == [5, 6, 7, 40, 41, 8]
    assert found.forced.tolist() == [False, False, False, True, True, False]
    assert found.versions.tolist() == [4, 4, 5, 5, 5, 6], "an observation has the version of the token before it"
    assert found.logps[3:5].tolist() == [0.0, 0.0]
    assert found.text == "calc(2*3)\n6\n6."
    assert [found.text[start:end] for start, end in found.episode.observations] == ["\n6\n"]
    assert (found.reward, found.finish, found.episode.turns) == (1.0, "stop", 2)


def test_each_token_has_the_experts_of_the_request_that_sampled_it():
    """A prompt of two tokens; the second request computed the first three rows again, with other experts."""
    first, second = (np.full((rows, 1, 1), expert, np.uint8) for rows, expert in ((4, 1), (8, 2)))
    transcript = Transcript(limit=20)
    transcript.add_turn(replace(turn([5, 6, 7], [4, 4, 4]), experts=first))
    transcript.add_observation([40, 41], "o")
    transcript.add_turn(replace(turn([8, 9], [6, 6]), experts=second))
    found = transcript.build(1.0, "stop", "env:a:B")
    assert found.experts[:, 0, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert len(found.experts) == 2 + len(found.tokens) - 1
    assert calculated().build(1.0, "stop", "env:a:B").experts is None


def test_an_observation_is_no_part_of_the_loss_and_no_interruption():
    run = parse_run(
        {
            "apiVersion": "scalerl.io/v1alpha1",
            "kind": "RLRun",
            "metadata": {"name": "x"},
            "spec": {
                "model": {"source": "some/model"},
                "data": {"train": {"source": "rows.jsonl"}},
                "reward": {"verifier": "env:a:B"},
                "recipe": {"length": {"control": "none"}, "zeroVariance": "keep"},
                "budget": {"steps": 300},
            },
        }
    )
    group = Group(
        PROMPT, 0, 4, (calculated().build(1.0, "stop", "env:a:B"), calculated().build(None, "stop", "env:a:B"))
    )
    batch = build_batch([group], run.spec.resolved_recipe(), version=6)
    (sequence,) = batch.sequences
    assert sequence.tokens.tolist() == [9, 9, 5, 6, 7, 40, 41, 8]
    assert sequence.trained.tolist() == [False, False, True, True, True, False, False, True]
    assert sequence.lag.tolist() == [0, 0, 2, 2, 1, 1, 1, 0]
    assert (batch.stats.forced_tokens, batch.stats.trained_tokens, batch.stats.excluded) == (0, 4, 1)
    assert batch.stats.episodes == EpisodeStats(2.0, 0, pytest.approx(1 / 3), 0)


def test_stored_rows_show_turns_and_observations():
    transcript = calculated()
    transcript.count_error()
    group = Group(PROMPT, 0, 4, (transcript.build(1.0, "stop", "env:a:B"),))
    (row,) = step_rows([group], [np.array([0.5])], RowSource(1, 1, "phrase", 1.0), step=7)
    assert (row.turns, row.tool_errors, row.forced_start, row.rewards) == (2, 1, None, {"env:a:B": 1.0})
    assert row.segments == [("calc(2*3)", False), ("\n6\n", True), ("6.", False)]
    assert row.mean_logp == pytest.approx(np.mean([-0.1, -0.5, -0.9, -0.1]), rel=1e-6)


def test_statistics_of_episodes_leave_other_completions_out():
    assert measure_episodes([]) is None
    found = calculated()
    found.count_error()
    found.count_error()
    found.count_cut()
    single = Transcript(5)
    single.add_turn(turn([1, 2], [0, 0]))
    both = [found.build(1.0, "stop", "env:a:B"), single.build(-1.0, "length", "env:a:B")]
    assert measure_episodes(both) == EpisodeStats(1.5, 2, pytest.approx(2 / 8), 1)


turns = st.lists(st.integers(0, 999), min_size=1, max_size=5)


@settings(max_examples=30)
@given(st.lists(st.tuples(turns, st.lists(st.integers(0, 999), max_size=4), st.integers(0, 3)), min_size=1, max_size=6))
def test_ids_and_versions_are_what_came_in(parts):
    """Whatever the turns: every id once and in order, the mask exactly at observations, versions never fall."""
    transcript, wanted, flags, versions, version = Transcript(limit=1000), [], [], [], 0
    for place, (ids, observed, newer) in enumerate(parts):
        version += newer
        transcript.add_turn(turn(ids, [version] * len(ids)))
        wanted += ids
        flags += [False] * len(ids)
        versions += [version] * len(ids)
        if place < len(parts) - 1:
            transcript.add_observation(observed, "o" * len(observed))
            wanted += observed
            flags += [True] * len(observed)
            versions += [version] * len(observed)
        assert transcript.tokens.tolist() == wanted
        assert transcript.room == 1000 - len(wanted)
    found = transcript.build(0.0, "stop", "env:a:B")
    assert found.tokens.tolist() == wanted
    assert found.tokens.dtype == np.int32
    assert found.forced.tolist() == flags
    assert found.versions.tolist() == versions
    assert len(found.logps) == len(wanted)
    assert (found.logps[found.forced] == 0).all()
    assert found.episode.turns == len(parts)
    assert all(set(found.text[start:end]) <= {"o"} for start, end in found.episode.observations)
