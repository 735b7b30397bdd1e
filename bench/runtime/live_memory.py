"""Counts the bytes of live tensors: each storage once, from its first tensor until the last is gone. PURE."""

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Within it the bytes of live storages are counted; those that were there before are found once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self._sizes: dict[int, int] = {}
        self.now = 0
        self.peaks: dict[str, int] = {}
        self.phase = "start"

    def watch_all(self) -> None:
        """Count the tensors that exist."""
        gc.collect()
        for each in gc.get_objects():
            if isinstance(each, Tensor) and not each.is_meta:
                self._watch(each)

    def run_in(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, whose peak is recorded under `phase`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return call(*args, **kwargs)
            finally:
                self.phase = before

        return run

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        size = storage.nbytes()
        known = self._sizes.get(key)
        if known is None:
            weakref.finalize(storage, self._forget, key)
        self._sizes[key] = size
        self.now += size - (known or 0)
        if self.now > self.peaks.get(self.phase, 0):
            self.peaks[self.phase] = self.now

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and not each.is_meta:
                self._watch(each)
        return result


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' storages, each once."""
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())
