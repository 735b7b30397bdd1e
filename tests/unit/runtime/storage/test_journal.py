import pytest

from scalerl_runtime.storage.journal import Journal


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "steps.jsonl")


def test_lines_are_read_in_order(journal):
    assert list(journal.read()) == [], "no file yet"
    journal.append({"step": 1})
    journal.append({"step": 2, "text": "a\nb"})
    assert list(journal.read()) == [{"step": 1}, {"step": 2, "text": "a\nb"}]
    assert journal.path.read_bytes() == b'{"step": 1}\n{"step": 2, "text": "a\\nb"}\n'


def test_a_line_that_a_kill_cut_short_is_ignored(journal):
    journal.path.write_bytes(b'{"step": 1}\n{"st')
    assert list(journal.read()) == [{"step": 1}]


@pytest.mark.parametrize(
    ("lines", "kept", "rule"),
    [
        (2, b'{"a": 1}\n{"a": 2}\n', "later lines belong to steps that are done again"),
        (9, b'{"a": 1}\n{"a": 2}\n{"a": 3}\n', "fewer lines than that: the torn one goes all the same"),
        (0, b"", "nothing belongs to the state"),
    ],
)
def test_truncate_keeps_the_first_lines(journal, lines, kept, rule):
    journal.path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a"')
    journal.truncate(lines)
    assert journal.path.read_bytes() == kept, rule


def test_truncate_without_a_file_does_nothing(journal):
    journal.truncate(3)
    assert not journal.path.exists()


def test_line_after_one_that_was_cut_short_can_be_read(journal):
    journal.path.write_bytes(b'{"step": 1}\n{"st')
    journal.append({"step": 2})
    assert list(journal.read()) == [{"step": 1}, {"step": 2}]
