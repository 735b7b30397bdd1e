"""Which failed starts of an engine are the user's fault, and the field that each blames."""

import logging
import os

import pytest

from scalerl_runtime.actors.engine_errors import (
    ENV_CONFIG,
    ErrorFileHandler,
    build_error,
    find_refusal,
    load_errors,
    record_errors,
)

NEEDED = "To serve at least one request with the model's max seq len (65536), 2 GiB KV cache is needed, which is larger"
GONE = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")


class Refused(ValueError):
    """A class of another process."""


CASES = [
    ([ValueError(NEEDED), GONE], "spec.generator.kvCacheMegabytes", "the cache holds no completion"),
    ([ValueError("No available memory for the cache blocks.")], "spec.generator.kvCacheMegabytes", "no cache at all"),
    ([Refused("max_model_len (9) is greater than the derived")], "spec.recipe.length", "the context is too long"),
    ([ValueError("Total number of attention heads (6) must be divisible")], "spec.generator.gpusPerReplica", "heads"),
    ([ValueError("bfloat16 is not supported")], "spec.model.dtype", "the type"),
    ([NotImplementedError("no such layer"), GONE], "spec.model.source", "an architecture"),
    ([KeyError("layers.0.weight"), GONE], "spec.model.source", "weights of another name"),
    ([GONE], None, "the core is gone, nobody knows why"),
    ([ValueError("Free memory on device cuda:0 (1/80 GiB) on startup is less"), GONE], None, "another's memory"),
    ([RuntimeError("CUDA out of memory"), GONE], None, "memory of a device"),
    ([OSError(98, "Address already in use")], None, "a port"),
    ([], None, "nothing"),
]


@pytest.mark.parametrize(("errors", "field", "rule"), CASES, ids=[case[2] for case in CASES])
def test_the_blamed_field(errors, field, rule):
    found = find_refusal([build_error(error) for error in errors], model="/m", on_cpu=True)
    assert (found.path if found is not None else None) == field, rule
    assert found is None or str(errors[0]).strip("'")[:20] in found.allowed, "the engine's words"


def test_on_devices_the_cache_is_a_share_of_their_memory():
    found = find_refusal([build_error(ValueError(NEEDED))], model="/m", on_cpu=False)
    assert found is not None
    assert found.path == "spec.generator.gpuMemoryShare"


def test_a_logged_exception_is_read_back_in_another_process(tmp_path):
    handler = ErrorFileHandler(str(tmp_path / "errors"))
    logger = logging.Logger("vllm.test")
    logger.addHandler(handler)
    logger.error("without an exception")
    try:
        raise Refused("line one\nline two")
    except Refused:
        logger.exception("EngineCore failed to start.")
    with (tmp_path / "errors").open("a") as file:
        file.write('{"kinds": ["Cut')
    (found,) = load_errors(tmp_path / "errors")
    assert (found.kinds, found.message) == (("Refused", "ValueError", "Exception"), "line one\nline two")
    assert found.is_deterministic


def test_a_configuration_of_the_user_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv(ENV_CONFIG, str(tmp_path / "mine.json"))
    assert record_errors("WARNING") is None
    assert os.environ[ENV_CONFIG] == str(tmp_path / "mine.json")
    assert load_errors(None) == []


def test_a_second_engine_of_a_process_begins_with_no_errors(monkeypatch):
    monkeypatch.delenv(ENV_CONFIG, raising=False)
    first = record_errors("WARNING")
    assert first is not None
    first.write_text("x")
    assert record_errors("WARNING") == first
    assert not first.exists()
