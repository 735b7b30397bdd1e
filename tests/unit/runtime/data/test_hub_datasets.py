import pytest

from scalerl_api.data import DatasetSpec
from scalerl_runtime.data.hub_datasets import find_name_fault

MISSING = (
    "Config name is missing.\nPlease pick one among the available configs: ['main', 'socratic']\nExample of usage:"
)
UNKNOWN = "BuilderConfig 'mian' not found. Available: ['main', 'socratic']"


@pytest.mark.parametrize(
    ("config", "error", "fault"),
    [
        (None, MISSING, "x.config: missing, a configuration of openai/gsm8k: main, socratic"),
        ("mian", UNKNOWN, "x.config: mian, a configuration of openai/gsm8k: main, socratic"),
        (
            None,
            "Unknown split \"dev\". Should be one of ['train', 'test'].",
            "x.split: dev, a split of openai/gsm8k: train, test",
        ),
        (None, "Dataset not found", None),
    ],
)
def test_the_hubs_names_are_listed(config, error, fault):
    found = find_name_fault(DatasetSpec(source="openai/gsm8k", config=config, split="dev"), "x", ValueError(error))
    assert (None if found is None else str(found)) == fault
