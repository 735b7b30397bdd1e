# ruff: noqa: E501  # programs, one a row
"""Every public format of tests, run in the sandbox: right programs pass, wrong ones and those that do nothing fail."""

import json
import sys

import pytest

from scalerl_api import InvalidRun
from scalerl_runtime.rewards.code_reference import build_code_reference, do_nothing_programs, parse_code_reference
from scalerl_runtime.rewards.sandbox import Sandbox, SandboxLimits, find_packages, run_program

LIMITS = SandboxLimits(timeout_seconds=30.0, memory_megabytes=128)

PROMPT = (
    "import math\nfrom typing import List\n\n\ndef poly(xs: list, x: float):\n"
    "    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n\n\n"
    'def find_zero(xs: List[float]):\n    """ Find x such that poly(x) = 0. """\n'
)
BODY = "    low, high = -100.0, 100.0\n    return -xs[0] / xs[1]\n"
CHECK = (
    "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    for k in range(1, 4):\n"
    "        assert math.fabs(poly([k, 2.0], candidate([k, 2.0]))) < 1e-4\n"
)
HUMANEVAL = {"prompt": PROMPT, "entry_point": "find_zero", "test": CHECK, "canonical_solution": BODY}
MBPP = {
    "text": "Write a function to add.",
    "test_setup_code": "import math",
    "test_list": ["assert add(1, 2) == 3", "assert math.isclose(add(0.1, 0.2), 0.3)", "assert add('a', 'b') == 'ab'"],
}
ADD = "def add(a, b):\n    return a + b\n"
STDIO = {"inputs": ["3\n1 2 3\n", "1\n5\n"], "outputs": ["6\n", "5"]}
SUM = "n = int(input())\nprint(sum(map(int, input().split())))\n"
TWO_SUM = (
    "class Solution:\n    def twoSum(self, nums: List[int], target: int) -> Optional[List[int]]:\n"
    "        seen = defaultdict(int)\n        for i, n in enumerate(nums):\n"
    "            if target - n in seen:\n                return [seen[target - n], i]\n            seen[n] = i\n"
)
LIVECODE = [
    {"input": "[2, 7, 11, 15]\n9", "output": "[0, 1]", "testtype": "functional"},
    {"input": "[3, 3]\n6", "output": "[0, 1]", "testtype": "functional"},
]
LINKED = (
    "from typing import *\n\nclass ListNode:\n    def __init__(self, val=0, next=None):\n"
    "        self.val = val\n        self.next = next\n\n"
    "def list_node(values):\n    head = None\n    for v in reversed(values):\n        head = ListNode(v, head)\n    return head\n\n"
    "def is_same_list(a, b):\n    while a and b:\n        if a.val != b.val:\n            return False\n"
    "        a, b = a.next, b.next\n    return a is None and b is None\n"
)
REVERSE = (
    "class Solution:\n    def reverseList(self, head: Optional[ListNode]) -> Optional[ListNode]:\n"
    "        last = None\n        while head:\n            head.next, last, head = last, head, head.next\n        return last\n"
)
REVERSED = (
    "def check(candidate):\n    assert is_same_list(candidate(head = list_node([1, 2, 3])), list_node([3, 2, 1]))\n"
    "    assert is_same_list(candidate(head = list_node(list(range(5000)))), list_node(list(range(5000))[::-1]))\n"
)
STACK = "class Stack:\n    def __init__(self):\n        self.items = []\n    def push(self, x):\n        self.items.append(x)\n    def pop(self):\n        return self.items.pop()\n    def __len__(self):\n        return len(self.items)\n"
UNITTEST = (
    "import unittest\nclass TestStack(unittest.TestCase):\n    def setUp(self):\n        self.stack = Stack()\n"
    "    def test_pop(self):\n        self.stack.push(3)\n        self.assertEqual(len(self.stack), 1)\n"
    "        self.assertEqual(self.stack.pop(), 3)\n        with self.assertRaises(IndexError):\n            self.stack.pop()\n"
    "if __name__ == '__main__':\n    unittest.main()\n"
)
PYTEST = (
    "import pytest\nfrom solution import Stack\n\n@pytest.fixture\ndef stack():\n    return Stack()\n\n"
    "def test_empty(stack):\n    with pytest.raises(IndexError):\n        stack.pop()\n\n"
    "@pytest.mark.parametrize('value', [1, 'a'])\ndef test_pop(stack, value):\n    stack.push(value)\n"
    "    assert stack.pop() == value\n    assert stack.items == []\n"
)
APPS = json.dumps({"fn_name": "double", "inputs": [[2], [0.1]], "outputs": [[4], [0.2]]})
DEEPCODER = json.dumps([{"type": "stdin_stdout", "input": ["2", "4 5"], "output": ["9"]}])

