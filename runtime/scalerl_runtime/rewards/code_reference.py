"""Reads the tests of a coding problem in the formats of public data sets, recognised by their form. PURE.

Formats: asserts as text or as a list (MBPP), `check(candidate)` (HumanEval), unittest and pytest, inputs and outputs
(APPS, TACO, CodeContests, LiveCodeBench), with a function's name or for standard input. docs/judges.md has examples.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Literal

from scalerl_api.validation import shorten
from scalerl_runtime.rewards.assertions import find_needed_names, list_assertions

MAX_TESTS = 100  # inputs of one problem; the first count. TACO has up to thousands, which no time limit covers
FUNCTION_KEYS = ("fn_name", "func_name", "function_name", "entry_point")


@dataclass(frozen=True)
class CodeReference:
    """The tests of one problem."""

    kind: Literal["tests", "calls", "stdio"]
    tests: str = ""  # `tests`: Python
    names: tuple[str, ...] = ()  # what the tests need of the program
    classes: tuple[str, ...] = ()  # classes of the tests and the prompt: their objects cross as data
    prompt: str = ""  # Python that the program may complete
    entry: str = ""  # function that the prompt asks for
    function: str = ""  # `calls`: function or method of Solution
    inputs: tuple[Any, ...] = field(default=())  # `calls`: arguments; `stdio`: texts
    outputs: tuple[Any, ...] = field(default=())
    solution: str = ""  # the row's own, which must pass; a run's self-test tries it
    wrapped: bool = False  # `calls`: the expected value may stand in a list of one (APPS)

    @property
    def wanted_names(self) -> tuple[str, ...]:
        """The names that a program must define to pass; none for one that reads its input."""
        if self.kind == "calls":
            return (self.function,)
        return (self.entry,) if self.entry in self.names else self.names


def build_code_reference(record: Mapping[str, object], value: object) -> str:
    """Return the canonical reference of a row's tests, as JSON.

    Args:
        record: the row; `entry_point`, `prompt`, `test_setup_code`, `test_imports`, `fn_name`, `metadata` count.
        value: the tests.

    Raises ValueError, with words, for what is no test: a program that does nothing would pass it.
    """
    read = _read_json(value)
    if isinstance(read, Mapping) and "test_cases" in read:
        read = _read_json(read["test_cases"])
    if isinstance(read, Mapping) and read.get("kind") in ("tests", "calls", "stdio"):
        return json.dumps(read, sort_keys=True)
    if isinstance(read, Mapping):
        reference = _read_pairs(record, read)
    elif isinstance(read, Sequence) and not isinstance(read, str):
        reference = _read_list(record, list(read))
    elif isinstance(read, str):
        reference = _read_tests(record, read)
    else:
        raise ValueError(f"{_show(value)} is no test of a program; tests must run at least one assertion")
    fields = {**asdict(reference), "solution": find_solution(record) or ""}
    return json.dumps({key: each for key, each in fields.items() if each}, sort_keys=True)


@lru_cache(maxsize=1024)  # all completions of a group share one reference
def parse_code_reference(text: str) -> CodeReference:
    """Return the reference that `build_code_reference` has made. Raises ValueError for any other text."""
    document = json.loads(text if text.startswith('{"') and '"kind"' in text else build_code_reference({}, text))
    lists = {key: tuple(document[key]) for key in ("names", "classes", "inputs", "outputs") if key in document}
    return CodeReference(**{**document, **lists})


def do_nothing_programs(reference: str) -> tuple[str, ...]:
    """Return programs that no sound tests let pass: empty ones, and functions and classes that return None."""
    names = parse_code_reference(reference).wanted_names
    functions = "".join(f"def {name}(*_, **__):\n    return None\n" for name in names if name != "Solution")
    methods = "".join(f"    def {name}(self, *_, **__):\n        return None\n" for name in names if name != "Solution")
    defined = functions + f"class Solution:\n    def __init__(self, *_):\n        pass\n{methods}" if names else ""
    return ("", "print('hello')\n", *([defined] if defined else []))


def find_solution(record: Mapping[str, object]) -> str | None:
    """Return a row's own solution as a program, if it has one."""
    for key in ("canonical_solution", "reference_solution", "code", "solution", "solutions"):
        found = _first_text(_read_json(record.get(key), lists_only=True))
        if found is None or not found.strip():
            continue
        prompt = record.get("prompt")
        continues = found.lstrip("\r\n")[0] in " \t" and isinstance(prompt, str)
        return f"{prompt}{found}" if continues else found
    return None


def _first_text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):  # CodeContests: language 3 is Python 3
        languages, texts = value.get("language"), value.get("solution")
        if isinstance(languages, Sequence) and isinstance(texts, Sequence):
            return next((str(text) for language, text in zip(languages, texts, strict=False) if language == 3), None)
        return _first_text(texts)
    return _first_text(value[0]) if isinstance(value, Sequence) and value else None


def _read_json(value: object, *, lists_only: bool = False) -> Any:
    """Return the value of JSON text, of JSON in JSON, and of a Python list's text; any other value as it is."""
    for _ in range(2):
        if not isinstance(value, str) or not value.lstrip().startswith(("[", "{") if lists_only else ("[", "{", '"')):
            break
        try:
            value = json.loads(value)
        except ValueError:
            return _read_literal(str(value))
    return value


def _read_literal(text: str) -> Any:
    try:
        read = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return read if isinstance(read, (list, dict)) else text


