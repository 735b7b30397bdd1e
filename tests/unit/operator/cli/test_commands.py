"""Where `scalerl` looks up runs: on this machine or on a cluster."""

import pytest

from scalerl_operator.cli.commands import choose_location
from scalerl_operator.cli.exit_codes import UsageError
from scalerl_operator.cli.parser import parse_arguments

RULES = [
    ("status", "machine", "without a name or a place: the runs of this machine"),
    ("status tiny", "either", "a name alone: this machine's, else the cluster's"),
    ("status -n research", "cluster", "a namespace is a cluster's"),
    ("status tiny -n research", "cluster", "also with a name that this machine may have"),
    ("status -A", "cluster", "all namespaces are a cluster's"),
    ("status --context dev", "cluster", "a context names a cluster"),
    ("status tiny --runs runs", "machine", "a folder of runs is this machine's"),
    ("report tiny", "either", "a report's name"),
    ("report tiny --context dev", "cluster", "a report by context"),
    ("logs tiny", "either", "a log's name"),
    ("logs tiny -n x --follow --role generator --index 3", "cluster", "a pod's log"),
]


@pytest.mark.parametrize(("line", "wanted"), [row[:2] for row in RULES], ids=[row[2] for row in RULES])
def test_options_choose_the_location(line: str, wanted: str) -> None:
    assert choose_location(parse_arguments(line.split())) == wanted


CONTRADICTIONS = [
    ("status tiny -n research --runs runs", "choose one"),
    ("logs tiny --context dev --runs runs", "choose one"),
    ("status -A --runs runs", "choose one"),
    ("status tiny -A", "no name"),
    ("status -A -n research", "no -n"),
]


@pytest.mark.parametrize(("line", "why"), CONTRADICTIONS)
def test_contradicting_options_are_refused(line: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        choose_location(parse_arguments(line.split()))
