"""Runs examples/smollm2-135m.yaml with the model from a package: `make real`. I/O.

With --write it copies the curve's picture to docs/images, which README shows.
"""

import argparse
import shutil
import sys
from pathlib import Path

import yaml
from chat_model import chat_model_folder
from run_file import run_file

EXAMPLE = Path("examples/smollm2-135m.yaml")
IMAGE = Path("docs/images/smollm2-135m.png")


def write_run(folder: Path) -> Path:
    """Write the example below `folder` with the package's model as its source; return the file's path."""
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["model"]["source"] = str(chat_model_folder())
    file = folder / f"{document['metadata']['name']}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def main() -> int:
    """Carry out the run; return the exit code of `scalerl run`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"copy the curve to {IMAGE}")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    options = parser.parse_args()
    file = write_run(Path("runs"))
    folder = file.with_suffix("")
    code = run_file(file, *(["--resume"] if options.resume else []))
    if code == 0 and options.write:
        shutil.copyfile(folder / "pass_rate.png", IMAGE)
    return code


if __name__ == "__main__":
    sys.exit(main())
