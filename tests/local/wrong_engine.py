"""The real coordinator with an engine whose log-probabilities are made up: `python wrong_engine.py stand-in`."""

import sys

from stand_in_generator import StandInGenerator

from scalerl_runtime import __main__ as entry
from scalerl_runtime.actors import fleet

fleet.Generator = StandInGenerator  # type: ignore[misc,assignment,attr-defined]

if __name__ == "__main__":
    sys.argv = [sys.argv[0], "coordinator"]
    sys.exit(entry.main())
