"""Prepares a program: standard names without an import, a completion of a prompt. I/O, standard library only."""

import ast
import importlib
import re
import sys
import textwrap

from scalerl_runtime.rewards.confined.standard_names import BOTH, HOMES, MODULES


def bind_standard_names(namespace: dict[str, object], text: str) -> None:
    """Bind the standard modules and names that `text` mentions; what it imports or defines itself replaces them."""
    words = set(re.findall(r"[A-Za-z_]\w*", text))
    for name in words & {"exit", "quit"}:  # the interpreter binds them only where it looks for installed packages
        namespace[name] = sys.exit
    for name in words & HOMES.keys():
        namespace[name] = getattr(importlib.import_module(HOMES[name]), name)
    for name in words & MODULES:
        if name != BOTH or re.search(rf"\b{name}\.", text):
            namespace[name] = importlib.import_module(name)


def complete_program(program: str, prompt: str, entry: str) -> tuple[str, str]:
    """Return what runs before the program, and the program: with the prompt's start, if it is only a function's body.

    Args:
        program: what the model wrote: the function, or what follows the prompt.
        prompt: Python that ends with the head of the function `entry`; empty without one.
        entry: name of the function.

    """
    if not prompt or defines(program, entry):
        return find_head(prompt, entry), program
    stripped = prompt.rstrip() + "\n"
    bodies = (program, "    " + program, textwrap.indent(program, "    "))  # a stripped answer lacks its indentation
    for whole in (*_continue_line(prompt, program), *(stripped + body for body in bodies)):
        if defines(whole, entry):
            return "", whole
    return find_head(prompt, entry), program


def _continue_line(prompt: str, program: str) -> tuple[str, ...]:
    """The program in the line that the prompt has begun, such as `return`; none if that line is over or a comment."""
    begun = prompt.rstrip(" \t")
    if begun.endswith("\n") or "#" in begun.rpartition("\n")[2]:
        return ()
    return (f"{begun} {program}", f"{begun}{program}")


def defines(program: str, name: str) -> bool:
    """Return whether the program compiles and binds the name at its top level, to more than a docstring."""
    try:
        compile(program, "<program>", "exec")  # unlike the parser, it refuses a `return` outside of a function
        body = ast.parse(program).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return any(name in _find_bound(each) for each in body)


def _find_bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        has_docstring = ast.get_docstring(statement) is not None
        return [statement.name] if len(statement.body) > has_docstring else []
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [each.asname or each.name for each in statement.names]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [each.id for each in targets if isinstance(each, ast.Name)]


def find_head(prompt: str, entry: str) -> str:
    """Return the prompt's imports and helpers, without the function that it asks for."""
    try:
        tree = ast.parse(prompt)
    except SyntaxError:
        return ""
    tree.body = [each for each in tree.body if not (isinstance(each, ast.FunctionDef) and each.name == entry)]
    return ast.unparse(tree)