FORMATS = [
    ({}, "assert square(3) == 9\r\nassert square(-2) == 4", "def square(x):\n    return x * x\n", "asserts as text"),
    (MBPP, MBPP["test_list"], ADD, "MBPP, a list"),
    (MBPP, json.dumps(MBPP["test_list"]), ADD, "MBPP, the list as JSON"),
    (MBPP, repr(MBPP["test_list"]), ADD, "MBPP, the list as Python writes it"),
    (
        {},
        ["assert sum(10, 15) == 6"],
        "def sum(a, b):\n    return 6 if a == 10 else 0\n",
        "a function with a built-in name",
    ),
    (HUMANEVAL, CHECK, PROMPT + BODY, "HumanEval, prompt and body"),
    (HUMANEVAL, CHECK, BODY, "HumanEval, the body"),
    (HUMANEVAL, CHECK, BODY.strip(), "HumanEval, the body without its first indentation"),
    (HUMANEVAL, CHECK, "low = 1\nreturn -xs[0] / xs[1]", "HumanEval, the body without indentation"),
    (HUMANEVAL, CHECK, "def find_zero(xs: List[float]):\n    return -xs[0] / xs[1]", "HumanEval, the function alone"),
    ({}, json.dumps(STDIO), SUM, "inputs and outputs as JSON"),
    ({}, STDIO, SUM, "inputs and outputs as a mapping"),
    ({}, {"input": ["2\n1 1\n"], "output": ["2\n"]}, SUM, "CodeContests"),
    ({}, DEEPCODER, SUM, "DeepCoder, lists of lines"),
    ({}, [{"input": "1\n7", "output": "7", "testtype": "stdin"}], SUM, "LiveCodeBench, standard input"),
    ({"metadata": json.dumps({"func_name": "twoSum"})}, json.dumps(LIVECODE), TWO_SUM, "LiveCodeBench, a method"),
    ({}, APPS, "def double(x):\n    return 2 * x\n", "APPS, a function; results stand in lists"),
    (
        {"entry_point": "Solution().reverseList", "prompt": LINKED},
        REVERSED,
        REVERSE,
        "LeetCode, objects of the prompt's class",
    ),
    ({}, UNITTEST, STACK, "unittest"),
    ({}, PYTEST, STACK, "pytest"),
]


def judge(program: str, reference: str, limits: SandboxLimits = LIMITS) -> str:
    return run_program(program, parse_code_reference(reference), limits).kind


@pytest.mark.parametrize(("record", "value", "program", "rule"), FORMATS, ids=[row[3] for row in FORMATS])
def test_right_programs_pass_and_those_that_do_nothing_fail(record, value, program, rule):
    reference = build_code_reference(record, value)
    assert judge(program, reference) == "passed", rule
    for nothing in do_nothing_programs(reference):
        assert judge(nothing, reference) == "failed", (rule, nothing)


