"""Rules over the sources of a run's data and their verifiers. PURE.

`validation` and the operator evaluate them. The API server does not: `data.train` is one source or a list of them, and
a structural schema has no type for that, so its rules do not reach the field.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from scalerl_api.addresses import DATA_ADDRESSES, is_address, parse_hub_dataset, show_address
from scalerl_api.data import DatasetSpec, NamedDatasetSpec, TrainSourceSpec, list_columns
from scalerl_api.reward import ENVIRONMENT, VerifiedSpec
from scalerl_api.rlrun import RLRun, RLRunSpec
from scalerl_api.wire import HELD_OUT

# Path, value, what is allowed.
Finding = tuple[str, str, str]


def find_source_faults(run: RLRun) -> Iterator[Finding]:
    """Yield the faults of the run's sources, as path, value and what is allowed."""
    spec = run.spec
    yield from _check_names(spec)
    yield from _check_verifiers("spec.reward", spec.reward)
    yield from _check_http_names(spec)
    for path, source in spec.data.sources:
        yield from _check_verifiers(path, source)
        yield from _check_source(spec, path, source)
    for index, each in enumerate(spec.data.train):
        yield from _check_held_out(spec.data.train_path(index), each)
    for index, downstream in enumerate(spec.data.downstream):
        yield from _check_downstream(spec, f"spec.data.downstream[{index}]", downstream)
    yield from _check_sizes(spec)
    yield from _check_policies(spec)


def _check_names(spec: RLRunSpec) -> Iterator[Finding]:
    train = spec.data.train
    for index, each in enumerate(train):
        if each.name is None and len(train) > 1:
            yield f"spec.data.train[{index}].name", "missing", "every source of a mixture needs one"
    names = [each.name for each in train if each.name is not None]
    for name, count in Counter([*names, *(each.name for each in spec.data.downstream)]).items():
        if name in names and (count > 1 or name == HELD_OUT):
            yield "spec.data.train", name, f"every name once, over train and downstream, and not {HELD_OUT}"


def _check_verifiers(path: str, part: VerifiedSpec) -> Iterator[Finding]:
    if part.verifiers and part.verifier is not None:
        yield f"{path}.verifier", part.verifier, "either verifier or verifiers"
    names = Counter(each.label for each in part.verifiers)
    for name in (name for name, count in names.items() if count > 1):
        yield f"{path}.verifiers", name, "every name once"


def _check_http_names(spec: RLRunSpec) -> Iterator[Finding]:
    names = [each.name for each in spec.reward.http]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"spec.reward.http[{index}].name", name, "every name once"
    for index, each in enumerate(spec.reward.http):
        if each.highest <= each.lowest:
            yield f"spec.reward.http[{index}].highest", f"{each.highest:g}", f"more than lowest ({each.lowest:g})"
        if each.prompt and "{completion}" not in each.prompt:
            yield f"spec.reward.http[{index}].prompt", "without {completion}", "a question about the completion"
        if each.prompt and each.api != "chat":
            yield f"spec.reward.http[{index}].prompt", "set", "only with api: chat"


def _check_source(spec: RLRunSpec, path: str, source: DatasetSpec) -> Iterator[Finding]:
    judges = [each.verifier for each in spec.judges_of(source)]
    if not judges:
        yield "spec.reward.verifier", "missing", f"needed, or a verifier of its own in {path}"
    if "reasoning_gym" in judges and not source.is_generated:
        yield f"{path}.source", source.source, "verifier reasoning_gym needs reasoning_gym:<task>"
    yield from _check_address(path, source)
    yield from _check_columns(path, source)
    yield from _check_options(path, source)
    yield from _check_generated(path, source)
    known = {f"http:{each.name}" for each in spec.reward.http}
    for each in judges:
        if each.startswith("http:") and each not in known:
            yield f"{path}.verifier", each, f"a name of reward.http: {', '.join(sorted(known)) or 'it has none'}"
    yield from _check_environment(spec, path, judges)
    is_plain = spec.data.prompt_format == "plain"
    if is_plain and source.system_prompt is not None:
        yield f"{path}.systemPrompt", "set", "only with promptFormat: chat"


def _check_address(path: str, source: DatasetSpec) -> Iterator[Finding]:
    if not DATA_ADDRESSES.fits(source.source):
        yield f"{path}.source", show_address(source.source), DATA_ADDRESSES.allowed
    elif is_address(source.source) and parse_hub_dataset(source.source) is None:
        yield from _check_hub_fields(path, source)


