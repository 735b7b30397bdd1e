"""Memory that another process of the node reads where it lies."""

import os
import subprocess
import sys
from dataclasses import asdict, replace

import torch

from scalerl_runtime.weights.shared_memory import SharedMemory, open_shared

READ = """
import json, sys
from scalerl_runtime.weights.shared_memory import SharedHandle, open_shared
memory = open_shared(SharedHandle(**json.loads(sys.argv[1])))
print(None if memory is None else memory.tolist())
"""


def test_another_process_reads_what_the_owner_wrote() -> None:
    import json

    memory = SharedMemory(8)
    first, second = memory.split([3, 5])
    first.fill_(7)
    second.fill_(9)
    command = [sys.executable, "-c", READ, json.dumps(asdict(memory.handle))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0] == str(
        [7] * 3 + [9] * 5
    )


def test_a_reader_sees_later_writes_and_writes_nothing_itself() -> None:
    memory = SharedMemory(4)
    (flat,) = memory.split([4])
    reader = open_shared(memory.handle)
    assert reader is not None
    flat.fill_(1)
    assert reader.tolist() == [1, 1, 1, 1]
    reader[0] = 5
    assert flat.tolist() == [1, 1, 1, 1]


def test_other_memory_is_not_read() -> None:
    """A pod of its own process ids may have a file at the same path."""
    memory = SharedMemory(4)
    with open(os.devnull) as other:
        assert open_shared(replace(memory.handle, label="scalerl-weights-of-another-node")) is None
        assert open_shared(replace(memory.handle, fd=other.fileno())) is None
    assert open_shared(replace(memory.handle, pid=2**22 + 1)) is None, "no such process"
    assert open_shared(replace(memory.handle, fd=100_000)) is None, "no such file"


def test_closed_memory_stays_with_its_readers() -> None:
    memory = SharedMemory(4)
    memory.split([4])[0].fill_(3)
    reader = open_shared(memory.handle)
    memory.close()
    assert open_shared(memory.handle) is None
    assert reader is not None
    assert torch.equal(reader, torch.full((4,), 3, dtype=torch.uint8))
