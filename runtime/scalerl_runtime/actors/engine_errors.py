"""Why an engine did not start: the exceptions of vLLM's own processes, and the field that each blames. I/O on one file.

The engine's core is a process of its own, and its parent learns only that it ended. vLLM's logging takes a
configuration file in every process: a handler there stores each logged exception.
"""

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scalerl_api.validation import Fault
from scalerl_runtime.hub import first_line

ENV_CONFIG = "VLLM_LOGGING_CONFIG_PATH"
FOLDER_PREFIX = "scalerl-engine-"
# A content of config, model or arguments that no later start changes. Errors of devices, sockets and memory are
# RuntimeError or OSError, and are not among them.
DETERMINISTIC = frozenset(
    {
        "AssertionError",
        "AttributeError",
        "ImportError",
        "KeyError",
        "IndexError",
        "NotImplementedError",
        "TypeError",
        "ValueError",
    }
)
# vLLM raises ValueError for a device whose memory another process holds now.
TRANSIENT_WORDS = ("free memory on device", "out of memory", "address already in use")
CACHE_WORDS = ("kv cache", "cache blocks")
LENGTH_WORDS = ("max_model_len", "max seq len", "max_num_batched_tokens")
DTYPE_WORDS = ("dtype", "bfloat16", "float16")
PARALLEL_WORDS = ("tensor parallel", "tensor_parallel", "attention heads", "divisible by")


@dataclass(frozen=True)
class EngineError:
    """An exception in one of the engine's processes."""

    kinds: tuple[str, ...]  # names of its class and bases, the class first
    message: str

    @property
    def is_deterministic(self) -> bool:
        """Whether every later start would fail in the same way."""
        text = self.message.lower()
        return not DETERMINISTIC.isdisjoint(self.kinds) and not any(words in text for words in TRANSIENT_WORDS)


class ErrorFileHandler(logging.Handler):
    """Appends the exception of every log record that has one to a file, as one line of JSON."""

    def __init__(self, path: str):
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Store the record's exception. A file that cannot be written loses it: the log still has the record."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(build_error(error))) + "\n")
        except OSError:
            self.handleError(record)


def build_error(error: BaseException) -> EngineError:
    """Return `error` by the names of its classes, as other processes have classes that this one lacks."""
    return EngineError(tuple(kind.__name__ for kind in type(error).__mro__[:-2]), str(error))


def record_errors(level: str) -> Path | None:
    """Make the engine's processes store their exceptions; return the file, None if the user configures vLLM's log.

    Call it before vLLM is imported. A second engine of this process has the first one's file, emptied.
    """
    folder = Path(os.environ.get(ENV_CONFIG, "")).parent
    if ENV_CONFIG not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    elif not folder.name.startswith(FOLDER_PREFIX):
        return None
    errors, config = folder / "errors.jsonl", folder / "logging.json"
    errors.unlink(missing_ok=True)
    config.write_text(json.dumps(_build_logging(level, errors)))
    os.environ[ENV_CONFIG] = str(config)
    return errors


def _build_logging(level: str, errors: Path) -> dict[str, object]:
    """vLLM's own default, with one more handler."""
    text = "%(levelname)s %(asctime)s [%(name)s:%(lineno)d] %(message)s"
    stream = {"class": "logging.StreamHandler", "formatter": "text", "level": level, "stream": "ext://sys.stdout"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"text": {"format": text}},
        "handlers": {
            "stream": stream,
            "errors": {"()": f"{__name__}.{ErrorFileHandler.__name__}", "path": str(errors)},
        },
        "loggers": {"vllm": {"handlers": ["stream", "errors"], "level": level, "propagate": False}},
    }


def load_errors(path: Path | None) -> list[EngineError]:
    """Return the stored exceptions, oldest first; unreadable lines are left out."""
    if path is None or not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            fields = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        found.append(EngineError(tuple(fields["kinds"]), str(fields["message"])))
    return found


def find_refusal(errors: Sequence[EngineError], *, model: str, on_cpu: bool) -> Fault | None:
    """Return the fault of a start that ended with `errors`, the cause first; None: the machine's, to be tried again.

    One error that may pass makes the start worth a repetition: later ones often follow from it.
    """
    if not errors or not all(each.is_deterministic for each in errors if "RuntimeError" not in each.kinds):
        return None
    cause = next((each for each in errors if each.is_deterministic), None)
    if cause is None:
        return None
    kind, text = cause.kinds[0], cause.message.lower()
    words = f"vLLM does not start: {kind}: {_shorten(cause.message)}"
    if any(each in text for each in CACHE_WORDS):
        field = "spec.generator.kvCacheMegabytes" if on_cpu else "spec.generator.gpuMemoryShare"
        return Fault(field, "too small", f"room for one completion, or shorter recipe.length.*Tokens; {words}")
    if any(each in text for each in LENGTH_WORDS):
        return Fault(
            "spec.recipe.length", "promptTokens + thinkTokens + answerTokens", f"what the model takes; {words}"
        )
    if any(each in text for each in PARALLEL_WORDS):
        return Fault("spec.generator.gpusPerReplica", "tensor parallel size", f"one that the model takes; {words}")
    if any(each in text for each in DTYPE_WORDS):
        return Fault("spec.model.dtype", f"of {model}", f"one that the engine takes; {words}")
    return Fault("spec.model.source", model, f"a model that the engine can serve; {words}")


def _shorten(text: str) -> str:
    return first_line(" ".join(text.split()), 500)