def _read_list(record: Mapping[str, object], values: list[object]) -> CodeReference:
    if not values:
        raise ValueError("the list of tests is empty; tests must run at least one assertion")
    if all(isinstance(each, str) for each in values):
        setup = [_as_text(record.get(key)) for key in ("test_imports", "test_setup_code")]
        return _read_tests(record, "\n".join([*setup, *map(str, values)]))
    if all(isinstance(each, Mapping) for each in values):
        cases = [dict(each) for each in values if isinstance(each, Mapping)]
        inputs, outputs = (
            [_pick(each, "input", "inputs") for each in cases],
            [_pick(each, "output", "outputs") for each in cases],
        )
        kinds = {str(each.get("type") or each.get("testtype") or "") for each in cases}
        function = _find_function(record, cases[0])
        if any("func" in kind for kind in kinds) and not function:
            raise ValueError("tests call a function whose name is missing; metadata.func_name or fn_name holds it")
        if function and not any("std" in kind for kind in kinds):
            return _make_calls(
                function, [_read_arguments(each) for each in inputs], [_read_value(each) for each in outputs]
            )
        return _make_stdio(inputs, outputs)
    raise ValueError(
        f"tests are a list of {_show(values[0])}; a list of asserts, or of inputs with outputs, is allowed"
    )


def _read_pairs(record: Mapping[str, object], value: Mapping[str, object]) -> CodeReference:
    inputs, outputs = _pick(value, "inputs", "input"), _pick(value, "outputs", "output")
    if inputs is None or outputs is None:
        raise ValueError(f"tests have the keys {', '.join(map(str, value))}; inputs and outputs are needed")
    if isinstance(inputs, str) and isinstance(outputs, str):
        inputs, outputs = [inputs], [outputs]
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("tests need as many outputs as inputs, each a list")
    function = _find_function(record, value)
    if not function:
        return _make_stdio(inputs, outputs)
    wrapped = all(isinstance(each, list) and len(each) == 1 for each in outputs)
    return _make_calls(function, [_read_arguments(each) for each in inputs], outputs, wrapped=wrapped)


def _find_function(record: Mapping[str, object], tests: Mapping[str, object]) -> str:
    for place in (tests, _read_json(tests.get("metadata")), _read_json(record.get("metadata")), record):
        for key in FUNCTION_KEYS if isinstance(place, Mapping) else ():
            if isinstance(place.get(key), str) and place[key]:
                return str(place[key]).rpartition(".")[2]
    return ""


def _read_arguments(value: object) -> list[object]:
    """Return the arguments of a call: a list, or a JSON text a line (LiveCodeBench)."""
    if not isinstance(value, str):
        return list(value) if isinstance(value, (list, tuple)) else [value]
    return [_read_value(line) for line in value.strip().split("\n")]


def _read_value(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _make_calls(function: str, inputs: list[Any], outputs: list[Any], *, wrapped: bool = False) -> CodeReference:
    if not inputs or all(each is None for each in outputs):
        raise ValueError(f"tests of {function} expect nothing; tests must run at least one assertion")
    inputs, outputs = inputs[:MAX_TESTS], outputs[:MAX_TESTS]
    return CodeReference("calls", function=function, inputs=tuple(inputs), outputs=tuple(outputs), wrapped=wrapped)


def _make_stdio(inputs: list[Any], outputs: list[Any]) -> CodeReference:
    if len(inputs) != len(outputs) or any(each is None for each in outputs):
        raise ValueError("tests need an output for every input")
    texts = [_as_text(each) for each in outputs][:MAX_TESTS]
    if not any(each.strip() for each in texts):
        raise ValueError("every expected output is empty; tests must run at least one assertion")
    return CodeReference("stdio", inputs=tuple(_as_text(each) for each in inputs[:MAX_TESTS]), outputs=tuple(texts))


def _read_tests(record: Mapping[str, object], text: str) -> CodeReference:
    text = text.replace("\r\n", "\n")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{_show(text)} is no test of a program ({error}); Python with asserts is allowed") from error
    entry = str(record.get("entry_point") or "")
    prompt = _as_text(record.get("prompt"))
    prompt = prompt if entry and _is_program(prompt) else ""
    found = list_assertions(tree)
    if "check" in found.defined and "check" not in found.called:
        if not entry:
            raise ValueError("tests define check(candidate) and call nothing; the row needs entry_point")
        text += f"\ncheck({entry})\n"
    elif not found.runs_any:
        raise ValueError(f"{_show(text)} asserts nothing; tests must run at least one assertion")
    head = _parse_head(prompt, entry)
    names, classes = find_needed_names(ast.parse(text), head)
    if not names:
        raise ValueError(f"{_show(text)} uses nothing of the program; tests must run at least one assertion of it")
    return CodeReference(
        "tests", tests=text, names=names, classes=classes, prompt=prompt, entry=entry.rpartition(".")[2]
    )


def _is_program(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _parse_head(prompt: str, entry: str) -> ast.Module:
    tree = ast.parse(prompt)
    tree.body = [each for each in tree.body if not (isinstance(each, ast.FunctionDef) and each.name == entry)]
    return tree


def _pick(value: Mapping[str, object], *keys: str) -> object:
    return next((value[key] for key in keys if key in value), None)


def _as_text(value: object) -> str:
    """Return a text, or lines as one text."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return "\n".join(map(str, value))
    return str(value)


def _show(value: object) -> str:
    return repr(shorten(str(value), 60))
