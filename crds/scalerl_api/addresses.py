"""Addresses in a spec: their schemes and forms, and what is a path, a hub id or an address. PURE.

The spec holds no secret, so an address has neither user nor password. Credentials come from the environment of the
processes: docs/storage.md.
"""

import re
from dataclasses import dataclass
from typing import Final

FILE: Final = "file"
S3: Final = "s3"
GS: Final = "gs"
HF: Final = "hf"
SPLIT: Final = "://"

_PATH_STARTS = ("/", "./", "../", "~", ".")
_HUB_PART = r"[A-Za-z0-9][\w.-]*"
_REVISION = r"@(refs/[\w.-]+/[\w.-]+|[\w.%-]+)"
# Names of buckets of S3 and of Google Cloud Storage, which also have underscores.
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]"
HUB_ID = re.compile(rf"{_HUB_PART}(/{_HUB_PART})?")
_HUB_MODEL = re.compile(rf"hf://(?P<name>{_HUB_PART}/{_HUB_PART})(?P<revision>{_REVISION})?")
_HUB_DATASET = re.compile(
    rf"hf://(datasets/(?P<name>{_HUB_PART}(/{_HUB_PART})?)|(?P<short>{_HUB_PART}/{_HUB_PART}))(?P<revision>{_REVISION})?"
)
_HUB_FILE = re.compile(rf"hf://datasets/(?P<name>{_HUB_PART}/{_HUB_PART})(?P<revision>{_REVISION})?/(?P<path>[^@\n]+)")


@dataclass(frozen=True)
class AddressForms:
    """The addresses that one field may have; the patterns are of a kind that Python and the API server read alike."""

    patterns: tuple[str, ...]
    shown: tuple[str, ...]
    note: str = ""

    @property
    def pattern(self) -> str:
        """A text without `://`, which is no address, or one of the forms."""
        return rf"^({'|'.join(self.patterns)})$"

    @property
    def allowed(self) -> str:
        """Words for a message."""
        return f"an address of a known form, without user and password: {', '.join(self.shown)}{self.note}"

    def fits(self, text: str) -> bool:
        """Whether `text` is no address, or one of these forms."""
        return SPLIT not in text or re.search(self.pattern, text) is not None


_FILE_PATTERN = r"file:///[^\n]*"
_BUCKET_PATTERN = rf"(s3|gs)://{_BUCKET}(/[^\n]*)?"
MODEL_ADDRESSES = AddressForms(
    (_FILE_PATTERN, _BUCKET_PATTERN, rf"hf://{_HUB_PART}/{_HUB_PART}({_REVISION})?"),
    ("file:///folder", "s3://bucket/folder", "gs://bucket/folder", "hf://organization/name[@revision]"),
)
DATA_ADDRESSES = AddressForms(
    (
        _FILE_PATTERN,
        _BUCKET_PATTERN,
        rf"hf://datasets/{_HUB_PART}(/{_HUB_PART})?({_REVISION})?",
        rf"hf://{_HUB_PART}/{_HUB_PART}({_REVISION})?",
        rf"hf://datasets/{_HUB_PART}/{_HUB_PART}({_REVISION})?/[^@\n]+",
    ),
    (
        "file:///file",
        "s3://bucket/file",
        "gs://bucket/file",
        "hf://organization/name[@revision]",
        "hf://datasets/organization/name[@revision]/file",
    ),
)
CHECKPOINT_ADDRESSES = AddressForms(
    (_FILE_PATTERN,), ("file:///folder",), "; checkpoints need a folder: object storage has to be mounted as one"
)


@dataclass(frozen=True)
class HubName:
    """A repository of the Hugging Face hub."""

    name: str
    revision: str | None = None
    """Branch, tag or commit; None: the main branch."""


def is_address(text: str) -> bool:
    """Whether `text` has the form of an address, of whatever scheme."""
    return SPLIT in text


def is_in_bucket(text: str) -> bool:
    """Whether `text` is an address in a bucket of S3 or of Google Cloud Storage."""
    return text.startswith((f"{S3}{SPLIT}", f"{GS}{SPLIT}"))


def is_path_like(source: str) -> bool:
    """Whether `source` has the form of a path and not of a hub id, whether or not it exists."""
    looks = source.startswith(_PATH_STARTS) or source.count("/") > 1 or source.endswith("/") or "\\" in source
    return looks and not is_address(source)


def to_plain_path(text: str) -> str:
    """Return the path of a `file://` address; any other text as it is."""
    return text.removeprefix(f"{FILE}{SPLIT}") if text.startswith(f"{FILE}{SPLIT}") else text


def show_address(text: str) -> str:
    """Return `text` for a message about its form; with an `@`, before which a password may stand, its scheme alone."""
    return f"{text.partition(SPLIT)[0]}{SPLIT}..." if "@" in text else text


def parse_hub_model(source: str) -> HubName | None:
    """Return the repository of a model's `source`, a hub id or `hf://org/name[@revision]`; None: of another form."""
    match = _HUB_MODEL.fullmatch(source)
    if match is not None:
        return _to_name(match["name"], match["revision"])
    is_id = HUB_ID.fullmatch(source) is not None and not is_path_like(source)
    return HubName(source) if is_id else None


def parse_hub_dataset(source: str) -> HubName | None:
    """Return the data set of `hf://[datasets/]org/name[@revision]`; None for every other form."""
    match = _HUB_DATASET.fullmatch(source)
    return None if match is None else _to_name(match["name"] or match["short"], match["revision"])


def parse_hub_file(source: str) -> tuple[HubName, str] | None:
    """Return data set and path of `hf://datasets/org/name[@revision]/path`; None for every other form."""
    match = _HUB_FILE.fullmatch(source)
    return None if match is None else (_to_name(match["name"], match["revision"]), match["path"])


def to_hub_id(source: str) -> str:
    """Return the id of an `hf://` address of a model, as other programs write it; any other text as it is."""
    match = _HUB_MODEL.fullmatch(source)
    return source if match is None else match["name"]


def is_of_hub(source: str) -> bool:
    """Whether a model's `source` has the form of a repository of the hub."""
    return parse_hub_model(source) is not None


def _to_name(name: str, revision: str | None) -> HubName:
    return HubName(name, None if revision is None else revision.removeprefix("@"))
