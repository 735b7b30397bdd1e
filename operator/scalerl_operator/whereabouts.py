"""Whether a command is about a run of this machine or of a cluster: one rule for status, report and logs. PURE."""

import argparse
from typing import Literal

from scalerl_operator.cli.exit_codes import UsageError

Whereabouts = Literal["cluster", "machine", "either"]


def choose_whereabouts(options: argparse.Namespace) -> Whereabouts:
    """Return where `options` ask to look. Raises UsageError for those that exclude each other.

    `either`: on this machine if it has such a run, else on the cluster that kubectl would use.
    """
    all_namespaces = getattr(options, "all_namespaces", False)
    named = options.namespace is not None or options.context is not None or all_namespaces
    if named and options.runs is not None:
        raise UsageError("--runs is about this machine, -n, -A and --context are about a cluster: choose one")
    if all_namespaces and (options.namespace is not None or options.target is not None):
        raise UsageError("-A is about all runs of all namespaces: no name and no -n with it")
    if named:
        return "cluster"
    return "machine" if options.runs is not None or options.target is None else "either"
