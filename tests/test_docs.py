"""Checks of the documentation: named paths exist, terms are in use, sentences put the subject first."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("crds/scalerl_api", "operator/scalerl_operator", "runtime/scalerl_runtime")
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), ROOT / "charts/scalerl/README.md"]
)
ARCHITECTURE = ROOT / "docs/architecture.md"
QUESTIONS = 10  # a stranger's, each answered by one path

# Files whose sentences are not yet clean, by the start of their path; to be emptied.
UNCLEAN: tuple[str, ...] = ()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=map(name_of, PAGES))


# -- paths and names -------------------------------------------------------------------------------------------------


@cache
def definitions(path: Path) -> frozenset[str]:
    """Return the functions, classes, methods (`Class.method`) and constants that a module defines."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = (each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)))
            found |= {node.name, *(f"{node.name}.{each.name}" for each in methods)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(found)


def find_references(text: str) -> list[tuple[str, str]]:
    """Return (path, name) of each `path.py::name`."""
    return re.findall(r"`([\w./-]+\.py)::([\w.]+)`", text)


@every_page
def test_named_definitions_exist(page: Path) -> None:
    missing = [
        f"{path}::{name}"
        for path, name in find_references(page.read_text())
        if not (ROOT / path).is_file() or name not in definitions(ROOT / path)
    ]
    assert missing == []


@every_page
def test_named_paths_exist(page: Path) -> None:
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*\w\.(?:py|md|yaml|json|toml|txt|html))(?:::[\w.]+)?`", page.read_text())
    roots = [ROOT, *(ROOT / package for package in PACKAGES), ROOT / "charts/scalerl"]
    assert [path for path in named if not is_made(path) and not any((root / path).exists() for root in roots)] == []


@every_page
def test_named_modules_exist(page: Path) -> None:
    """A bare `module.py` is the name of a file somewhere in the repository."""
    names = {path.name for path in list_prose()}
    assert [name for name in re.findall(r"`(\w+\.py)`", page.read_text()) if name not in names] == []


def is_made(path: str) -> bool:
    """Whether the path is one that a run or a user makes, not one of this repository."""
    return path.startswith("runs/") or "RUN" in path


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "", page.read_text())
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_package_has_its_line() -> None:
    text = ARCHITECTURE.read_text()
    folders = {path.parent.relative_to(ROOT / root) for root in PACKAGES for path in (ROOT / root).glob("*/*.py")}
    assert [str(folder) for folder in sorted(folders) if f"\n| `{folder}/` |" not in text] == []
    assert [root for root in PACKAGES if f"`{root}/`" not in text] == []


def test_each_question_has_one_path() -> None:
    rows = re.findall(r"^\| (Where [^|]*\?) \|([^|]*)\|$", ARCHITECTURE.read_text(), re.MULTILINE)
    assert len(rows) == QUESTIONS
    assert [question for question, answer in rows if not re.fullmatch(r"\s*`[^`]+`\s*", answer)] == []


def test_every_walk_names_its_code() -> None:
    walks = re.split(r"^## ", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    steps = {part.splitlines()[0]: len(find_references(part)) for part in walks if part.startswith("Walk ")}
    assert len(steps) == 4
    assert {title: count for title, count in steps.items() if count < 8} == {}


# -- sentences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Who waits lets go.", ["Who waits lets go."]),
        ("It ends. What is left goes.", ["What is left goes."]),
        ("What is left?", []),
        ("Whose turn is it? The next one's.", []),
        ("- a point\n- What remains", ["What remains"]),
        ("| Who acts | when |\n", ["Who acts"]),
        ("The rule says what is right; Whoever.", []),
        ("**What would change our mind.** A law.", ["What would change our mind."]),
    ],
)
def test_openings_are_found(text: str, found: list[str]) -> None:
    assert find_openings(text) == found


def find_openings(text: str) -> list[str]:
    """Return the sentences that open with Who, What or Whose and ask nothing."""
    prose = re.sub(r"^```.*?^```", "\n\n", text, flags=re.MULTILINE | re.DOTALL)
    blocks = re.split(r"\n\s*\n|\n\s*(?:[-*+]|\d+\.|#+|>)\s+|^\s*(?:[-*+]|\d+\.|#+|>)\s+|\||\n(?=#)", prose)
    return [sentence for block in blocks for sentence in open_badly(block)]


def open_badly(block: str) -> Iterator[str]:
    plain = " ".join(re.sub(r"[*_`#]", "", block).split())
    for sentence in re.split(r"(?<=[.?!])\s+", plain):
        if re.match(r"(?:Who|What|Whose)\s", sentence) and not sentence.rstrip("\"')").endswith("?"):
            yield sentence


def comments_of(source: str) -> Iterator[str]:
    """Yield the comments of a Python file; lines that follow each other are one text."""
    lines: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1 and lines:
                yield "\n".join(lines)
                lines = []
            lines.append(token.string.lstrip("#! "))
            last = token.start[0]
    yield "\n".join(lines)


