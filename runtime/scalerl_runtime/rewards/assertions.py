"""Finds in Python tests whether they assert anything, and what they need of the program. PURE."""

import ast
import builtins
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

from scalerl_runtime.rewards.confined.standard_names import HOMES, MODULES

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.ClassDef, ast.Lambda)


@dataclass(frozen=True)
class Assertions:
    """The assertions of tests."""

    defined: frozenset[str]  # functions with assertions
    called: frozenset[str]  # functions that are called outside of functions
    runs_any: bool  # an assertion runs when the tests are run


def list_assertions(tree: ast.Module) -> Assertions:
    """Return the assertions of tests."""
    outside = list(_walk_outside(tree))
    functions = {each.name: each for each in ast.walk(tree) if isinstance(each, FUNCTIONS)}
    defined = frozenset(name for name, each in functions.items() if any(map(_is_assertion, ast.walk(each))))
    called = frozenset(_name_called(each) for each in outside if isinstance(each, ast.Call))
    collected = any(name.startswith("test") for name in defined)
    runs_any = any(map(_is_assertion, outside)) or bool(defined & called) or collected
    return Assertions(defined, called, runs_any)


def _walk_outside(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that run when the module runs."""
    queue: list[ast.AST] = list(tree.body)
    while queue:
        node = queue.pop()
        yield node
        if not isinstance(node, SCOPES):
            queue += ast.iter_child_nodes(node)


def _name_called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _is_assertion(node: ast.AST) -> bool:
    """Whether a node may fail a test: assert with something to find out, raise, or a method such as assertEqual."""
    if isinstance(node, ast.Assert):
        fails = isinstance(node.test, ast.Constant) and not node.test.value
        return fails or any(isinstance(each, (ast.Name, ast.Call)) for each in ast.walk(node.test))
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else _name_called(node)
        return name.startswith("assert") or name in ("fail", "raises")
    return isinstance(node, ast.Raise)


def find_needed_names(tests: ast.Module, head: ast.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that tests take from the program, and the classes that tests and head define.

    A built-in name is the program's only if tests need no other: `assert sum(10, 15) == 6` tests a function `sum`,
    `assert sorted(f(x)) == y` uses the real one.
    """
    bound = _find_bound(head)
    classes = tuple(each.name for each in (*head.body, *tests.body) if isinstance(each, ast.ClassDef))
    wanted = _find_globals(symtable.symtable(ast.unparse(tests), "<tests>", "exec"))
    used = dict.fromkeys(each.id for each in ast.walk(tests) if isinstance(each, ast.Name))  # in the order of the tests
    free = [name for name in used if name in wanted - bound and not name.startswith("__")]
    own = [name for name in free if not hasattr(builtins, name) and not _is_standard(name, tests)]
    imported = [name for name in _find_imported(tests) if name not in own]
    if own or imported:
        return (*own, *imported), classes
    called = [
        name
        for name in free
        if any(_name_called(each) == name for each in ast.walk(tests) if isinstance(each, ast.Call))
    ]
    return tuple(called), classes


def _is_standard(name: str, tests: ast.Module) -> bool:
    """Whether a name is a standard module of which an attribute is used, or a standard name."""
    attribute = any(
        isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == name
        for each in ast.walk(tests)
    )
    return (name in MODULES and attribute) or (name in HOMES and name[0].isupper())


def _find_globals(table: symtable.SymbolTable) -> set[str]:
    """Return the global names that are used in a module, its functions and classes, and that it does not bind."""
    used = {each.get_name() for each in table.get_symbols() if each.is_referenced() and each.is_global()}
    for child in table.get_children():
        used |= _find_globals(child)
    if table.get_type() != "module":
        return used
    symbols = table.get_symbols()
    used |= {each.get_name() for each in symbols if each.is_referenced()}
    return used - {
        each.get_name() for each in symbols if each.is_assigned() or each.is_imported() or each.is_namespace()
    }


def _find_bound(tree: ast.Module) -> set[str]:
    """Return the names that a module binds at its top level."""
    symbols = symtable.symtable(ast.unparse(tree), "<prompt>", "exec").get_symbols()
    return {each.get_name() for each in symbols if each.is_assigned() or each.is_imported() or each.is_namespace()}


def _find_imported(tests: ast.Module) -> list[str]:
    """Return the names that tests import from modules that are no standard ones, such as `from solution import f`."""
    return [
        each.name
        for node in ast.walk(tests)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PROGRAM_MODULES
        for each in node.names
        if each.name != "*"
    ]


# How tests of data sets name the module of the program.
PROGRAM_MODULES = ("solution", "program", "main", "submission", "candidate", "answer", "your_module")
