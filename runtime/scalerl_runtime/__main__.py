"""`python -m scalerl_runtime leader`: the entry point of every process that an actuator starts. I/O."""

import argparse
import asyncio
import logging
import os
import sys


def main() -> int:
    """Run the role that the command line names; return the exit code of the wire."""
    parser = argparse.ArgumentParser(prog="python -m scalerl_runtime", description="A process of an RLRun.")
    parser.add_argument("role", choices=["leader"], help="leader: drives the run; the others are Ray's")
    parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from scalerl_runtime.attempt import lead

    return asyncio.run(lead(os.environ))


if __name__ == "__main__":
    sys.exit(main())
