"""Generates the records of a reasoning_gym task. I/O."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import fields

from scalerl_api.data import GENERATED, DatasetSpec
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.data.prompts import GeneratedRecord, build_entry_answer
from scalerl_runtime.data.readers import Record
from scalerl_runtime.hub import CONTENT_ERRORS

# Exceptions that the content of a data set, or code that reads it, can raise.
READING_ERRORS = (*CONTENT_ERRORS, RuntimeError)


def generate_records(spec: DatasetSpec, path: str, seed: int, *, whole: bool) -> Iterator[Record]:
    """Yield `size` generated records; `prompt` is an alias of the task's `question`.

    Args:
        spec, path: the source and its path in the run's spec.
        seed: of the generator.
        whole: store the whole record in the answer, which the verifier `reasoning_gym` needs.

    Raises InvalidRun for an unknown task, an unknown option or a refused value.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    task = spec.source.removeprefix(GENERATED)
    if task not in DATASETS:
        near = ", ".join(difflib.get_close_matches(task, DATASETS, n=3) or sorted(DATASETS))
        raise InvalidRun([Fault(f"{path}.source", spec.source, f"a task of reasoning_gym, such as {near}")])
    options = sorted({field.name for field in fields(DATASETS[task][1])} - {"seed", "size"})
    unknown = sorted(set(spec.task) - set(options))
    if unknown:
        allowed = f"options of {task} are {', '.join(options)}"
        raise InvalidRun([Fault(f"{path}.task.{name}", repr(spec.task[name]), allowed) for name in unknown])
    try:
        table = reasoning_gym.create_dataset(task, seed=seed, size=spec.num_wanted, **spec.task)
    except READING_ERRORS as error:  # its options are checked in these ways
        raise InvalidRun([Fault(f"{path}.task", repr(spec.task), f"{task} refuses it: {error}")]) from error
    return _name_generated(spec, path, table, whole=whole)


def _name_generated(
    spec: DatasetSpec, path: str, table: Iterable[dict[str, object]], *, whole: bool
) -> Iterator[Record]:
    task = spec.source.removeprefix(GENERATED)
    for number, record in enumerate(table, start=1):
        named = {"prompt": record["question"], **record}
        if whole:
            try:
                named[spec.answer_field] = build_entry_answer(GeneratedRecord(task, spec.task, record))
            except ValueError as error:
                raise InvalidRun(
                    [Fault(f"{path}.source", spec.source, f"a task that can be scored: {error}")]
                ) from error
        yield f"{spec.source}:{number}", named
