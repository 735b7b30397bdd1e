"""Runs tests against a program in another process: asserts, calls, unittest, pytest. I/O, standard library only."""

import importlib
import importlib.util
import itertools
import math
import re
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

from scalerl_runtime.rewards.confined.calls import ProgramClient
from scalerl_runtime.rewards.confined.program import bind_standard_names, find_head

TOLERANCE = 1e-6


class TestsFailed(Exception):  # noqa: N818  # not an error: the program is wrong
    """The program does not pass."""


def run_tests(request: dict[str, Any], make_client: Callable[[dict[str, object]], ProgramClient]) -> None:
    """Return if the program passes. Raises whatever its tests raise, else."""
    module = types.ModuleType("tests")  # dataclasses look a class's module up
    sys.modules["tests"] = module
    namespace = module.__dict__
    client = make_client(namespace)
    if request["kind"] == "calls":
        _run_calls(client.fetch(request["function"]), request)
        return
    head = find_head(request["prompt"], request["entry"])  # helpers that the tests use: their own, not the program's
    bind_standard_names(namespace, head + request["tests"])
    exec(compile(head, "<prompt>", "exec"), namespace)
    for name in request["names"]:
        try:
            namespace[name] = client.fetch(name)
        except NameError:
            continue  # the tests fail where they need it
    sys.modules["pytest"] = _make_pytest()
    sys.meta_path.append(_ProgramModules(client))
    if "unittest" in request["tests"]:
        importlib.import_module("unittest").main = lambda *_, **__: None  # type: ignore[attr-defined]  # the cases run below
    exec(compile(request["tests"], "<tests>", "exec"), namespace)
    if "unittest" in request["tests"]:
        _run_cases(namespace)
    _run_functions(namespace)


def _run_calls(function: Any, request: dict[str, Any]) -> None:
    for arguments, expected in zip(request["inputs"], request["outputs"], strict=True):
        result = function(*arguments)
        wrapped = request["wrapped"] and is_same_value(result, expected[0])
        if not wrapped and not is_same_value(result, expected):
            raise TestsFailed(f"{str(result)[:100]} is not {str(expected)[:100]}")