def _check_columns(path: str, source: DatasetSpec) -> Iterator[Finding]:
    for name, value in source.column_fields:
        try:
            list_columns(value)
        except ValueError as error:
            yield f"{path}.{name}", value, f"a column, a path or a template; this one has {error}"


def _check_options(path: str, source: DatasetSpec) -> Iterator[Finding]:
    if source.options_field is None:
        if source.first_option is not None:
            yield f"{path}.firstOption", str(source.first_option), "only with optionsField"
        if source.shuffle_options is not None:
            yield f"{path}.shuffleOptions", str(source.shuffle_options).lower(), "only with optionsField"
    elif source.shuffle_options is False and source.has_answer_option:
        allowed = "true or unset: the right option stands in the same column of each row, so its letter never changes"
        yield f"{path}.shuffleOptions", "false", allowed


def _check_generated(path: str, source: DatasetSpec) -> Iterator[Finding]:
    if source.is_generated:
        if source.where:
            yield f"{path}.where", ", ".join(source.where), "only with rows of a file or of the hub"
        yield from _check_hub_fields(path, source)
    elif source.task:
        yield f"{path}.task", "set", "only with source: reasoning_gym:<task>"


def _check_hub_fields(path: str, source: DatasetSpec) -> Iterator[Finding]:
    if source.config is not None:
        yield f"{path}.config", source.config, "only with a data set of the hub"
    if source.split != DatasetSpec.model_fields["split"].default:
        yield f"{path}.split", source.split, "only with a data set of the hub"


def _check_environment(spec: RLRunSpec, path: str, judges: Sequence[str]) -> Iterator[Finding]:
    environment = next((each for each in judges if each.startswith(ENVIRONMENT)), None)
    if environment is None:
        return
    if len(judges) > 1:
        yield f"{path}.verifiers", ", ".join(judges), "an environment alone: it plays the turns and rewards them"
    if spec.resolved_recipe().length.control == "interruption":
        allowed = f"none or penalty with {environment}: one thinking budget does not fit several turns"
        yield "spec.recipe.length.control", "interruption", allowed


def _check_held_out(path: str, source: TrainSourceSpec) -> Iterator[Finding]:
    if source.validation is not None and source.validation.judges:
        names = ", ".join(each.verifier for each in source.validation.judges)
        yield f"{path}.validation.verifier", names, "unset: the verifiers of its training source grade it"
    if source.validation is not None and source.held_out is not None:
        yield f"{path}.heldOut", str(source.held_out), "only without validation, which has its own prompts"


def _check_downstream(spec: RLRunSpec, path: str, each: NamedDatasetSpec) -> Iterator[Finding]:
    if not each.source:
        yield f"{path}.source", "missing", "needed, or a benchmark"
    interval = spec.budget.eval_every_steps
    if each.every_steps is not None and each.every_steps % interval != 0:
        yield f"{path}.everySteps", str(each.every_steps), f"a multiple of budget.evalEverySteps ({interval})"


def _check_policies(spec: RLRunSpec) -> Iterator[Finding]:
    known = spec.data.named_sets
    for index, policy in enumerate(spec.stop_policies):
        for name in policy.when.downstream or {}:
            if name not in known:
                allowed = ", ".join(sorted(known)) or "data.downstream is empty, and data.train has one source"
                yield f"spec.stopPolicies[{index}].when.downstream", name, f"a test set of this run: {allowed}"


def _check_sizes(spec: RLRunSpec) -> Iterator[Finding]:
    data = spec.data
    if data.prompt_format == "plain" and data.system_prompt is not None:
        yield "spec.data.systemPrompt", "set", "only with promptFormat: chat"
    if data.prompt_format == "plain" and data.template_arguments:
        yield "spec.data.templateArguments", "set", "only with promptFormat: chat"
    shared = [each for each in data.train if each.validation is None and each.held_out is None]
    wanted, size = data.held_out.prompts, _sum(each.num_wanted for each in shared)
    if shared and size is not None and wanted >= size:
        yield "spec.data.heldOut.prompts", str(wanted), f"less than data.train.size ({size})"
    if shared and wanted < len(shared):
        yield "spec.data.heldOut.prompts", str(wanted), f"at least one for each of the {len(shared)} sources"


def _sum(sizes: Iterator[int | None] | Sequence[int | None]) -> int | None:
    """Their sum; None if one is unknown."""
    known = list(sizes)
    numbers = [each for each in known if each is not None]
    return sum(numbers) if len(numbers) == len(known) else None