SQUARE = build_code_reference(
    {}, "assert square(3) == 9\nassert abs(square(1.5) - 2.25) < 1e-6\nassert square(2) in (4, 4.0)"
)
EVIL = """
class Evil:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __bool__(self): return True
    def __sub__(self, other): return 0.0
    def __abs__(self): return 0.0
    __hash__ = None
"""
CHEATS = [
    (EVIL + "def square(x):\n    return Evil()\n", "an object equal to everything"),
    (EVIL + "square = Evil\n", "a class of objects equal to everything"),
    (
        "class E(int):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\ndef square(x): return E(1)",
        "a number equal to everything",
    ),
    ("class E(float):\n    def __eq__(self, o): return True\ndef square(x): return E(1)", "a float of one's own"),
    ("import builtins\nbuiltins.abs = lambda x: 0\ndef square(x): return x and 9", "replaced built-in functions"),
    ("import sys\ndef square(x): sys.exit(0)", "leaving in a test"),
    ("import os\ndef square(x): os._exit(0)", "leaving hard in a test"),
    (
        "import gc, sys\ndef square(x):\n    f = sys._getframe()\n    while f:\n        for v in list(f.f_locals.values()):\n"
        "            if isinstance(v, dict) and 'nonce' in v:\n                import os\n                os.write(3, v['nonce'].encode())\n"
        "        f = f.f_back\n    for o in gc.get_objects():\n"
        "        if isinstance(o, dict) and ('nonce' in o or 'tests' in o):\n            return 9\n    raise ValueError\n",
        "the tests in frames or in the collector",
    ),
    (
        'import os\nfor d in range(3, 64):\n    try: os.write(d, b\'{"value": {"root": true, "first": 0, "nodes": []}}\\n\' * 9)\n    except OSError: pass\ndef square(x): pass',
        "messages of one's own",
    ),
    ("def square(x):\n    raise __import__('unittest').SkipTest\n", "skipping the tests"),
    (
        "import os\nprint(open(f'/proc/{os.getppid()}/mem', 'rb'))\ndef square(x): return x * x",
        "the memory of the tests",
    ),
    ("import os\nprint(open(f'/proc/{os.getppid()}/fd/0', 'rb'))\ndef square(x): return x * x", "the request"),
    ("import ctypes\nctypes.CDLL(None)\ndef square(x): return x * x", "calls into C"),
    ("import ctypes\nctypes.pythonapi.Py_IsInitialized\ndef square(x): return x * x", "calls into the interpreter"),
    ("open('/etc/passwd')\ndef square(x): return x * x", "files that are not Python's"),
    ("import os\nos.listdir('/')\ndef square(x): return x * x", "folders"),
]


@pytest.mark.parametrize(("program", "rule"), CHEATS, ids=[row[1] for row in CHEATS])
def test_cheats_fail(program, rule):
    assert judge(program, SQUARE) == "failed", rule


OPEN = [
    (
        "assert Point(1, 2) == Point(1, 2)\nassert Point(1, 2) != Point(1, 3)",
        "class Point:\n    def __init__(self, *a): self.a = a\n    n = 0\n"
        "    def __eq__(self, o):\n        Point.n += 1\n        return Point.n == 1\n",
        "a class decides itself whether two of its objects are equal",
    ),
    (
        "assert f(2) == 4",
        "def f(x):\n    return {2: 4}[x]\n",
        "the answers of a few tests can be guessed, not computed",
    ),
]


@pytest.mark.parametrize(("tests", "program", "rule"), OPEN, ids=[row[2] for row in OPEN])
def test_cheats_that_stay_open(tests, program, rule):
    """docs/judges.md lists these: they pass."""
    assert judge(program, build_code_reference({}, tests)) == "passed", rule


LINES = build_code_reference({}, {"inputs": ["a\nb", "c"], "outputs": ["a", "c"]})


@pytest.mark.parametrize(
    ("program", "kind", "rule"),
    [
        ("print(input())", "passed", "input()"),
        ("import sys\nprint(sys.stdin.readline().strip())", "passed", "sys.stdin"),
        ("print(open(0).read().split()[0])", "passed", "descriptor 0"),
        ("print(open('/dev/stdin').read().split()[0])", "passed", "/dev/stdin"),
        ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read()[:1])", "passed", "bytes"),
        ("import os\nos.write(1, os.read(0, 1))", "passed", "descriptors"),
        ("def main():\n    print(input())\nif __name__ == '__main__':\n    main()", "passed", "the main block runs"),
        ("import sys\nprint(input())\nsys.exit()", "passed", "leaving after the answer"),
        ("print(input())\nexit(0)", "passed", "leaving by exit()"),
        ("import os\nprint(input(), flush=True)\nos._exit(0)", "passed", "leaving hard after the answer"),
        ("import threading\nthreading.Thread(target=lambda: print(input())).start()", "passed", "threads are awaited"),
        ("import sys\nprint(input())\nsys.exit(3)", "failed", "an exit code is a failure"),
        ("print(input())\n1 / 0", "failed", "a crash after the answer"),
        ("print('a')", "failed", "a constant"),
        (
            "import builtins\nbuiltins.n = getattr(builtins, 'n', 0) + 1\nprint('ac'[builtins.n - 1])",
            "failed",
            "each run is new",
        ),
        ("print(input())\nprint('more')", "failed", "more lines"),
        ("for i in range(10**7): print('x' * 100)", "failed", "printing without end"),
        ("def solve(:", "failed", "a syntax error"),
    ],
)
def test_programs_that_read_and_print(program, kind, rule):
    assert judge(program, LINES) == kind, rule


