"""Loads one YAML document; a duplicate key is an error. I/O."""

from pathlib import Path

import yaml

from scalerl_api import Fault, InvalidRun


def load_document(path: Path) -> object:
    """Return the YAML document in `path`. Raises InvalidRun that names the file and the line."""
    try:
        return parse_document(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InvalidRun(
            [Fault(str(path), error.strerror or "unreadable", "a readable YAML file is needed")]
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidRun([Fault(str(path), f"byte {error.start} is not UTF-8", "a YAML file in UTF-8")]) from error


def parse_document(text: str, name: str) -> object:
    """Return the one YAML document in `text`. Raises InvalidRun that names `name` and the line."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise InvalidRun([Fault(position, problem or "not YAML", "one YAML document is needed")]) from error
    except yaml.YAMLError as error:
        raise InvalidRun([Fault(name, str(error).splitlines()[0], "one YAML document is needed")]) from error


class _StrictLoader(yaml.SafeLoader):
    """Refuses duplicate keys, as YAML does; the library silently keeps the last one, and half a spec is lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """Build one mapping. Raises ConstructorError at a duplicate key."""
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in known:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} is set twice", key.start_mark
                    )
                known.add(key.value)
        return dict(super().construct_mapping(node, deep))
