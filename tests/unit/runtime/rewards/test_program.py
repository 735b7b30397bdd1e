# ruff: noqa: E501  # answers and tests, one a row
import pytest

from scalerl_runtime.rewards.confined.program import complete_program
from scalerl_runtime.rewards.program import find_program

SOLUTION = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("answer", "program", "rule"),
    [
        ("x = 1", "x = 1", "no fence: all of it"),
        ("x = 1\r\ny = 2", "x = 1\ny = 2", "no fence, lines of another system"),
        ("So:\n```python\nx = 1\n```\nDone.", "x = 1\n", "what the fence holds"),
        ("```\nx = 1\n```", "x = 1\n", "a fence without a language"),
        ("```Python\nx = 1\n```", "x = 1\n", "a capital letter"),
        ("```PY3\nx = 1\n```", "x = 1\n", "a short name"),
        ("```python3\nx = 1\n```", "x = 1\n", "a version"),
        ("``` python\nx = 1\n```", "x = 1\n", "a blank before the language"),
        ('```python title="a.py"\nx = 1\n```', "x = 1\n", "words after the language"),
        ("```{python}\nx = 1\n```", "x = 1\n", "a notation of other tools"),
        ("~~~python\nx = 1\n~~~", "x = 1\n", "tildes"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n", "a longer fence holds a shorter"),
        ("1. So:\n   ```python\n   def f(x):\n       return x\n   ```", SOLUTION, "an indented fence"),
        ("So:\r\n```python\r\nx = 1\r\n```\r\n", "x = 1\n", "lines of another system"),
        ("```python\nx = 1\n```\nBetter:\n```python\nx = 2\n```", "x = 2\n", "the last of several"),
        ("```python\nx = 1\n```\nOutput:\n```\n1\n```", "x = 1\n", "a block of Python before one without a language"),
        ("```python\nx = 1\n```\nRun it:\n```bash\npython a.py\n```", "x = 1\n", "a shell's block is no program"),
        (
            "```python\nn = input()\n```\nSuch as:\n```python\nx = 1\n```",
            "n = input()\n",
            "the program reads its input",
        ),
        ("```python\nx = 1", "```python\nx = 1", "a fence that is never closed is no fence"),
        ("```python\nx = 1\n```\nand\n```python\nx =", "x = 1\n", "the last closed one"),
        ("```python\n```", "", "an empty fence is an empty program"),
        ("", "", "nothing"),
    ],
)
def test_find_program(answer, program, rule):
    assert find_program(answer) == program, rule


@pytest.mark.parametrize(
    ("blocks", "program", "rule"),
    [
        ([SOLUTION, "print(f(3))\n"], SOLUTION, "how to call it is not the program"),
        ([SOLUTION, "assert f(3) == 3\nx = f(4)\n"], SOLUTION, "nor are its tests"),
        (["def f(x): return 0\n", SOLUTION], SOLUTION, "the last one that defines the function"),
        (
            ["import math\nK = 3\n", "def f(x):\n    return K\n"],
            "import math\nK = 3\n\ndef f(x):\n    return K\n",
            "helpers",
        ),
        (["def g(x): return 1\n", SOLUTION], SOLUTION, "a block that the program does not use"),
        (["x = 1\n", "y = 2\n"], "y = 2\n", "nothing defines it"),
        (
            ["class Solution:\n    def f(self, x):\n        return x\n", "Solution().f(1)\n"],
            None,
            "a method of Solution",
        ),
        (["f = lambda x: x\n", "f(1)\n"], "f = lambda x: x\n", "a name that is assigned"),
    ],
)
def test_of_several_blocks_the_one_counts_that_defines_what_the_tests_need(blocks, program, rule):
    answer = "\nThen:\n".join(f"```python\n{block}```" for block in blocks)
    assert find_program(answer, ["f"]) == (blocks[0] if program is None else program), rule


def test_parts_of_a_program_are_joined():
    answer = "```python\ndef f(x):\n    return x\n```\n```python\ndef g(x):\n    return f(x)\n```\n```python\ng(1)\n```"
    assert find_program(answer, ["f", "g"]) == "def f(x):\n    return x\n\ndef g(x):\n    return f(x)\n"


@pytest.mark.parametrize(
    ("prompt", "program", "result"),
    [
        ("def f(x):\n    return", "x + 1", 4),
        ("def f(x):\n    return ", "x + 1  # so\n", 4),
        ("def f(x):\n    y = x\n    return y +", "1", 4),
        ("def f(x):\n    return abs(", "-x)", 3),
        ("def f(x):", "return x + 1", 4),
        ("def f(x):", "y = x + 1\n    return y", 4),
        ('def f(x):\n    """Doc."""', "return x + 1", 4),
        ("def f(x):\n    y = 1\n    # now x + y", "return x + y", 4),
        ("def f(x):\n", "return x + 1", 4),
    ],
)
def test_a_program_continues_the_line_that_the_prompt_has_begun(prompt, program, result):
    _, whole = complete_program(program, prompt, "f")
    namespace: dict[str, object] = {}
    exec(whole, namespace)
    assert namespace["f"](3) == result
