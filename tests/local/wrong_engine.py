"""The real coordinator with a wrong engine: `python wrong_engine.py stand-in|second-update`."""

import functools
import sys

from stand_in_generator import StandInGenerator

from scalerl_runtime import __main__ as entry
from scalerl_runtime.actors import fleet, options

if sys.argv[1] == "stand-in":  # its log-probabilities are made up: wrong from the first update on
    fleet.Generator = StandInGenerator  # type: ignore[misc,assignment,attr-defined]
else:
    options.EngineOptions = functools.partial(  # type: ignore[misc,assignment]
        options.EngineOptions, worker_extension="wrong_worker.WrongWorker"
    )

if __name__ == "__main__":
    sys.argv = [sys.argv[0], "coordinator"]
    sys.exit(entry.main())
