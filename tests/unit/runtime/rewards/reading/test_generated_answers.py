import pytest
import reasoning_gym
from reasoning_gym.factory import DATASETS

from scalerl_runtime.data.prompts import GeneratedRecord, build_entry_answer
from scalerl_runtime.rewards.reading.generated_answers import is_right_entry, list_readings

ENTRY = build_entry_answer(GeneratedRecord("chain_sum", {}, {"question": "12 + 7 =", "answer": "19", "metadata": {}}))


@pytest.mark.parametrize(
    ("answer", "right", "rule"),
    [
        ("19", True, "the record's answer"),
        ("18", False, "another number"),
        ("it is 19 or so", False, "part of a score is not right"),
        ("", False, "nothing"),
    ],
)
def test_generated_entry(answer, right, rule):
    assert is_right_entry(answer, ENTRY) is right, rule


BROKEN = build_entry_answer(GeneratedRecord("gcd", {}, {"question": "?", "answer": "3"}))


def test_a_scorer_that_fails_on_the_answer_only_means_wrong_else_it_raises(monkeypatch):
    """reasoning_gym's scorers do not expect every answer; the record's own they must be able to score."""
    from scalerl_runtime.rewards.reading import generated_answers

    def score(answer: str, _record: dict[str, object]) -> float:
        return 1.0 if int(answer) == 3 else 0.0

    monkeypatch.setattr(generated_answers, "_find_scorer", lambda _: (score, {}, "3"))
    assert generated_answers.is_right_entry("three", BROKEN) is False
    for solution in ("III", "4", None):  # it raises for the solution too, finds it wrong, or has none
        monkeypatch.setattr(generated_answers, "_find_scorer", lambda _, kept=solution: (score, {}, kept))
        with pytest.raises(ValueError, match="invalid literal"):
            generated_answers.is_right_entry("three", BROKEN)


WRAPPERS = {
    "bare": "{}",
    "tags": "I add 3.\n<answer>{}</answer>",
    "tags on lines of their own": "<answer>\n{}\n</answer> and that is all",
    "last tags": "<answer>no</answer> wait <answer>{}</answer>",
    "box": r"So $\boxed{{{}}}$.",
    "answer": "Let me add 3.\nAnswer: {}",
    "sentence": "The answer is {}.",
    "next line": "Final answer:\n{}",
    "bold": "**Answer:** {}",
    "bold answer": "The answer is **{}**.",
    "fence": "The answer is:\n```\n{}\n```",
}
# Their scorers take a constant for right: `bool(answer)`, whatever the text.
SCORED_BY_CONSTANTS = {"game_of_life_halting"}
# Records that need options, cannot be stored, or have no solution to compare with.
NOT_TRIED = {"composite", "knights_knaves", "boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
SLOW = {
    "knight_swap",
    "figlet_font",
    "group_anagrams",
    "intermediate_integration",
    "codeio",
    "arc_agi",
    "futoshiki",
    "word_ladder",
    "puzzle24",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", sorted(set(DATASETS) - NOT_TRIED - SLOW))
def test_every_tasks_own_solution_is_right_in_every_wrapper(task):
    record = reasoning_gym.create_dataset(task, seed=3, size=1)[0]
    reference = build_entry_answer(GeneratedRecord(task, {}, record))
    results = {name: is_right_entry(wrapper.format(record["answer"]), reference) for name, wrapper in WRAPPERS.items()}
    assert results == dict.fromkeys(WRAPPERS, True)
    if task not in SCORED_BY_CONSTANTS:
        for wrong in ("", "I do not know", "<answer></answer>", "<answer>I do not know</answer>"):
            assert not is_right_entry(wrong, reference), wrong


def test_tags_win_over_the_rest():
    assert not is_right_entry("<answer>18</answer> 19", ENTRY)
    assert is_right_entry("18, no: <answer>19</answer>", ENTRY)


def test_few_readings_so_that_no_answer_is_a_list_of_guesses():
    assert list_readings("Answer: 1\nAnswer: 2") == ["Answer: 1\nAnswer: 2", "2"]
    assert list_readings("<answer>**3**.</answer>") == ["**3**.", "3"]
