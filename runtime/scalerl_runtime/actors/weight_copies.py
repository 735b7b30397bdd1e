"""Copies of a trained model for the engines, in buckets, under the names of its folder. PURE."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from scalerl_runtime.models.adapters import engine_names
from scalerl_runtime.models.weight_names import (
    TensorShape,
    WeightGroup,
    batch_groups,
    convert_group,
    named_weights,
    plan_groups,
)
from scalerl_runtime.weights.buckets import BUCKET_BYTES, WeightBucket, plan_buckets, view
from scalerl_runtime.weights.zero_partitions import Gathering, full_shape

Put = Callable[[Tensor, Tensor], object]  # (place, value): stores the value


class WeightCopies:
    """A rank's model as it leaves the trainer.

    Groups are gathered in batches, so that under ZeRO-3 a device holds one batch beside its own share of the model.
    """

    def __init__(self, model: nn.Module):
        """Note the model's tensors. Call it on the loaded model, before a module is replaced or a tensor moves."""
        self._model = model
        held = named_weights(model)
        self._parameters = {name: t for name, t in held.items() if isinstance(t, nn.Parameter)}
        self._buffers = [name for name in held if name not in self._parameters]
        self._batches: tuple[tuple[tuple[WeightGroup, ...], tuple[WeightBucket, ...]], ...] = ()

    def plan(self, *, limit: int = BUCKET_BYTES) -> tuple[WeightBucket, ...]:
        """Lay the tensors out in buckets of `limit` bytes, once dtypes and shares are final; return the layout."""
        shapes = [
            TensorShape(name, str(tensor.dtype).removeprefix("torch."), full_shape(tensor))
            for name, tensor in self.tensors().items()
        ]
        batches = []
        for groups in batch_groups(plan_groups(self._model, shapes), limit=limit):
            targets = [target for group in groups for target in group.targets]
            buckets = plan_buckets(((t.name, t.dtype, t.shape, t.item_bytes) for t in targets), limit=limit)
            batches.append((groups, buckets))
        self._batches = tuple(batches)
        return self.buckets

    @property
    def buckets(self) -> tuple[WeightBucket, ...]:
        """The layout of one copy."""
        return tuple(bucket for _, buckets in self._batches for bucket in buckets)

    def copy(self, gathering: Gathering, flats: Sequence[Tensor] | None, put: Put = Tensor.copy_) -> None:
        """Copy the weights into `flats`, the bytes of every bucket in order; None on ranks that only gather.

        `put` stores each tensor, in the order of the buckets' entries.
        """
        rest = iter(flats or ())
        for groups, buckets in self._batches:
            with self._gathered(groups, gathering) as values:
                if flats is None:
                    continue
                places = [view(flat, entry) for b, flat in zip(buckets, rest, strict=False) for entry in b.entries]
                for place, tensor in zip(places, self._convert(groups, values), strict=True):
                    put(place, tensor)

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and persistent buffers by their name in the model, a tied one once.

        Buffers are looked up: moving a model to a device replaces them.
        """
        return {**self._parameters, **{name: self._model.get_buffer(name) for name in self._buffers}}

    def _convert(self, groups: Sequence[WeightGroup], values: Mapping[str, Tensor]) -> Iterator[Tensor]:
        for group in groups:
            yield from convert_group(self._model, group, values)

    @contextmanager
    def _gathered(self, groups: Sequence[WeightGroup], gathering: Gathering) -> Iterator[dict[str, Tensor]]:
        """The groups' tensors, with their full values."""
        held = self.tensors()
        tensors = {name: held[name] for group in groups for name in group.sources}
        with gathering([t for t in tensors.values() if isinstance(t, nn.Parameter)]):
            yield {name: tensor.detach() for name, tensor in tensors.items()}


class AdapterCopies:
    """The same of a model's adapters alone, under the engine's names."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]):
        """Note the adapters `parameters` of `model`, by their names in it."""
        self._parameters = dict(parameters)
        self._names = engine_names(model, parameters)
        self.buckets: tuple[WeightBucket, ...] = ()

    def plan(self, *, limit: int = BUCKET_BYTES) -> tuple[WeightBucket, ...]:
        """See `WeightCopies.plan`."""
        self.buckets = plan_buckets(
            (
                (self._names[name], str(p.dtype).removeprefix("torch."), full_shape(p), p.dtype.itemsize)
                for name, p in self._parameters.items()
            ),
            limit=limit,
        )
        return self.buckets

    def tensors(self) -> dict[str, Tensor]:
        """Return the adapters' parameters by their name in the model: all that a checkpoint stores."""
        return dict(self._parameters)

    def copy(self, gathering: Gathering, flats: Sequence[Tensor] | None, put: Put = Tensor.copy_) -> None:
        """See `WeightCopies.copy`."""
        rest = iter(self._parameters.values())
        for place, bucket in enumerate(self.buckets):
            parameters = [next(rest) for _ in bucket.entries]
            with gathering(parameters):
                if flats is None:
                    continue
                for entry, parameter in zip(bucket.entries, parameters, strict=True):
                    put(view(flats[place], entry), parameter.detach())


def count_parameters(model: nn.Module) -> int:
    """Return the number of values of all parameters; a tied one counts once."""
    return sum(int(torch.Size(full_shape(parameter)).numel()) for parameter in model.parameters())
