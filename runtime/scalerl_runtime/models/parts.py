"""Finds the parts of a causal LM that the trainer uses: the body that makes hidden states, and the head. PURE."""

from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


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


def find_layers(body: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of `body`, in order; a layer inside a layer is computed again with the outer one."""
    found: list[nn.Module] = []
    for child in body.children():
        found += [child] if isinstance(child, GradientCheckpointingLayer) else find_layers(child)
    return found


def auto_class(config: Any) -> Any:
    """Return the Auto class that trainer, gate and export load a model of this configuration by.

    Raises:
        ValueError: transformers has no class with a language-model head for it.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise ValueError(f"transformers has no causal language model for model_type {config.model_type!r}")
