"""The data of a run: sources of prompts, held-out prompts, downstream sets. PURE."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from scalerl_api.base import NAME_PATTERN, ApiModel
from scalerl_api.benchmarks import BENCHMARKS, BenchmarkName
from scalerl_api.recipe import Curriculum
from scalerl_api.reward import VerifiedSpec
from scalerl_api.wire import source_dataset

TemplateArguments = dict[str, int | float | str | bool]

GENERATED_ROWS = 10_000  # of a reasoning_gym task without `size`
GENERATED = "reasoning_gym:"
# `{{` and `}}` stand for a brace, as in Python's format strings.
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Piece:
    """A text as it is, then a column; the last piece of a template has none."""

    text: str
    column: str | None


def is_template(name: str) -> bool:
    """Whether `name` has braces; a column of that very name has precedence, which the reader of rows decides."""
    return "{" in name or "}" in name


def parse_template(template: str) -> tuple[Piece, ...]:
    """Return the pieces of a template. Raises ValueError for a brace without its partner or without a column."""
    pieces, text, end = [], "", 0
    for match in _PIECE.finditer(template):
        text += template[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            text += match[0][0]
        elif match[1] is None:
            raise ValueError(f"a single {match[0]} at character {match.start() + 1}; write it twice to mean the brace")
        elif not match[1].strip():
            raise ValueError("a pair of braces without the name of a column")
        else:
            pieces.append(Piece(text, match[1].strip()))
            text = ""
    return (*pieces, Piece(text + template[end:], None))


def list_columns(name: str) -> Sequence[str]:
    """Return the columns that `name` reads: itself, or those of the template. Raises ValueError as `parse_template`."""
    if not is_template(name):
        return (name,)
    return tuple(piece.column for piece in parse_template(name) if piece.column is not None)


class DatasetSpec(VerifiedSpec):
    """Prompts with answers."""

    source: str = Field(default="", max_length=500)
    """Hub id; a .jsonl, .json, .csv, .tsv or .parquet path, each but the last also with .gz; a folder of such files
    or a pattern (`part-*.jsonl`); any of these in a bucket (`s3://bucket/part-*.parquet`, `gs://...`) or on the hub
    (`hf://datasets/org/name/*.parquet`); or `reasoning_gym:<task>`. docs/data.md has what is read and refused."""
    config: str | None = Field(default=None, min_length=1, max_length=100)
    """Configuration of a hub data set, such as `main` of openai/gsm8k; needed where it has several."""
    split: str = Field(default="train", min_length=1, max_length=100)
    """Split of a hub data set."""
    prompt_field: str = Field(default="prompt", min_length=1, max_length=1000)
    """Column of the prompt, a text or a list of messages with `role` and `content`, or `from` and `value`; a dotted
    path into nested columns; or a template over several: `{Body} {Question}`."""
    answer_field: str = Field(default="answer", min_length=1, max_length=1000)
    """Column, dotted path or template of the reference answer (for `code`: the tests, also of several columns,
    `{public_tests}{private_tests}`). Of a list of messages the assistant's last turn is the answer."""
    options_field: str | None = Field(default=None, min_length=1, max_length=1000)
    """Column of the options of a multiple-choice question, or several, `{opa}{opb}`; they are written below the prompt,
    a letter each, and the answer becomes a letter."""
    first_option: int | None = Field(default=None, ge=0, le=1)
    """Number of the first option, where answers are positions: 0 (MMLU) or 1 (WinoGrande). Unset: found in the data."""
    shuffle_options: bool | None = None
    """Whether the options of a row are shuffled, always in the same way. Unset: if `answerField` is one of the columns
    of `optionsField`, which would be right in each row (GPQA)."""
    where: dict[str, int | float | str | bool] = Field(default={}, max_length=20)
    """Rows to read: those with these values in these columns or paths, such as `ability: math`; empty: all."""
    system_prompt: str | None = Field(default=None, min_length=1, max_length=10_000)
    """System turn before each prompt of this source, with `promptFormat: chat`; unset: `data.systemPrompt`."""
    size: int | None = Field(default=None, ge=1, le=100_000_000)
    """Rows to generate (`reasoning_gym:`; unset: 10,000), or the largest number of rows to read (unset: all)."""
    task: dict[str, int | float | str | bool] = Field(default={}, max_length=50)
    """Options of the reasoning_gym task, under its own names."""

    @property
    def column_fields(self) -> tuple[tuple[str, str], ...]:
        """The fields that name columns, and their values; those that are unset are left out."""
        fields = (("promptField", self.prompt_field), ("answerField", self.answer_field))
        return fields if self.options_field is None else (*fields, ("optionsField", self.options_field))

    @property
    def has_answer_option(self) -> bool:
        """Whether the right option has a column of its own, which is also one of the columns of the options (GPQA)."""
        if self.options_field is None or not is_template(self.options_field):
            return False
        try:
            return self.answer_field in list_columns(self.options_field)
        except ValueError:  # a template that is refused
            return False

    @property
    def is_generated(self) -> bool:
        """Whether a reasoning_gym task generates the rows."""
        return self.source.startswith(GENERATED)

    @property
    def label(self) -> str:
        """Name of its results; empty: it has none."""
        return ""

    @property
    def num_wanted(self) -> int | None:
        """Rows to generate or to read at most; None: all."""
        return self.size if self.size is not None or not self.is_generated else GENERATED_ROWS