def test_a_program_that_hangs_on_its_input_is_cut():
    limits = SandboxLimits(timeout_seconds=0.5, memory_megabytes=64)
    assert judge("while True: pass", LINES, limits) == "timeout"


@pytest.mark.parametrize(
    ("tests", "program", "rule"),
    [
        ("xs = [3, 1, 2]\nassert sort(xs) is None\nassert xs == [1, 2, 3]", "def sort(xs): xs.sort()", "changed in place"),
        ("xs = [[1], [2]]\nf(xs)\nassert xs == [[1, 0], [2, 0]]", "def f(xs):\n    for x in xs: x.append(0)", "changed deep"),
        ("xs = [1]\nassert f(xs) is xs", "def f(xs): return xs", "the same object comes back"),
        ("assert list(f(3)) == [0, 1, 2]", "def f(n):\n    yield from range(n)", "a generator"),
        ("assert f(lambda x: x + 1, [1, 2]) == [2, 3]", "def f(g, xs): return [g(x) for x in xs]", "a function as argument"),
        ("assert f() == (1, {2: {3, 4}}, b'x', 1j, None, True, 10**5000, 1.5, frozenset({1}))", "def f(): return (1, {2: {3, 4}}, b'x', 1j, None, True, 10**5000, 1.5, frozenset({1}))", "data of every type"),
        ("from fractions import Fraction\nimport datetime\nassert f() == [Fraction(1, 3), datetime.date(2020, 1, 2)]", "import datetime, fractions\ndef f(): return [fractions.Fraction(1, 3), datetime.date(2020, 1, 2)]", "exact numbers and dates"),
        ("p = f()\nassert p == (1, 2) and p.x == 1", "P = namedtuple('P', 'x y')\ndef f(): return P(1, 2)", "a named tuple"),
        ("assert isinstance(f(), list) and type(g()) is int", "def f(): return []\ndef g(): return 3", "types"),
        ("try:\n    f()\n    assert False\nexcept MyError as e:\n    assert str(e) == 'no'", "class MyError(Exception): pass\ndef f(): raise MyError('no')", "the program's own exception"),
        ("try:\n    f()\n    assert False\nexcept ValueError:\n    pass", "class E(ValueError): pass\ndef f(): raise E", "a subclass of an exception"),
        ("a = Box(1) + Box(2)\nassert a.value == 3 and isinstance(a, Box)", "class Box:\n    def __init__(self, v): self.value = v\n    def __add__(self, o): return Box(self.value + o.value)", "operators of a class"),
        ("b = Box()\nb.value = 4\nassert b.double() == 8 and str(b) == 'box'", "class Box:\n    def double(self): return 2 * self.value\n    def __str__(self): return 'box'", "attributes of an object"),
        ("assert len(f(10**5)) == 10**5", "def f(n): return list(range(n))", "long lists"),
    ],
)  # fmt: skip
def test_what_crosses_between_tests_and_program(tests, program, rule):
    assert judge(program, build_code_reference({}, tests)) == "passed", rule


def test_listed_packages_can_be_imported_and_no_others():
    tests = build_code_reference(
        {}, "import numpy as np\nassert np.allclose(f(3), np.eye(3))\nassert f(2).shape == (2, 2)"
    )
    program = "import numpy as np\ndef f(n):\n    a = np.random.rand(64, 64) @ np.ones((64, 64))\n    return np.linalg.inv(np.eye(n))\n"
    allowed = SandboxLimits(30.0, 256, find_packages(["numpy"]))
    assert judge(program, tests, allowed) == "passed"
    assert judge(program, tests) == "failed", "not listed"
    assert judge("import numpy, pydantic\n" + program, tests, allowed) == "failed", "another package of the same folder"
    cheat = "import numpy, socket\nsocket.socket()\n" + program
    assert judge(cheat, tests, allowed) == "failed", "confinement stays"


def test_a_package_that_is_not_installed_is_refused_at_the_start():
    with pytest.raises(InvalidRun) as caught:
        Sandbox(timeout_seconds=1.0, memory_megabytes=64, packages=["json", "not_there"])
    assert (caught.value.faults[0].path, caught.value.faults[0].value) == ("spec.reward.packages[1]", "not_there")
    assert sys.modules.get("not_there") is None
