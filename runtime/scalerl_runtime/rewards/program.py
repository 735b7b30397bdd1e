"""Finds the program in an answer. PURE."""

import re
from collections.abc import Sequence

# A fence of three or more, perhaps indented or in a quote of a list, and its language.
FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[^\s`{]*)[^\n`]*$")
PYTHON = ("", "py", "py2", "py3", "py39", "python", "python2", "python3", "python3.x", "ipython", "ipython3", "pycon")
DEFINITION = re.compile(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]+)?=(?!=)", re.MULTILINE)
SHELL = re.compile(r"^\s*(?:\$|pip |pip3 |python |python3 |>>> )", re.MULTILINE)


def find_program(answer: str, names: Sequence[str] = ()) -> str:
    """Return the program in `answer`: a fenced block of Python, or all of it if there is no fence.

    Args:
        answer: what the model wrote, without its thinking.
        names: what the tests need; empty for a program that reads its input.

    Of several blocks the last counts that defines one of `names`: what follows may show how to call it. Blocks that
    each define a part are joined.
    """
    blocks = find_blocks(answer.replace("\r\n", "\n").replace("\r", "\n"))
    if not blocks:
        return answer.replace("\r\n", "\n")
    if len(blocks) == 1:
        return blocks[0]
    wanted = set(names)
    if not wanted:
        return _choose_script(blocks)
    full = [block for block in blocks if wanted <= find_names(block)]
    if full:
        return _with_helpers(blocks[: blocks.index(full[-1])], full[-1], wanted)
    partial = [block for block in blocks if wanted & find_names(block)]
    if partial:
        return "\n".join(partial)
    return blocks[-1]


def _with_helpers(before: list[str], chosen: str, wanted: set[str]) -> str:
    """Put the blocks before `chosen` in front that define what it uses and does not define itself."""
    missing = set(re.findall(r"\w+", chosen)) - find_names(chosen) - wanted
    return "\n".join(
        [*(block for block in before if find_names(block) & missing and not find_names(block) & wanted), chosen]
    )


def _choose_script(blocks: list[str]) -> str:
    """Return the last block that is a whole program: neither a shell's lines nor a part without any statement."""
    programs = [block for block in blocks if block.strip() and not SHELL.search(block)]
    reading = [block for block in programs if re.search(r"\binput\(|\bstdin\b|\bopen\(0", block)]
    return (reading or programs or blocks)[-1]


def find_names(block: str) -> set[str]:
    """Return the names that a block binds at its top level, the methods of its class `Solution` too."""
    names = {first or second for first, second in DEFINITION.findall(block)}
    if "Solution" in names:
        names |= set(re.findall(r"^[ \t]+def[ \t]+(\w+)", block, re.MULTILINE))
    return names


def find_blocks(text: str) -> list[str]:
    """Return the contents of the closed fences of Python, or of those without a language."""
    blocks: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        found = FENCE.match(line)
        if opened is None:
            opened, lines = (found, []) if found else (None, [])
        elif found and found["mark"].startswith(opened["mark"]) and not found["language"]:
            blocks.append((opened["language"].lower(), _dedent(lines, opened["indent"])))
            opened = None
        else:
            lines.append(line)
    tagged = [body for language, body in blocks if language in PYTHON[1:]]
    return tagged or [body for language, body in blocks if language in PYTHON]


def _dedent(lines: list[str], indent: str) -> str:
    """Remove a fence's own indentation from its lines."""
    return "".join(f"{line.removeprefix(indent)}\n" for line in lines)
