"""Copies of a model for the engines: whole, by batch, under the folder's names."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_model
from transformers import AutoModelForCausalLM

from scalerl_runtime.actors.weight_copies import WeightCopies
from scalerl_runtime.weights.buckets import view
from scalerl_runtime.weights.zero_partitions import full_shape

HOST = torch.device("cpu")
LIMIT = 2**16


class Ranks:
    """Stands in for ZeRO-3's gathering: notes what is gathered at a time."""

    def __init__(self):
        self.batches = []

    @contextmanager
    def gathering(self, parameters):
        self.batches.append([id(p) for p in parameters])
        yield


@pytest.fixture(scope="module", params=["glm4_moe", "gpt2"], ids=["experts and a router's buffer", "tied"])
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    save_model(path, request.param)
    return path


def load(folder: Path):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, WeightCopies(model)


def test_buckets_hold_the_folder(folder: Path) -> None:
    _, copies = load(folder)
    buckets = copies.plan(limit=LIMIT)
    flats = [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in buckets]
    copies.copy(Ranks().gathering, flats)
    found = {e.name: view(flat, e) for b, flat in zip(buckets, flats, strict=True) for e in b.entries}
    disk = load_file(folder / "model.safetensors")
    assert set(found) == set(disk)
    assert all(torch.equal(value, disk[name]) for name, value in found.items())
    assert len(buckets) > 2
    assert all(bucket.num_bytes <= LIMIT or len(bucket.entries) == 1 for bucket in buckets)


def test_ranks_gather_every_parameter_once_and_keep_nothing(folder: Path) -> None:
    """A rank that does not send takes part in each gathering, else the others would wait for ever."""
    model, copies = load(folder)
    flats = [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in copies.plan(limit=LIMIT)]
    sender, other = Ranks(), Ranks()
    copies.copy(sender.gathering, flats)
    copies.copy(other.gathering, None)
    assert sender.batches == other.batches
    assert len(sender.batches) > 2
    assert sorted(p for batch in sender.batches for p in batch) == sorted(id(p) for p in model.parameters())


def test_a_buffer_keeps_its_own_dtype(tmp_path: Path) -> None:
    """A router's bias is float32 in a model of bfloat16; rounding it would change which experts are chosen."""
    save_model(tmp_path, "glm4_moe")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    copies = WeightCopies(model)
    dtypes = {e.name.rpartition(".")[2]: e.dtype for bucket in copies.plan() for e in bucket.entries}
    assert dtypes["e_score_correction_bias"] == "float32"
    assert dtypes["weight"] == "bfloat16"


def test_the_full_shape_is_deepspeeds_where_there_is_one() -> None:
    placeholder = torch.nn.Parameter(torch.empty(0))
    placeholder.ds_shape = torch.Size((3, 5))
    assert full_shape(placeholder) == (3, 5)
    assert full_shape(torch.empty(2)) == (2,)
