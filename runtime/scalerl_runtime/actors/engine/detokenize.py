"""The text of a whole completion as vLLM writes it token by token. I/O: imports vLLM."""

from types import SimpleNamespace
from typing import Any

from vllm.v1.engine.detokenizer import IncrementalDetokenizer


def detokenize(tokenizer: Any, prompt: list[int], tokens: list[int], parameters: Any, *, stopped: bool) -> str:
    """Return the text of `tokens` after `prompt`.

    A completion is decoded once, at its end: vLLM's own way takes a third of its front end's time. Its class is used
    all the same, as the text depends on the prompt's last tokens and on characters that several tokens spell.

    Args:
        tokenizer: vLLM's; None: there is no text.
        prompt, tokens: ids.
        parameters: the request's SamplingParams.
        stopped: the last token is a stop token, which has no text.
    """
    request: Any = SimpleNamespace(
        request_id="", prompt_token_ids=prompt, prompt_embeds=None, sampling_params=parameters
    )
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
    detokenizer.update(tokens, stopped)
    return str(detokenizer.get_next_output_text(finished=True, delta=False))
