"""The README.md of an exported model: recipe, data, judge, curve, forecast, versions, spec. PURE."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from scalerl_api import RLRun
from scalerl_api.addresses import to_hub_id
from scalerl_api.data import DataSpec
from scalerl_api.wire import CARD_FORECAST, HELD_OUT, EvalPoint

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
ROWS_SHOWN = 40  # of the curve


@dataclass(frozen=True)
class CardFacts:
    """Facts about an exported model."""

    title: str
    step: int
    dtype: str
    why: str
    """Why this step: the run's end, its best evaluation, or a person's choice."""
    run: RLRun | None
    """None if the spec beside the checkpoint cannot be parsed."""
    document: Mapping[str, object]
    """The run as its author wrote it."""
    evals: Sequence[EvalPoint]
    versions: Sequence[tuple[str, str]]
    is_local_source: bool
    """Whether the model's source is a folder rather than a hub id."""
    forecast: str = ""
    """Markdown; empty: a place for it is left."""


def build_card(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    parts = [
        _front_matter(facts),
        f"# {facts.title}\n",
        f"Trained with reinforcement learning by scalerl to optimizer step {facts.step} ({facts.why}).\n",
        _use(facts),
        _facts_table(facts),
        "## Learning curve\n",
        _curve(facts.evals),
        "## Forecast\n",
        facts.forecast.strip() + "\n" if facts.forecast else f"{CARD_FORECAST}\n",
        "## Versions\n",
        _table(("package", "version"), facts.versions),
        "## Spec\n",
        f"```yaml\n{_spec(facts.document)}```\n",
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(facts: CardFacts) -> str:
    head: dict[str, object] = {
        "library_name": "peft" if _has_adapters(facts) else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["reinforcement-learning", "scalerl"],
    }
    source = facts.run.spec.model.source if facts.run is not None else ""
    source = to_hub_id(source)
    if _HUB_ID.match(source) and not facts.is_local_source:
        head["base_model"] = source
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


def _has_adapters(facts: CardFacts) -> bool:
    return facts.run is not None and facts.run.spec.model.lora is not None


def _use(facts: CardFacts) -> str:
    package, loader = (
        ("peft", "AutoPeftModelForCausalLM") if _has_adapters(facts) else ("transformers", "AutoModelForCausalLM")
    )
    lines = [
        "```python",
        f"from {package} import {loader}",
        "from transformers import AutoTokenizer",
        "",
        f'model, tokenizer = (each.from_pretrained("FOLDER") for each in ({loader}, AutoTokenizer))',
        "```",
        "",
    ]
    form = facts.run.spec.data.prompt_format if facts.run is not None else ""
    said = {
        "chat": "Prompts of the training had the form of the tokenizer's chat template.",
        "plain": "Prompts of the training had no chat template, only the prompt template below.",
    }
    return "\n".join([*lines, *([said[form], ""] if form in said else [])])


def _facts_table(facts: CardFacts) -> str:
    run = facts.run
    if run is None:
        return ""
    spec, recipe = run.spec, run.spec.resolved_recipe()
    rows = [
        ("run", run.name),
        ("base model", spec.model.source),
        ("dtype", facts.dtype),
        ("training prompts", ", ".join(each.source for each in spec.data.train)),
        ("prompt template", repr(spec.data.prompt_template)),
        *_chat_facts(spec.data),
        ("judge", ", ".join(spec.judge_labels)),
        ("recipe", f"preset {spec.recipe.preset}" + (", with changes" if spec.recipe.overrides else "")),
        ("loss", recipe.loss.kind),
        ("prompts x completions of a step", f"{recipe.prompts_per_step} x {recipe.completions_per_prompt}"),
        ("largest lag", f"{recipe.asynchrony.largest_lag} steps"),
        ("learning rate", f"{recipe.optimizer.learning_rate:g}"),
        ("sampling temperature", f"{recipe.temperature:g}"),
        ("warm start", f"{spec.warm_start.steps} supervised steps" if spec.warm_start is not None else "none"),
        ("seed", str(spec.seed)),
    ]
    return "## Training\n\n" + _table(("", ""), rows)


def _chat_facts(data: DataSpec) -> list[tuple[str, str]]:
    """The system turns and the variables of the chat template that the model was trained with, where there are any."""
    systems = dict.fromkeys([each.system_prompt or data.system_prompt for each in data.train])
    rows = [("system prompt", repr(text)) for text in systems if text is not None]
    arguments = ", ".join(f"{name}={value!r}" for name, value in data.template_arguments.items())
    return [*rows, *([("chat template arguments", arguments)] if arguments else [])]


def _curve(evals: Sequence[EvalPoint]) -> str:
    """The last points of every set; a long curve is thinned to ROWS_SHOWN rows."""
    if not evals:
        return "No evaluation is recorded beside this checkpoint.\n"
    newest = {(point.dataset, point.step): point for point in evals}
    order = sorted(newest, key=lambda key: (key[0] != HELD_OUT, key))
    every = -(-len(order) // ROWS_SHOWN)
    shown = [key for index, key in enumerate(order) if index % every == 0 or index == len(order) - 1]
    rows = [
        (
            key[0],
            str(key[1]),
            f"{newest[key].compute_gpu_hours:.4g}",
            f"{newest[key].pass_rate:.4f}",
            f"{newest[key].standard_error:.4f}",
            f"{newest[key].samples}",
        )
        for key in shown
    ]
    header = ("set", "step", "device-hours", "pass rate", "standard error", "samples per prompt")
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _spec(document: Mapping[str, object]) -> str:
    """The run without its pod templates: those describe a cluster, and their environment may hold secrets."""
    shown = {key: value for key, value in document.items() if key != "status"}
    spec = shown.get("spec")
    if isinstance(spec, Mapping):
        shown["spec"] = {key: _without_template(value) for key, value in spec.items()}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120)


def _without_template(value: object) -> object:
    return {k: v for k, v in value.items() if k != "template"} if isinstance(value, Mapping) else value
