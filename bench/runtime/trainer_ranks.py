"""Starts a trainer of one rank in this process, and reads the weights that engines would get. I/O."""

import socket

from torch import Tensor

from scalerl_runtime.actors.trainer import Trainer, TrainerOptions
from scalerl_runtime.weights.buckets import view


def start_alone(options: TrainerOptions) -> Trainer:
    """Return a trainer of one rank that has loaded its model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    trainer = Trainer(options, 0, 1)
    trainer.start("127.0.0.1", port)
    return trainer


def staged_weights(trainer: Trainer) -> dict[str, Tensor]:
    """Return the weights as engines get them; empty on other ranks than 0. Every rank calls it."""
    staged = trainer.stage_weights(reuse=True)
    if trainer.rank:
        return {}
    return {
        entry.name: view(flat, entry).clone()
        for bucket, flat in zip(staged.buckets, trainer._staged.flats, strict=True)
        for entry in bucket.entries
    }
