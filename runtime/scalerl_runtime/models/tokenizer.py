"""Checks a tokenizer against a run's tags, phrase and stop tokens, and finds the tokens that end a completion. PURE."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from scalerl_api.data import DataSpec, TemplateArguments
from scalerl_api.recipe import Recipe
from scalerl_api.validation import Fault
from scalerl_runtime.data.chat_template import TEMPLATE_ERRORS
from scalerl_runtime.think_tags import decode_exactly

TAGS_PATH = "spec.recipe.length.thinkTags"
PHRASE_PATH = "spec.recipe.length.phrase"
STOP_PATH = "spec.recipe.stopTokens"
TAGS_ALLOWED = (
    "length.control: none or penalty, other thinkTags that the tokenizer can spell, or a model with think tokens"
)
PROBE = "7f3a9c"  # an answer that no template changes


class ModelTokenizer(Protocol):
    """The used part of a Hugging Face tokenizer."""

    chat_template: str | None
    eos_token_id: int | None
    unk_token_id: int | None

    added_tokens_decoder: object  # by id; Mistral's own tokenizer has a method in its place, which raises
    all_special_ids: list[int]

    def get_vocab(self) -> Mapping[str, int]:
        """Return the id of every token, the added ones included."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the tokens of `text`."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """Return the text of the tokens."""
        ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **template_arguments: int | float | str | bool,
    ) -> str:
        """Return the conversation in the format that the model was trained on."""
        ...


def find_stop_ids(
    tokenizer: ModelTokenizer, data: DataSpec, recipe: Recipe, generation_eos: Sequence[int]
) -> tuple[int, ...]:
    """Return the tokens that end a completion, the one that a right completion ends with first; empty if none does.

    These are `stopTokens`, or with `chat` the template's turn end and the end tokens of the model's generation config;
    and in any case the tokenizer's end of sequence.

    Args:
        tokenizer, data, recipe: a name in `stopTokens` that is not one token is left out; `check_tokenizer` refuses it.
        generation_eos: `eos_token_id` of the model's generation config.
    """
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if recipe.stop_tokens:
        found = [find_token(tokenizer, text) for text in recipe.stop_tokens]
    elif data.prompt_format == "chat":
        found = [find_turn_end(tokenizer, data.template_arguments), *eos, *generation_eos]
    else:
        found = []
    return tuple(dict.fromkeys(token for token in [*found, *eos] if token is not None))


def find_token(tokenizer: ModelTokenizer, text: str) -> int | None:
    """Return the token that is `text`; None if there is no such token."""
    tokens = tokenizer.encode(text, add_special_tokens=False)
    return tokens[0] if len(tokens) == 1 and decode_exactly(tokenizer, tokens) == text else None


def find_turn_end(tokenizer: ModelTokenizer, arguments: TemplateArguments) -> int | None:
    """Return the added token by which the chat template ends a turn of the assistant; None if it uses none.

    A template may end a turn with a word or a newline: an answer has these too.
    """
    if tokenizer.chat_template is None:
        return None
    turns = [{"role": "user", "content": PROBE[::-1]}, {"role": "assistant", "content": PROBE}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False, **arguments)
    except (*TEMPLATE_ERRORS, ValueError):  # it may refuse such a conversation and still render a prompt
        return None
    _, answer, end = text.rpartition(PROBE)
    tokens = tokenizer.encode(end.lstrip(), add_special_tokens=False) if answer else []
    return tokens[0] if tokens and tokens[0] in _added_ids(tokenizer) else None


def check_tokenizer(
    tokenizer: ModelTokenizer, data: DataSpec, recipe: Recipe, generation_eos: Sequence[int], num_rows: int | None
) -> list[Fault]:
    """Return the faults of a spec with this tokenizer; empty for one that can be run.

    Args:
        tokenizer, data, recipe: the model's tokenizer and the parts of the spec.
        generation_eos: `eos_token_id` of the model's generation config.
        num_rows: rows of the model's embedding; None: unknown.
    """
    faults = []
    if data.prompt_format == "chat" and tokenizer.chat_template is None:
        faults.append(Fault("spec.data.promptFormat", "chat", "the tokenizer has no chat template; use plain"))
    stop_ids = find_stop_ids(tokenizer, data, recipe, generation_eos)
    faults += _check_stop_tokens(tokenizer, recipe, stop_ids)
    if recipe.length.control == "interruption":
        faults += _check_tags(tokenizer, recipe) or _check_phrase(tokenizer, recipe, stop_ids)
    return faults if num_rows is None else [*faults, *_check_vocabulary(tokenizer, recipe, stop_ids, num_rows)]


