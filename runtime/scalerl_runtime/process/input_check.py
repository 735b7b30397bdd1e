"""Compares a run's data, tokenizer and model with those of the checkpoint that it resumes from. I/O."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scalerl_api.rlrun import RLRun
from scalerl_api.validation import Fault, InvalidRun, shorten
from scalerl_api.wire import ACCEPT_DATA, ANNOTATION_ACCEPT_DATA
from scalerl_runtime.data.fingerprint import (
    DataDigests,
    Fingerprint,
    TokenizerParts,
    build_fingerprint,
    columns_to_digests,
    digest_data,
    digest_model,
    digest_tokenizer,
    digests_to_columns,
    find_change,
)
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.models.weight_files import digest_base
from scalerl_runtime.storage.prompt_digests import load_digests, save_digests

NUM_SHOWN = 550  # characters of a change in the refusal

log = logging.getLogger(__name__)


class DataRefused(InvalidRun):
    """The run's data, tokenizer or model is not the checkpoint's."""

    def __init__(self, change: str, digest: str):
        on_machine = "`scalerl run --resume --accept-new-data` on one machine"
        on_cluster = f"`kubectl annotate rlrun NAME --overwrite {ANNOTATION_ACCEPT_DATA}={digest}` on a cluster"
        allowed = f"as they were, or accepted: by {on_machine}, by {on_cluster}"
        # The status and events have 1,000 characters, and the digest must be among them.
        text = f"changed since the checkpoint: {shorten(change, NUM_SHOWN)}"
        super().__init__([Fault("spec.data", text, allowed)])
        self.digest = digest


@dataclass(frozen=True)
class RunInputs:
    """Digests of the data, tokenizer and model of a run."""

    fingerprint: Fingerprint
    prompts: DataDigests


def describe_inputs(run: RLRun, model: Path, tokenizer: TokenizerParts, data: Data) -> RunInputs:
    """Return the digests of the run's inputs; `model` is the folder of its config and weights."""
    digests = digest_data(data)
    config, source = model / "config.json", run.spec.model.source
    if run.spec.model.lora is None:
        digest = digest_model(source, config.read_bytes() if config.is_file() else b"")
    else:
        digest = digest_base(source, model)
    return RunInputs(
        build_fingerprint(
            digests,
            model=digest,
            tokenizer=digest_tokenizer(tokenizer.get_vocab(), tokenizer.chat_template),
        ),
        digests,
    )


def check_inputs(
    folder: Path, inputs: RunInputs, stored: Mapping[str, object] | None, *, accepted: str
) -> frozenset[int] | None:
    """Return the ids of the training prompts that are as the checkpoint had them; None: all are.

    Args:
        folder: of the run; the digests of the prompts are stored there.
        inputs: of this attempt.
        stored: the fingerprint in the checkpoint; None without one.
        accepted: digest of other inputs than the checkpoint's to go on with; ACCEPT_DATA: any; empty: none.

    Raises DataRefused with what changed, unless it is accepted.
    """
    kept = None if not stored else _compare(folder, inputs, Fingerprint.from_dict(stored), accepted)
    if stored is not None and not stored:
        log.info("the checkpoint has no digest of its data, as an older version wrote it: the data is not compared")
    save_digests(folder, inputs.fingerprint.data_key, digests_to_columns(inputs.prompts), keep=_key(stored))
    return kept


def _compare(folder: Path, inputs: RunInputs, old: Fingerprint, accepted: str) -> frozenset[int] | None:
    columns = load_digests(folder, old.data_key)
    before = None if columns is None else columns_to_digests(columns)
    change = find_change(old, inputs.fingerprint, before, inputs.prompts)
    if change is None:
        return None
    text, digest = "; ".join(change.lines), inputs.fingerprint.key
    if accepted not in (ACCEPT_DATA, digest):
        old_words = f" (what is accepted, {accepted}, is another change)" if accepted else ""
        raise DataRefused(f"{text}{old_words}", digest)
    log.warning("accepted, though changed since the checkpoint: %s", text)
    return change.same_ids


def _key(stored: Mapping[str, object] | None) -> str:
    return Fingerprint.from_dict(stored).data_key if stored else ""
