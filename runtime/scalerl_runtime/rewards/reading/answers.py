"""Extracts the answer from a completion. PURE."""

from scalerl_api.recipe import ThinkTags


def find_answer(completion_text: str, tags: ThinkTags, *, opened: bool) -> str | None:
    """Return what follows the last closing tag, or the whole completion without thinking; None in unfinished thinking.

    `opened`: the prompt opened the thinking.
    """
    _, closed, answer = completion_text.rpartition(tags.close)
    if closed:
        return answer.strip()
    return None if opened or tags.open in completion_text else completion_text.strip()