def is_same_value(result: object, expected: object) -> bool:
    """Return whether a result is what JSON can say of it: tuples are lists, keys are texts, floats are near."""
    if isinstance(result, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(result) == len(expected) and all(map(is_same_value, result, expected))
    if isinstance(result, dict) and isinstance(expected, dict):
        texts = {str(key): each for key, each in result.items()}
        return texts.keys() == expected.keys() and all(is_same_value(texts[key], expected[key]) for key in texts)
    if (
        isinstance(result, (int, float))
        and isinstance(expected, (int, float))
        and float in (type(result), type(expected))
    ):
        return math.isclose(result, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(result == expected)


def _run_cases(namespace: dict[str, object]) -> None:
    import unittest  # late: importing it takes longer than most programs

    cases = [
        each
        for each in namespace.values()
        if isinstance(each, type) and issubclass(each, unittest.TestCase) and each.__module__ == "tests"
    ]
    for each in cases:
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(each)
        result = unittest.TestResult()
        suite.run(result)
        if not result.wasSuccessful() or (result.testsRun and result.testsRun == len(result.skipped)):
            raise TestsFailed(each.__name__)


def _run_functions(namespace: dict[str, Any]) -> None:
    for name, each in list(namespace.items()):
        if name.startswith("test") and isinstance(each, types.FunctionType) and each.__module__ == "tests":
            _run_function(each, namespace)
        if name.startswith("Test") and isinstance(each, type) and not hasattr(each, "assertEqual"):
            for method in [key for key in vars(each) if key.startswith("test")]:
                made: Any = each()
                getattr(made, "setup_method", lambda *_: None)()
                _run_function(getattr(made, method), namespace)


def _run_function(function: Any, namespace: dict[str, Any]) -> None:
    import inspect  # late, as unittest

    names, rows = getattr(function, "_rows", ([], [()]))
    for row in rows:
        given = dict(zip(names, row, strict=True))
        if inspect.isawaitable(function(**_fill_in(function, given, namespace))):
            raise TestsFailed(f"{function.__name__} is async: it would run nothing")


def _fill_in(function: Any, given: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a test or a fixture: those given, and its fixtures."""
    import inspect  # late, as unittest

    for name in inspect.signature(function).parameters.keys() - given.keys():
        fixture = namespace[name]
        made = fixture(**_fill_in(fixture, {}, namespace))
        given[name] = next(made) if inspect.isgenerator(made) else made
    return given


class _ProgramModules:
    """Finds modules that nobody has installed, such as `solution`: the program."""

    def __init__(self, client: ProgramClient):
        self._client = client

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> Any:
        """Return the spec of a top-level module."""
        if path is not None:
            return None
        return importlib.util.spec_from_loader(name, self)  # type: ignore[arg-type]  # a loader by its methods

    def create_module(self, _spec: Any) -> None:
        """Let the interpreter make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Let every name of the module be the program's."""

        def fetch(name: str) -> object:
            try:
                return self._client.fetch(name)
            except NameError as error:
                raise AttributeError(name) from error

        module.__getattr__ = fetch  # type: ignore[method-assign]


class _Raises:
    """`pytest.raises` as a context manager."""

    def __init__(self, kind: Any, match: str | None = None):
        self._kind, self._match = kind, match
        self.value: BaseException | None = None

    def __enter__(self) -> "_Raises":
        return self

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None:
            raise TestsFailed(f"nothing raised {self._kind}")
        self.value = error
        matches = self._match is None or re.search(self._match, str(error)) is not None
        return isinstance(error, self._kind) and matches


class _Near:
    """`pytest.approx`."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None):  # noqa: A002  # pytest's names
        self._expected = expected
        self._rel, self._abs = (rel, abs) if rel is not None or abs is not None else (1e-6, 1e-12)

    def __eq__(self, result: object) -> bool:
        expected = self._expected
        if isinstance(expected, dict) and isinstance(result, dict):
            return result.keys() == expected.keys() and all(self._near(expected[key]) == result[key] for key in result)
        if isinstance(expected, (list, tuple)) and isinstance(result, (list, tuple)):
            same = type(result) is type(expected) and len(result) == len(expected)
            return same and all(self._near(want) == each for want, each in zip(expected, result, strict=True))
        if not isinstance(result, (int, float)) or not isinstance(expected, (int, float)):
            return type(result) is type(expected) and result == expected
        return math.isclose(result, expected, rel_tol=self._rel or 0.0, abs_tol=self._abs or 0.0)

    __hash__ = None  # type: ignore[assignment]

    def _near(self, expected: object) -> "_Near":
        return _Near(expected, self._rel, self._abs)


def _parametrize(names: str | Sequence[str], values: Iterable[Any]) -> Callable[[Any], Any]:
    listed = [each.strip() for each in names.split(",")] if isinstance(names, str) else list(names)
    rows = [tuple(each) if len(listed) > 1 else (each,) for each in values]

    def mark(function: Any) -> Any:
        old_names, old_rows = getattr(function, "_rows", ([], [()]))
        function._rows = (listed + old_names, [new + old for new, old in itertools.product(rows, old_rows)])
        return function

    return mark


def _mark_fixture(function: Any = None, **_options: object) -> Any:
    return function if function is not None else lambda each: each


def _make_pytest() -> ModuleType:
    """Return the part of pytest that tests of data sets use; pytest itself is no package of the sandbox."""
    module = types.ModuleType("pytest")
    mark = types.SimpleNamespace(parametrize=_parametrize)
    vars(module).update(raises=_Raises, approx=_Near, mark=mark, fixture=_mark_fixture)
    return module
