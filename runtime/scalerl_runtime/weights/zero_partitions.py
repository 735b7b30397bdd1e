"""A rank's share of weights and AdamW's moments, in the flat partitions of DeepSpeed's ZeRO. PURE.

The only module that knows how these partitions are laid out. At stages 1 and 2 the parameters of a group lie end to
end, and every rank holds an equal run of that; at stage 3 every rank holds an equal run of each parameter.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Gathering = Callable[[Sequence[nn.Parameter]], AbstractContextManager[Any]]  # within it parameters have their values

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class ParameterSpan:
    """A run of a parameter's values in a partition."""

    name: str
    numel: int
    """Of the whole parameter."""
    start: int
    """Index of the first value in the parameter."""
    place: int
    """Index of the first value in the partition."""
    length: int
    """At least 1."""


@dataclass(frozen=True)
class Partition:
    """A flat float32 tensor of master weights, and the parameters that lie in it; the rest of it is padding."""

    masters: Tensor
    spans: tuple[ParameterSpan, ...]


class ZeroState:
    """The state of a DeepSpeed optimizer of stage 1, 2 or 3."""

    def __init__(self, optimizer: Any, names: Mapping[nn.Parameter, str]):
        """`names`: name of every parameter that is trained. Raises RuntimeError on an optimizer of another kind."""
        self._optimizer = optimizer
        self._inner: torch.optim.Optimizer = optimizer.optimizer
        if hasattr(optimizer, "fp32_partitioned_groups_flat"):
            self._is_sharded = True
            flats, groups = optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups
            found = [[self._span_of_share(p, names[p]) for p in group] for group in groups]
        elif hasattr(optimizer, "single_partition_of_fp32_groups"):
            self._is_sharded = False
            flats, groups = optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups
            found = [[_span_of_run(p, names[p]) for p in group] for group in groups]
        else:
            raise RuntimeError(f"checkpoints of {type(optimizer).__name__} are not supported, those of ZeRO 1 to 3 are")
        self.partitions = tuple(
            Partition(flat, tuple(span for span in spans if span is not None))
            for flat, spans in zip(flats, found, strict=True)
        )

    def _span_of_share(self, parameter: Any, name: str) -> ParameterSpan | None:
        _, place, _ = self._optimizer.grad_position[self._optimizer.get_param_id(parameter)]
        share = parameter.partition_numel()
        start = share * self._optimizer._get_param_partition_rank(parameter)
        length = min(share, parameter.ds_numel - start)  # the last shares are padding
        return ParameterSpan(name, parameter.ds_numel, start, place, length) if length > 0 else None

    def steps(self) -> int:
        """Return AdamW's number of steps; 0 before the first one. Raises RuntimeError if partitions differ in it."""
        states = [self._inner.state.get(p.masters, {}) for p in self.partitions if p.masters.numel()]
        found = {int(state["step"]) if state else 0 for state in states}
        if len(found) > 1:
            raise RuntimeError(f"the optimizer's partitions have made different numbers of steps: {sorted(found)}")
        return found.pop() if found else 0

    def moments(self, partition: Partition) -> dict[str, Tensor]:
        """Return AdamW's moments, each as long as the partition; nothing before the first step."""
        state = self._inner.state.get(partition.masters, {})
        return {name: state[name] for name in MOMENTS if name in state}

    def set_steps(self, steps: int) -> None:
        """Set the number of steps, with moments of zeros; those of a fresh optimizer are made as AdamW makes them."""
        for group, flat in self._flats():
            state = self._inner.state[flat]
            if not state:
                device = flat.device if group.get("fused") or group.get("capturable") else torch.device("cpu")
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                state.update({name: torch.zeros_like(flat, requires_grad=False) for name in MOMENTS})
            state["step"].fill_(float(steps))
            for name in MOMENTS:
                state[name].zero_()

    def _flats(self) -> Iterator[tuple[Mapping[str, Any], Tensor]]:
        """The partitions with the options of their group."""
        groups: Sequence[Mapping[str, Any]] = self._inner.param_groups
        numbers = self._optimizer.sub_group_to_group_id if self._is_sharded else range(len(groups))
        for index, partition in enumerate(self.partitions):
            yield groups[numbers[index]], partition.masters

    def publish(self) -> None:
        """Give the model the values of the master weights, as a step does; on all ranks."""
        if not self._is_sharded:
            self._optimizer.update_lp_params()
            return
        self._optimizer.checkpoint_event_prologue()
        for index in range(len(self.partitions)):
            self._optimizer._reassign_or_swap_out_partitioned_parameters(index)
        whole = self._optimizer.persistent_parameters
        if whole:  # small ones, of which every rank keeps all values
            whole[0].partition(whole)
        self._optimizer.checkpoint_event_epilogue()


def _span_of_run(parameter: Any, name: str) -> ParameterSpan | None:
    mapping = parameter._hp_mapping
    if mapping is None or mapping.lp_fragment_address.numel == 0:
        return None
    inside, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
    return ParameterSpan(name, parameter.numel(), inside.start, flat.start, inside.numel)


def full_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the tensor's full shape; under ZeRO-3 DeepSpeed keeps it, and a parameter is an empty placeholder."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))
