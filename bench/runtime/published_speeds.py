"""The formulas of `scalerl plan` against published measurements: `bench/runtime/published_speeds.py`. I/O.

The rows, and who published each, are in `published_speeds.yaml`.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from scalerl_api import parse_run
from scalerl_api.recipe import Length
from scalerl_operator.capacity.devices import find_device
from scalerl_operator.capacity.engine_speed import EngineSpeed
from scalerl_operator.capacity.lengths import Lengths, assume_lengths
from scalerl_operator.capacity.model_shape import parse_model
from scalerl_operator.capacity.run_time import TimeBasis, time_run
from scalerl_operator.capacity.schedule import Supply, drain_seconds
from scalerl_operator.capacity.trainer_speed import (
    LINK_SHARE,
    TrainerSpeed,
    find_flops_share,
    time_training,
)
from scalerl_operator.capacity.work import ModelWork, measure_work

FILE = Path(__file__).with_suffix(".yaml")
EXAMPLE = Path("examples/qwen3-8b-math.yaml")
Row = Mapping[str, Any]


def predict_decode(row: Row, work: ModelWork) -> float:
    """Return milliseconds between two tokens."""
    completion = row["completion"]
    lengths = spread_lengths(completion, row["prompt"], limit=int(4 * completion))
    return 1e3 * build_engine(work, row["gpus"], lengths).step_seconds(row["running"])


def predict_train(row: Row, work: ModelWork) -> float:
    """Return tokens a second of one GPU."""
    lengths = Lengths((float(row["length"]),), 0.0, "")
    sequences = row["gpus"] * row["accumulate"] * row["tokens"] / row["length"]
    # Selective recomputation computes every second product again: half way between none and all.
    kinds = ["checkpoint", "keep"] if row["activations"] == "selective" else [row["activations"]]
    times = [time_training(build_trainer({**row, "activations": each}, work), lengths, sequences) for each in kinds]
    seconds = sum(each.seconds for each in times) / len(times)
    return times[0].tokens / seconds / float(row["gpus"])


def predict_step(row: Row, work: ModelWork) -> float:
    """Return the seconds of sampling, of one forward, and of training, one after the other."""
    lengths = spread_lengths(row["sequence"] - row["prompt"], row["prompt"], limit=row["limit"] - row["prompt"])
    engine = build_engine(work, row["tensor_parallel"], lengths)
    supply = Supply(row["gpus"] // row["tensor_parallel"], 1e9, engine.step_seconds, 1.0)
    speed = build_trainer({"device": "H100", "activations": "keep", "tokens": 16_384, **row}, work)
    train = time_training(speed, lengths, row["sequences"])
    forward = train.compute / 3
    return drain_seconds(lengths, row["sequences"], supply) + forward + train.seconds


def predict_push(row: Row, work: ModelWork) -> float:  # noqa: ARG001 # the table's protocol
    """Return the seconds of a broadcast."""
    return work.parameters * 2 / (find_device("H100").network_bandwidth * LINK_SHARE)


def predict_run(row: Row, work: ModelWork) -> float:
    """Return the seconds of the example's step on another device."""
    run = parse_run(yaml.safe_load(EXAMPLE.read_text()))
    lengths = assume_lengths(run.spec.resolved_recipe().length)
    basis = TimeBasis(lengths, find_flops_share(row["device"], has_experts=False))
    return time_run(run, work, find_device(row["device"]), basis).step.seconds


def spread_lengths(mean: float, prompt: float, *, limit: int) -> Lengths:
    """Return the assumed distribution with these numbers."""
    found = assume_lengths(Length(control="none", think_tokens=limit - 1, answer_tokens=1), mean_tokens=mean)
    return Lengths(found.grid, prompt, "")


def build_engine(work: ModelWork, gpus: int, lengths: Lengths) -> EngineSpeed:
    """Return an engine on H100."""
    device = find_device("H100")
    return EngineSpeed(
        work=work,
        gpus=gpus,
        flops=device.bf16_flops,
        bandwidth=device.memory_bandwidth,
        weight_bytes=2,
        head_bytes=2,
        kv_bytes=2,
        lengths=lengths,
    )


def build_trainer(row: Row, work: ModelWork) -> TrainerSpeed:
    """Return a trainer that shards everything, as FSDP does."""
    device, gpus = find_device(row["device"]), row["gpus"]
    return TrainerSpeed(
        work=work,
        ranks=gpus,
        flops=device.bf16_flops,
        share=find_flops_share(device.name, has_experts=work.experts is not None),
        memory_bandwidth=device.memory_bandwidth,
        link_bandwidth=device.link_bandwidth if gpus <= device.gpus_per_node else device.network_bandwidth,
        weight_bytes=2,
        zero_stage=3,
        micro_batch_tokens=row["tokens"],
        activations=row["activations"],
    )


TABLES: dict[str, tuple[str, Callable[[Row, ModelWork], float]]] = {
    "decode": ("ms", predict_decode),
    "train": ("rate", predict_train),
    "step": ("seconds", predict_step),
    "push": ("seconds", predict_push),
    "run": ("seconds", predict_run),
}
TITLES = {"ms": "ms a token", "rate": "tokens/s a GPU", "seconds": "s"}


def compare(kind: str | None = None) -> Iterator[tuple[str, Row, float, float]]:
    """Yield kind, row, published and predicted value of every row."""
    document = yaml.safe_load(FILE.read_text())
    works = {name: measure_work(parse_model(config, name)) for name, config in document["models"].items()}
    for name, (column, predict) in TABLES.items():
        if kind in (None, name):
            for row in document[name]:
                yield name, row, float(row[column]), predict(row, works[row["model"]])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(TABLES))
    print(f"| source | model | setting | published | formula | miss | |\n|{'---|' * 7}")
    hidden = {"source", "model", "used", "ms", "rate", "seconds"}
    for kind, row, published, predicted in compare(parser.parse_args().kind):
        setting = ", ".join(f"{key} {value}" for key, value in row.items() if key not in hidden)
        unit = TITLES[TABLES[kind][0]]
        used = "fitted" if row.get("used") == "fit" else "check"
        miss = f"{predicted / published - 1:+.0%}"
        cells = (row["source"], row["model"], setting, f"{published:g} {unit}", f"{predicted:.4g}", miss, used)
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
