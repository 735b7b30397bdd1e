"""Layout rules that no linter checks: what a path promises, sizes, names, what a tracked file may hold.

Which package may import which, and that the pure packages do no I/O even indirectly, are contracts in pyproject.toml.
"""

import ast
import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from scalerl_api.schema import main as generate

ROOT = Path(__file__).parents[1]
SOURCES = ("crds", "operator", "runtime")
MODULES = sorted(path for root in SOURCES for path in (ROOT / root).glob("scalerl_*/**/*.py"))
IDS = [str(path.relative_to(ROOT)) for path in MODULES]
every_module = pytest.mark.parametrize("path", MODULES, ids=IDS)

# Packages that bring a framework, or that change their names often, and the only modules that import them.
KNOWN_ONLY_BY = {
    "ray": {"runtime/scalerl_runtime/actors/fleet.py", "runtime/scalerl_runtime/actors/ray_session.py"},
    "vllm": {
        "runtime/scalerl_runtime/actors/engine_loading.py",  # vLLM's worker process
        "runtime/scalerl_runtime/actors/expert_recorder.py",  # the same
        "runtime/scalerl_runtime/actors/engine/detokenize.py",  # the actor's process
        "runtime/scalerl_runtime/actors/engine/engine_process.py",  # the same
        "runtime/scalerl_runtime/actors/engine/engine_thread.py",  # the same
        "runtime/scalerl_runtime/actors/generator.py",  # the same
        "runtime/scalerl_runtime/actors/thinking_budget.py",  # the worker process
        "runtime/scalerl_runtime/actors/vllm_worker.py",  # the same
        "runtime/scalerl_runtime/models/passed_settings.py",  # the types of its arguments
        "runtime/scalerl_runtime/weights/nccl_sender.py",  # the trainer
    },
    "deepspeed": {
        "runtime/scalerl_runtime/actors/sequence/sequence_group.py",  # its all-to-all
        "runtime/scalerl_runtime/actors/trainer.py",
        "runtime/scalerl_runtime/export/checkpoint_weights.py",  # reads what it has partitioned
        "runtime/scalerl_runtime/models/passed_settings.py",  # the types of its configuration
    },
    "kopf": {"operator/scalerl_operator/controller/watches.py"},
}
# A PURE module needs none of these: files, processes, clocks, chance, the network.
ACTING = {
    "aiohttp",
    "asyncio",
    "os",
    "random",
    "secrets",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
# Two classes of one name, each with the reason.
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def purity_contract() -> dict[str, list[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (entry for entry in contracts if entry["name"] == "pure packages do no I/O")
    return contract


PURE_PACKAGES = {
    f"{'operator' if name.startswith('scalerl_operator') else 'runtime'}/{name.replace('.', '/')}"
    for name in purity_contract()["source_modules"]
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_pure_by_path(path: Path) -> bool:
    return name_of(path.parent) in PURE_PACKAGES


def imported(path: Path) -> Iterator[str]:
    """Top-level names of everything that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def summary(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


@pytest.mark.parametrize("root", SOURCES)
def test_source_root_is_not_a_package(root: str) -> None:
    assert not (ROOT / root / "__init__.py").exists()


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_stdlib_operator_is_not_shadowed() -> None:
    # -S: site hooks may import `operator` early and hide the fault.
    code = "import operator; print(operator.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.startswith(str(ROOT))


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("scalerl_api.schema", "torch numpy ray kopf scalerl_operator scalerl_runtime"),
        ("scalerl_operator.cli.main", "torch ray vllm deepspeed kopf scalerl_runtime numpy scipy aiohttp pydantic"),
        ("scalerl_operator.cli.commands", "torch ray vllm deepspeed kopf scalerl_runtime"),
        ("scalerl_runtime.types", "kopf kubernetes scalerl_operator"),
    ],
)
def test_imports_without(module: str, banned: str) -> None:
    block = f"import sys; sys.modules.update(dict.fromkeys({banned!r}.split())); import {module}"
    subprocess.run([sys.executable, "-c", block], cwd=ROOT, check=True)


def test_pure_packages_are_kept_pure_by_contract() -> None:
    names = {"run", "decide", "resources", "reconcile", "render", "forecast", "capacity"}
    expected = {f"operator/scalerl_operator/{name}" for name in names} | {"runtime/scalerl_runtime/algorithm"}
    assert expected == PURE_PACKAGES
    assert set(purity_contract()["forbidden_modules"]) >= ACTING | {"kopf", "kubernetes", "pathlib"}
    assert "ignore_imports" not in purity_contract()


def test_wheel_has_the_report_template(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "scalerl_operator/render/report.html.j2" in ZipFile(wheel).namelist()


@every_module
def test_module_says_what_its_path_does_not(path: Path) -> None:
    if path.read_text() and path.name != "__init__.py":
        text = summary(path)
        assert text
        assert "I/O" not in text.splitlines()[0] if is_pure_by_path(path) else "PURE" in text or "I/O" in text


@every_module
def test_pure_module_imports_nothing_that_acts(path: Path) -> None:
    if "PURE." in summary(path) or is_pure_by_path(path):
        assert not ACTING & set(imported(path))


@every_module
def test_changing_packages_have_one_home(path: Path) -> None:
    known = {name for name in imported(path) if name in KNOWN_ONLY_BY}
    assert not {name for name in known if name_of(path) not in KNOWN_ONLY_BY[name]}


@pytest.mark.parametrize("package", KNOWN_ONLY_BY)
def test_home_of_a_changing_package_imports_it(package: str) -> None:
    assert {path for path in KNOWN_ONLY_BY[package] if package not in imported(ROOT / path)} == set()


def test_no_package_has_more_than_20_modules() -> None:
    sizes = Counter(name_of(path.parent) for path in MODULES)
    assert {folder: size for folder, size in sizes.items() if size > 20} == {}


def test_class_names_are_unique() -> None:
    names = Counter(
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == set()


# Broad excepts, by module: each is where anything may be raised, and each records what it caught.
BROAD_EXCEPTS = {
    "operator/scalerl_operator/controller/reconciler.py": 1,  # one run's pass; the loop must serve the other runs
    "runtime/scalerl_runtime/actors/engine/engine_thread.py": 2,  # the thread's top; an order's error is its sender's
    "runtime/scalerl_runtime/actors/ray_session.py": 1,  # a Ray node that does not start raises a bare Exception
    "runtime/scalerl_runtime/process/attempt.py": 1,  # the coordinator's top: termination message and exit code
    "runtime/scalerl_runtime/rewards/confined/calls.py": 3,  # a program raises anything: the tests get it, or its text
    "runtime/scalerl_runtime/environments/process.py": 2,  # the process's top: a user's class
    "runtime/scalerl_runtime/rewards/verifier_process.py": 1,  # the verifier process's top: a user's function
    "runtime/scalerl_runtime/trackers/track.py": 1,  # the top of a tracker's thread
    "runtime/scalerl_runtime/trackers/tracing.py": 1,  # the SDK and its plugins read variables of their own
}


def is_broad(handler: ast.ExceptHandler) -> bool:
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(each is None or ast.unparse(each) in ("Exception", "BaseException") for each in types)


@every_module
def test_broad_excepts_are_few(path: Path) -> None:
    handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
    assert len([each for each in handlers if is_broad(each)]) == BROAD_EXCEPTS.get(str(path.relative_to(ROOT)), 0)


@every_module
def test_module_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@every_module
def test_functions_are_short(path: Path) -> None:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTIONS)]
    # By line: two functions of a module may share a name, such as the __init__ of two classes.
    lengths = {(node.lineno, node.name): (node.end_lineno or 0) - node.lineno + 1 for node in found}
    assert {where: length for where, length in lengths.items() if length > 40} == {}


def assigned_from_outside(path: Path) -> Iterator[str]:
    """Every `object.field` that is assigned, `self.field` excepted."""
    for node in ast.walk(ast.parse(path.read_text())):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Attribute) and ast.unparse(each.value) != "self":
                    yield ast.unparse(each)


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name == "loop"], ids=lambda path: path.name)
def test_loop_objects_are_changed_by_their_own_methods(path: Path) -> None:
    own = ("slot.", "self.counters.") if path.name == "pool.py" else ()  # the pool's records; nobody else writes them
    assert [name for name in assigned_from_outside(path) if not name.startswith(own)] == []


def test_generated_files_are_fresh() -> None:
    assert generate(["--check", "--root", str(ROOT)]) == 0, "run `make generate`"


def test_locks_hold_no_address() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert "://" not in path.read_text(), path.name


def test_every_locked_version_is_exact_and_hashed() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        entries = path.read_text().replace("\\\n", " ").splitlines()
        if "override" not in path.name:
            assert [line for line in entries if "==" not in line or "--hash=sha256:" not in line] == []


@pytest.mark.parametrize(
    "pattern",
    [
        r"/(root|home/[a-z]+|work)/",
        r"pypi[.]org|pythonhosted[.]org|proxy[.]golang[.]org|npmjs[.]org|crates[.]io",
    ],
)
def test_no_tracked_file_names_a_machine_or_a_registry(pattern: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    command = ["git", "grep", "-nIE", "--untracked", pattern, "--", ".", ":!tests/test_layout.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


def test_clones_share_packages_but_not_code(tmp_path: Path) -> None:
    if not (ROOT / ".venv/scalerl-setup").exists():
        pytest.skip("scripts/setup made no .venv here")
    if not (ROOT / ".venv/scalerl-setup").read_text().startswith("cpu "):
        pytest.skip(".venv is not the shared kind")
    paths = {}
    for name in ("one", "two"):
        clone = tmp_path / name
        for part in (
            "crds",
            "operator",
            "runtime",
            "requirements",
            "scripts",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ):
            (clone / part).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", ROOT / part, clone / part], check=True)
        environment = {**os.environ, "UV_OFFLINE": "1"}
        subprocess.run([clone / "scripts/setup"], cwd=tmp_path, env=environment, check=True, capture_output=True)
        # A child of a child, as Ray's workers are; from a folder that is no clone.
        code = "import scalerl_api, pydantic; print(scalerl_api.__file__, pydantic.__file__)"
        nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
        done = subprocess.run(
            [clone / ".venv/bin/python", "-c", nested], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        own, paths[name] = done.stdout.split()
        assert own == str(clone / "crds/scalerl_api/__init__.py")
    assert paths["one"] == paths["two"]
