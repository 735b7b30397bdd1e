import base64
import json
import pickle
import zlib

import pytest

from scalerl_runtime.rewards.compressed_tests import decompress_tests

TESTS = json.dumps([{"input": "1\n", "output": "é\n"}])


def pack(content: bytes, level: int = -1) -> str:
    return base64.b64encode(zlib.compress(content, level)).decode()


class Evil:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return (print, ("called",))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_a_pickled_text_is_read(protocol, level):
    assert decompress_tests(pack(pickle.dumps(TESTS, protocol), level)) == TESTS


def test_text_without_a_pickle_is_read():
    assert decompress_tests(pack(TESTS.encode())) == TESTS


@pytest.mark.parametrize("text", ["", TESTS, "assert add(1, 2) == 3", "eJust some words", "eJ", "1"])
def test_other_columns_are_none(text):
    assert decompress_tests(text) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Evil(), "GLOBAL"),
        ([TESTS], "a text alone is read"),
        ({"a": TESTS}, "a text alone is read"),
        (7, "a text alone is read"),
        (b"bytes", "a text alone is read"),
    ],
)
def test_a_pickle_of_anything_else_is_refused_and_never_run(value, message, capsys):
    with pytest.raises(ValueError, match=message):
        decompress_tests(pack(pickle.dumps(value)))
    assert capsys.readouterr().out == ""


def test_damaged_tests_are_refused():
    whole = pack(pickle.dumps(TESTS * 50))
    with pytest.raises(ValueError, match="cut off"):
        decompress_tests(whole[: len(whole) // 8 * 4])
