"""A whole completion, with its text as vLLM writes it token by token. I/O: imports vLLM."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from scalerl_runtime.types import EngineOutput


def build_output(
    tokenizer: Any,
    prompt: list[int],
    parameters: Any,
    sampled: tuple[list[int], Sequence[float], Sequence[int]],
    *,
    stopped: bool,
) -> EngineOutput:
    """Return the output of a completion that ended.

    Args:
        tokenizer, prompt, parameters, stopped: see `detokenize`.
        sampled: ids, log-probabilities (nats) and versions of the tokens.
    """
    tokens, logps, versions = sampled
    return EngineOutput(
        tokens=np.asarray(tokens, dtype=np.int32),
        logps=np.asarray(logps, dtype=np.float32),
        versions=np.asarray(versions, dtype=np.int32),
        text=detokenize(tokenizer, prompt, tokens, parameters, stopped=stopped),
        finish="stop" if stopped else "length",
    )


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
