import pytest

from scalerl_api.recipe import ThinkTags
from scalerl_runtime.rewards.reading.answers import find_answer


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|a|>x<|m|>", "<|b|>y<|m|>")])
@pytest.mark.parametrize(
    ("opened", "completion", "answer", "rule"),
    [
        (False, "4", "4", "no thinking: all of it is the answer"),
        (False, " 4\n", "4", "space around an answer is none of it"),
        (False, "OPEN2+2=4CLOSE4", "4", "the answer follows the thinking"),
        (False, "OPENaCLOSE5OPENbCLOSE 4", "4", "the last thinking counts"),
        (False, "OPEN2+2=4", None, "cut in its thinking"),
        (False, "5OPEN2+2=4", None, "an answer before unfinished thinking is none"),
        (True, "2+2=4", None, "the prompt opened the thinking"),
        (True, "2+2=4CLOSE4", "4", "and the completion closed it"),
        (False, "OPENaCLOSE", "", "nothing after the thinking is an empty answer"),
        (False, "", "", "an empty completion is an empty answer"),
    ],
)
def test_find_answer(tags, opened, completion, answer, rule):
    written = completion.replace("OPEN", tags[0]).replace("CLOSE", tags[1])
    assert find_answer(written, ThinkTags(open=tags[0], close=tags[1]), opened=opened) == answer, rule