def find_tag_warning(tokenizer: ModelTokenizer, data: DataSpec, recipe: Recipe) -> str | None:
    """Return a warning if an interruption is wanted and nothing tells the model to open its thinking; else None."""
    tag = recipe.length.think_tags.open
    texts = (data.prompt_template, tokenizer.chat_template or "" if data.prompt_format == "chat" else "")
    if recipe.length.control != "interruption" or find_token(tokenizer, tag) is not None:
        return None
    if any(tag in text for text in texts):
        return None
    return (
        f"no template and no token of the model has {tag}, which opens the thinking. A completion without it has no "
        f"thinking budget and is cut at {recipe.length.completion_tokens} tokens. To interrupt the thinking, end "
        f"data.promptTemplate with {tag} (promptFormat: plain), or ask for it there (chat)"
    )


def can_spell(tokenizer: ModelTokenizer, text: str) -> bool:
    """Whether `text` comes back from its tokens, spaces at its ends aside."""
    tokens = tokenizer.encode(text, add_special_tokens=False)
    known = tokenizer.unk_token_id is None or tokenizer.unk_token_id not in tokens
    return known and decode_exactly(tokenizer, tokens).strip() == text.strip()


def _added_ids(tokenizer: ModelTokenizer) -> frozenset[int]:
    """The tokens that are no product of merges: a text is never split inside one."""
    added = tokenizer.added_tokens_decoder
    return frozenset(added if isinstance(added, Mapping) else tokenizer.all_special_ids)


def _check_stop_tokens(tokenizer: ModelTokenizer, recipe: Recipe, stop_ids: Sequence[int]) -> Iterator[Fault]:
    for index, text in enumerate(recipe.stop_tokens):
        if find_token(tokenizer, text) is None:
            count = len(tokenizer.encode(text, add_special_tokens=False))
            yield Fault(f"{STOP_PATH}[{index}]", text, f"a text that is one token of the vocabulary, not {count}")
    if not stop_ids:
        yield Fault(
            STOP_PATH, "none", "at least one: the tokenizer has no end of sequence, and no completion would end"
        )


def _check_tags(tokenizer: ModelTokenizer, recipe: Recipe) -> list[Fault]:
    tags = recipe.length.think_tags
    return [Fault(TAGS_PATH, text, TAGS_ALLOWED) for text in (tags.open, tags.close) if not can_spell(tokenizer, text)]


def _check_phrase(tokenizer: ModelTokenizer, recipe: Recipe, stop_ids: Sequence[int]) -> Iterator[Fault]:
    length = recipe.length
    if not can_spell(tokenizer, length.forced_phrase):
        yield Fault(PHRASE_PATH, length.forced_phrase, "a text that the tokenizer can spell")
        return
    tokens = tokenizer.encode(length.forced_phrase, add_special_tokens=False)
    if len(tokens) >= length.answer_tokens:
        allowed = f"more than the {len(tokens)} tokens of length.phrase, or no interrupted completion could answer"
        yield Fault("spec.recipe.length.answerTokens", str(length.answer_tokens), allowed)
    opening = tokenizer.encode(length.think_tags.open, add_special_tokens=False)
    for token in stop_ids:
        if token in (*tokens, *opening):
            text = decode_exactly(tokenizer, [token])
            yield Fault(STOP_PATH, text, "no token of length.phrase or of thinkTags: it would end the completion there")


def _check_vocabulary(
    tokenizer: ModelTokenizer, recipe: Recipe, stop_ids: Sequence[int], num_rows: int
) -> Iterator[Fault]:
    """An id beyond the embedding ends an engine. Some models have such added tokens, for images, that no text needs."""
    added = _added_ids(tokenizer)
    ordinary = [token for token in tokenizer.get_vocab().values() if token not in added]
    tags = recipe.length.think_tags
    texts = (tags.open, tags.close, recipe.length.forced_phrase) if recipe.length.control == "interruption" else ()
    needed = [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False)]
    largest = max([*ordinary, *needed, *stop_ids], default=0)
    if largest >= num_rows:
        allowed = f"a model whose embedding ({num_rows} rows) has every token of its tokenizer"
        yield Fault("spec.model.source", f"token id {largest}", allowed)
