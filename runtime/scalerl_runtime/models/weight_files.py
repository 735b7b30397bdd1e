"""Checks that a folder has a model's weights, all of them and none cut, from file headers alone. I/O."""

import hashlib
import json
import math
import zipfile
from pathlib import Path
from typing import BinaryIO

from scalerl_runtime.data.fingerprint import digest_model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BINARY, BINARY_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
LFS_POINTER = b"version https://git-lfs"
MAX_HEADER_BYTES = 100 * 2**20  # the format's own limit
NUM_NAMED = 3  # files in a message
PIECES, PIECE_BYTES = 64, 4096  # of a file: training changes nearly every value, so a quarter of a MiB shows it


def find_weight_fault(folder: Path, names: set[str]) -> str | None:
    """Return what is wrong with the weights among `names`, the files of `folder`; None if nothing is.

    Safetensors are preferred, as by transformers and vLLM; several shards need their index.
    """
    for single, index in ((SINGLE, INDEX), (BINARY, BINARY_INDEX)):
        if index in names:
            return _check_index(folder, index)
        if single in names:
            return _check_file(folder / single)
    others = sorted(name for name in names if name.endswith((".safetensors", ".bin", ".gguf", ".pth", ".pt", ".h5")))
    found = f"; {', '.join(others[:NUM_NAMED])} is under another name" if others else ", which has none"
    return f"a folder with weights: {SINGLE}, or shards with {INDEX}{found}"


def sample_weights(folder: Path) -> bytes:
    """Return a digest of the weights' files by name, size and pieces that are spread evenly over each."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            for index in range(PIECES):
                content.seek(max(0, size - PIECE_BYTES) * index // (PIECES - 1))
                digest.update(content.read(PIECE_BYTES))
    return digest.digest()


def digest_base(source: str, folder: Path) -> str:
    """Return the digest of a model that adapters belong to: its source, config and weights."""
    return digest_model(source, (folder / "config.json").read_bytes(), sample_weights(folder))


def _check_index(folder: Path, index: str) -> str | None:
    try:
        tensors = json.loads((folder / index).read_bytes())["weight_map"]
        shards = sorted(set(tensors.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"weights whose {index} has a weight_map of tensors to files ({type(error).__name__}: {error})"
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        more = "" if len(missing) <= NUM_NAMED else f" and {len(missing) - NUM_NAMED} more"
        return f"all weights: {', '.join(missing[:NUM_NAMED])}{more} of {len(shards)} files in {index} are missing"
    for shard in shards:
        expected = {name for name, file in tensors.items() if file == shard}
        fault = _check_file(folder / shard, expected)
        if fault is not None:
            return fault
    return None


def _check_file(file: Path, expected: set[str] | None = None) -> str | None:
    """Return the fault of one file; `expected` are the tensors that it must hold."""
    size = file.stat().st_size
    with file.open("rb") as content:
        start = content.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            return f"weights: {file.name} is a pointer of Git LFS, not the file itself; run git lfs pull"
        if file.suffix == ".safetensors":
            content.seek(0)
            return _check_safetensors(file.name, content, size, expected)
    if size == 0 or (start.startswith(b"PK") and not zipfile.is_zipfile(file)):
        return f"whole weights: {file.name} ({size} bytes) is cut; download it again"
    return None


def _check_safetensors(name: str, content: BinaryIO, size: int, expected: set[str] | None) -> str | None:
    """Compare the header with the file's `size`: 8 bytes of length, the header as JSON, the tensors."""
    cut = f"whole weights: {name} ({size} bytes) is cut or damaged; download it again"
    start = content.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > MAX_HEADER_BYTES or 8 + length > size:
        return cut
    try:
        header = json.loads(content.read(length))
        tensors = {key: value["data_offsets"] for key, value in header.items() if key != "__metadata__"}
        end = max((int(offsets[1]) for offsets in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return cut
    if 8 + length + end != size:
        return f"whole weights: {name} has {size} bytes, its header promises {8 + length + end}; download it again"
    absent = sorted((expected or set()) - set(tensors))
    if absent:
        return f"weights as in their index: {name} lacks {', '.join(absent[:NUM_NAMED])}"
    return "weights: the file holds no tensor" if not tensors else None


def count_parameters(folder: Path) -> int | None:
    """Return the number of weights in the safetensors files of a whole model's `folder`; None without such files."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as content:
            header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        shapes = (value["shape"] for name, value in header.items() if name != "__metadata__")
        total += sum(math.prod(shape) for shape in shapes)
    return total or None
