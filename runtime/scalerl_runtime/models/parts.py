"""Finds the parts of a causal LM that the trainer uses: the body that makes hidden states, and the head. PURE."""

from typing import Any

from torch import nn


def find_head(model: Any) -> str:
    """Return the module name of the LM head: a linear layer from the hidden states to the vocabulary.

    Raises:
        ValueError: the model has none, or has one of another kind.
    """
    head = model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if module is head), None)
    if name is None or type(head) is not nn.Linear:
        raise ValueError(f"the model's output layer is {type(head).__name__}; the trainer has a linear head only")
    return str(name)


def find_body(model: Any) -> Any:
    """Return the module that makes the last hidden states of text: of a multimodal class its text part."""
    body = model.base_model if model.base_model is not model else model.model
    return body.get_decoder() if hasattr(body, "get_decoder") else body