class ValidationSpec(DatasetSpec):
    """A held-out set of one's own, in place of prompts that are split off. It has the verifiers of its source."""

    source: str = Field(min_length=1, max_length=500)
    """As in `DatasetSpec`."""


class TrainSourceSpec(DatasetSpec):
    """One source of training prompts."""

    source: str = Field(min_length=1, max_length=500)
    """As in `DatasetSpec`."""
    name: str | None = Field(default=None, pattern=NAME_PATTERN, max_length=52)
    """Label of its results; needed with several sources."""
    weight: float = Field(default=1.0, ge=1e-6, le=1e6)
    """Its part of the training prompts, relative to the other sources' weights."""
    held_out: int | None = Field(default=None, ge=1, le=1_000_000)
    """Its number of held-out prompts; unset: its part, by weight, of `heldOut.prompts`."""
    validation: ValidationSpec | None = None
    """Its held-out prompts, all of them, in place of prompts that are split off."""
    curriculum: Curriculum | None = None
    """Order of its prompts; unset: `recipe.curriculum`."""

    @property
    def label(self) -> str:
        """Name of its results; empty: it is the only source and has none."""
        return self.name or ""

    @property
    def resolved_validation(self) -> ValidationSpec | None:
        """Its validation set, with the source's verifiers and, unless it has one, the source's system prompt."""
        if self.validation is None:
            return None
        own = {"verifier": self.verifier, "verifiers": self.verifiers}
        if self.validation.system_prompt is None:
            own["system_prompt"] = self.system_prompt
        return self.validation.model_copy(update=own)


class NamedDatasetSpec(DatasetSpec):
    """A downstream test set, evaluated beside the held-out prompts; never trained on."""

    name: str = Field(pattern=NAME_PATTERN, max_length=52)
    """Label of its results."""
    benchmark: BenchmarkName | None = None
    """A published test set: its source, columns, verifier and samples, which the other fields override."""
    samples_per_prompt: int | None = Field(default=None, ge=1, le=1024)
    """Completions per prompt; unset: 1 at temperature 0, else the benchmark's, else `heldOut.samplesPerPrompt`."""
    temperature: float | None = Field(default=None, ge=0.0, le=10.0)
    """Of its completions: 0, which takes the likeliest token each time, or at least 0.01; unset: the recipe's."""
    every_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    """Steps between its evaluations, a multiple of `budget.evalEverySteps`; unset: at each evaluation."""

    def count_samples(self, held_out: int) -> int:
        """Return the completions per prompt; `held_out`: those of the held-out prompts.

        The likeliest tokens are the same each time, so one completion at temperature 0 says all.
        """
        if self.samples_per_prompt is not None:
            return self.samples_per_prompt
        return 1 if self.temperature == 0.0 else held_out

    @property
    def label(self) -> str:
        """Name of its results."""
        return self.name