def docstrings_of(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def hash_comments_of(text: str) -> Iterator[str]:
    """Yield the comments of a YAML file, a Makefile, a script, a Dockerfile."""
    yield "\n".join(re.sub(r"^[^#]*$", "", line).strip().partition("#")[2] for line in text.splitlines())


def texts_of(path: Path) -> Iterable[str]:
    text = path.read_text()
    if path.suffix == ".py":
        return [*comments_of(text), *docstrings_of(text)]
    return [text] if path.suffix in (".md", ".txt") else hash_comments_of(text)


def list_prose() -> list[Path]:
    """Return the tracked files that people read."""
    command = [
        "git",
        "ls-files",
        "*.md",
        "*.py",
        "*.yaml",
        "*.tpl",
        "*.txt",
        "Makefile",
        "Dockerfile",
        "scripts",
        ".ci",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    skipped = ("requirements/", "tests/cluster/golden/", "tests/prometheus/recorded/", "tests/cluster/programs/")
    return [ROOT / name for name in done.stdout.split() if not name.startswith(skipped)]


@pytest.mark.parametrize("path", list_prose(), ids=name_of)
def test_no_sentence_opens_like_a_question(path: Path) -> None:
    if name_of(path).startswith(UNCLEAN):
        pytest.skip("not yet clean")
    assert [sentence for text in texts_of(path) for sentence in find_openings(text)] == []


# -- words -----------------------------------------------------------------------------------------------------------

GLOSSARY = ROOT / "docs/glossary.md"
# Where a retired word may stand: the table itself, the list of what was renamed, this test.
MAY_NAME_RETIRED = ("docs/glossary.md", "CHANGELOG.md", "tests/test_docs.py")
# Retired words that are still in use; to be emptied.
STILL_USED: frozenset[str] = frozenset()
FIXED_FIELDS = {"seen", "said"}  # of `status.attempts`: the CRD keeps them


def read_table(heading: str, columns: int) -> list[tuple[str, ...]]:
    part = GLOSSARY.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [tuple(cell.strip(" `") for cell in line.strip("|").split("|")) for line in part.splitlines() if "|" in line]
    assert all(len(row) == columns for row in rows)
    return rows[2:]


TERMS = read_table("Terms", 3)
RETIRED = {row[0]: row[2] for row in read_table("Retired words", 3)}


def find_uses(*arguments: str, pathspec: Iterable[str] = ()) -> list[str]:
    command = ["git", "grep", "-IinE", *arguments, "--", ".", ":!requirements", ":!LICENSE", *pathspec]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def test_terms_are_sorted_out() -> None:
    terms = [row[0] for row in TERMS]
    assert len(set(terms)) == len(terms)
    assert not set(terms) & set(RETIRED)
    assert set(RETIRED.values()) == {"everywhere", "names", "classes", "modules"}
    assert set(RETIRED) >= STILL_USED


@pytest.mark.parametrize("term", [row[0] for row in TERMS])
def test_term_is_used(term: str) -> None:
    pattern = rf"\b{term.replace(' ', '[ _-]?').replace('-', '[ _-]?')}"
    assert find_uses(pattern, pathspec=[":!docs/glossary.md", ":!tests/test_docs.py"])


@pytest.mark.parametrize("word", [word for word, scope in RETIRED.items() if scope == "everywhere"])
def test_retired_word_is_nowhere(word: str) -> None:
    if word in STILL_USED:
        pytest.skip("still in use")
    allowed = [f":!{path}" for path in MAY_NAME_RETIRED]
    assert find_uses(rf"(\b|_){word.replace(' ', '[ _]')}(\b|_)", pathspec=allowed) == []


@cache
def list_names() -> dict[str, dict[str, set[str]]]:
    """Return, by kind of name, the files that use each word of one."""
    found: dict[str, dict[str, set[str]]] = {"names": {}, "classes": {}, "modules": {}}
    for path in list_prose():
        if path.suffix == ".py":
            names = {("modules", path.stem), *names_in(ast.parse(path.read_text()))}
            for kind, word in {(kind, word) for kind, name in names for word in words_of(name)}:
                found[kind].setdefault(word, set()).add(name_of(path))
    return found


def words_of(name: str) -> Iterator[str]:
    return (word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name))


def names_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the names that a module defines; those of tests are sentences, and fields of the CRD are fixed."""
    fields = {each.target for node in ast.walk(tree) for each in fields_of(node)}
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name):
                yield from (("classes", name), ("names", name))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if not name.startswith("test_"):
                yield "names", name
            case ast.Name(id=name, ctx=ast.Store()) if not (name in FIXED_FIELDS and node in fields):
                yield "names", name
            case ast.arg(arg=name):
                yield "names", name
            case ast.Attribute(attr=name, ctx=ast.Store()) if name not in FIXED_FIELDS:
                yield "names", name


def fields_of(node: ast.AST) -> Iterator[ast.AnnAssign]:
    if isinstance(node, ast.ClassDef):
        yield from (each for each in node.body if isinstance(each, ast.AnnAssign))


@pytest.mark.parametrize(("word", "kind"), [(word, kind) for word, kind in RETIRED.items() if kind != "everywhere"])
def test_retired_word_is_no_name(word: str, kind: str) -> None:
    if word in STILL_USED:
        pytest.skip("still in use")
    assert list_names()[kind].get(word, set()) - set(MAY_NAME_RETIRED) == set()
