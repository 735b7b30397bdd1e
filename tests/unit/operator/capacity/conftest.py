"""The paper's 8B run and its device."""

from pathlib import Path

import pytest
import yaml

from scalerl_api import parse_run
from scalerl_operator.capacity.devices import find_device
from scalerl_operator.capacity.lengths import assume_lengths
from scalerl_operator.capacity.model_shape import parse_model
from scalerl_operator.capacity.published_models import find_published
from scalerl_operator.capacity.run_time import TimeBasis
from scalerl_operator.capacity.trainer_speed import find_flops_share
from scalerl_operator.capacity.work import measure_work

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="session")
def example():
    """Return the document of an example by its name, changed by the paths and values that are given."""

    def load(name="qwen3-8b-math", **changes):
        document = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = document["spec"]
            for each in parents:
                place = place.setdefault(each, {})
            place[last] = value
        return document

    return load


@pytest.fixture(scope="session")
def paper_run(example):
    return lambda **changes: parse_run(example(**changes))


@pytest.fixture(scope="session")
def work_of():
    return lambda name: measure_work(parse_model(find_published(name), name))


@pytest.fixture(scope="session")
def basis(paper_run):
    def build(**values):
        lengths = assume_lengths(paper_run().spec.resolved_recipe().length)
        return TimeBasis(**({"lengths": lengths, "flops_share": find_flops_share("H100", has_experts=False)} | values))

    return build


@pytest.fixture(scope="session")
def h100():
    return find_device("H100")