class HeldOutSpec(ApiModel):
    """The prompts whose pass rate is fitted: split off `train` at random, never trained on."""

    prompts: int = Field(default=1000, ge=1, le=1_000_000)
    """Number of prompts that are split off, over all sources."""
    samples_per_prompt: int = Field(default=16, ge=1, le=1024)
    """Completions per prompt; the pass rate is their mean (mean@k)."""


class DataSpec(ApiModel):
    """Prompts for training and for evaluation."""

    train: list[TrainSourceSpec] = Field(min_length=1, max_length=20)
    """Training prompts, from which `heldOut` is taken: one source, or a list of them, a mixture."""
    held_out: HeldOutSpec = HeldOutSpec()
    """The held-out prompts."""
    downstream: list[NamedDatasetSpec] = Field(default=[], max_length=20)
    """Further test sets."""
    prompt_format: Literal["chat", "plain"] = "chat"
    """`chat`: the tokenizer's chat template. `plain`: `promptTemplate` alone."""
    prompt_template: str = Field(default="{prompt}", min_length=1, max_length=10_000)
    """Text around the prompt; holds `{prompt}` once."""
    system_prompt: str | None = Field(default=None, min_length=1, max_length=10_000)
    """System turn before each prompt, with `promptFormat: chat`; not where a prompt's messages begin with one."""
    template_arguments: TemplateArguments = Field(default={}, max_length=50)
    """Variables of the chat template, such as `enable_thinking: false`."""
    max_bad_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """The run does not start if more than this share of a source's rows is malformed."""

    @field_validator("train", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        """One source may be written without a list."""
        return [value] if isinstance(value, dict) else value

    @field_validator("downstream", mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        """Write a benchmark's fields where the entry has none of its own."""
        return [_with_benchmark(each) for each in value] if isinstance(value, list) else value

    @property
    def num_places(self) -> int:
        """Number of `{prompt}` in the template."""
        return self.prompt_template.count("{prompt}")

    @property
    def sources(self) -> tuple[tuple[str, DatasetSpec], ...]:
        """Every source with its path in the spec: train, their validation sets, downstream."""
        train: list[tuple[str, DatasetSpec]] = []
        for index, each in enumerate(self.train):
            path = self.train_path(index)
            train += [(path, each)]
            train += [(f"{path}.validation", each.resolved_validation)] if each.resolved_validation is not None else []
        return (*train, *((f"spec.data.downstream[{i}]", each) for i, each in enumerate(self.downstream)))

    @property
    def named_sets(self) -> dict[str, str]:
        """The test sets beside the pooled held-out prompts, by their names in the spec: the `dataset` of their points.

        A single source has none of its own: its held-out prompts are all there are.
        """
        train = [each.name for each in self.train if each.name is not None and len(self.train) > 1]
        return {name: source_dataset(name) for name in train} | {each.name: each.name for each in self.downstream}

    def train_path(self, index: int) -> str:
        """Path of a training source in the spec."""
        return "spec.data.train" if len(self.train) == 1 else f"spec.data.train[{index}]"


def _with_benchmark(entry: Any) -> Any:
    if not isinstance(entry, dict) or entry.get("benchmark") not in BENCHMARKS:
        return entry
    published = BENCHMARKS[entry["benchmark"]]
    if "source" in entry:  # a copy of one's own has no configurations and splits, unless it says so
        published = {name: value for name, value in published.items() if name not in ("config", "split")}
    if entry.get("temperature") == 0:
        published = {name: value for name, value in published.items() if name != "samplesPerPrompt"}
    return {**published, **entry}
