"""Reads the tests of a coding problem in the formats of public data sets, recognised by their form. PURE.

Formats: asserts as text or as a list (MBPP), `check(candidate)` (HumanEval), unittest and pytest, inputs and outputs
(APPS, TACO, CodeContests, LiveCodeBench), with a function's name or for standard input. docs/judges.md has examples.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from scalerl_api.validation import shorten
from scalerl_runtime.data.columns import ColumnValues
from scalerl_runtime.rewards.assertions import find_needed_names, list_assertions
from scalerl_runtime.rewards.compressed_tests import decompress_tests
from scalerl_runtime.rewards.program import find_program

MAX_TESTS = 100  # inputs of one problem; the first count. TACO has up to thousands, which no time limit covers
# Where tests stand in an object of a verifier: SYNTHETIC-1, Skywork-OR1.
NESTED_KEYS = ("test_cases", "test_code", "tests")
SOLUTION_KEYS = (
    "canonical_solution",
    "reference_solution",
    "gold_standard_solution",
    "code",
    "solution",
    "solutions",
    "completion",
)
PROMPT_KEYS = ("prompt", "complete_prompt")
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
    if isinstance(value, ColumnValues):
        reference = _merge([_read_reference(record, each) for each in value.values if not _is_empty(each)])
    else:
        read = _read_json(value)
        if isinstance(read, Mapping) and read.get("kind") in ("tests", "calls", "stdio"):
            return json.dumps(read, sort_keys=True)
        reference = _read_reference(record, read)
    fields = {**asdict(reference), "solution": find_solution(record) or ""}
    return json.dumps({key: each for key, each in fields.items() if each}, sort_keys=True)


def _read_reference(record: Mapping[str, object], value: object) -> CodeReference:
    read = _read_json(value)
    nested = next((key for key in NESTED_KEYS if isinstance(read, Mapping) and key in read), None)
    if nested is not None and isinstance(read, Mapping):
        record, read = {**record, **{str(key): each for key, each in read.items()}}, _read_json(read[nested])
    if isinstance(read, Mapping):
        return _read_pairs(record, read)
    if isinstance(read, Sequence) and not isinstance(read, str):
        return _read_list(record, list(read))
    if isinstance(read, str):
        return _read_tests(record, read)
    raise ValueError(f"{_show(value)} is no test of a program; tests must run at least one assertion")


def _merge(parts: Sequence[CodeReference]) -> CodeReference:
    """Return the tests of several columns together; the first MAX_TESTS count."""
    if not parts:
        raise ValueError("every column of tests is empty; tests must run at least one assertion")
    first = parts[0]
    if len(parts) == 1:
        return first
    if {(each.kind, each.function) for each in parts} != {(first.kind, first.function)} or first.kind == "tests":
        raise ValueError("several columns of tests are joined only if each has inputs and outputs of one kind")
    inputs = [each for part in parts for each in part.inputs][:MAX_TESTS]
    outputs = [each for part in parts for each in part.outputs][:MAX_TESTS]
    return replace(first, inputs=tuple(inputs), outputs=tuple(outputs), wrapped=all(each.wrapped for each in parts))


def _is_empty(value: object) -> bool:
    """Whether a column has no tests: nothing, or empty lists, as CodeContests has them."""
    read = _read_json(value)
    if isinstance(read, Mapping):
        return "inputs" in read and not read["inputs"] or "input" in read and not read["input"]
    return not read


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
    """Return a row's own solution, the first that is a program of Python 3, if it has one."""
    for key in SOLUTION_KEYS:
        for found in _list_texts(_read_json(record.get(key), lists_only=True)):
            prompt = _find_prompt(record)
            continues = bool(found.strip() and prompt) and found.lstrip("\r\n")[0] in " \t"
            program = f"{prompt}{found}" if continues else found
            if _is_program(find_program(program)):
                return program
    return None


def _find_prompt(record: Mapping[str, object]) -> str:
    """The program that an answer may continue; BigCodeBench calls it `complete_prompt`."""
    return next((str(record[key]) for key in PROMPT_KEYS if isinstance(record.get(key), str)), "")


def _list_texts(value: object) -> list[str]:
    """The texts of a column of solutions: one, a list, or CodeContests' lists, whose language 3 is Python 3."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        languages, texts = value.get("language"), value.get("solution")
        if isinstance(languages, Sequence) and isinstance(texts, Sequence):
            return [str(text) for language, text in zip(languages, texts, strict=False) if language == 3]
        return _list_texts(texts)
    return [str(each) for each in value if isinstance(each, str)] if isinstance(value, Sequence) else []


def _read_json(value: object, *, lists_only: bool = False) -> Any:
    """Return the value of JSON text, of JSON in JSON, of a Python list's text, and of compressed tests.

    Any other value is returned as it is.
    """
    if isinstance(value, str) and not lists_only:
        value = decompress_tests(value) or value
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
    prompt = _find_prompt(record)
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
