"""Memory of a trainer rank and of an engine's rank, by part.

P is the number of parameters, R of ranks, h the model's width. `bench/runtime/plan_memory.py` compares the sums with
counted allocations.
"""

from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_operator.capacity.model_shape import ModelShape

HEAD_LOGITS_BYTES = 128 * 2**20  # the head's piece of float32 logits; the same number again of their exponentials
BUCKET_BYTES = 4 * 500_000_000  # DeepSeek's bucket of 5e8 gradients, float32


@dataclass(frozen=True)
class Part:
    """A part of a process's memory."""

    name: str
    num_bytes: float
    note: str = ""


@dataclass(frozen=True)
class RankMemory:
    """Memory of one process, by part."""

    role: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(part.num_bytes for part in self.parts)


def trainer_memory(shape: ModelShape, run: RLRun, *, is_first: bool) -> RankMemory:
    """Return the memory of a trainer rank on its device; the first rank holds the copy for the generators too."""
    trainer, item = run.spec.trainer, item_bytes(run)
    shares = trainer.ranks
    weights = item * shape.parameters / (shares if trainer.zero_stage == 3 else 1)
    parts = [Part("weights", weights)]
    parts.append(Part("float32 sums of gradients", 4 * shape.parameters / shares))
    parts.append(Part("optimizer", 12 * shape.parameters / shares))
    if is_first:
        parts.append(Part("copy for the generators", item * shape.parameters))
    return RankMemory("trainer rank 0" if is_first else "trainer rank", tuple(parts))


def item_bytes(run: RLRun) -> int:
    """Bytes of a weight: 2 in bfloat16, 4 in float32."""
    return 2 if run.spec.model.dtype == "bfloat16" else 4
