"""Sizes of low-rank adapters: what a run with `model.lora` trains, and an engine's room for it.

An adapter of rank r of a layer from n to m numbers has r (n + m) values.
"""

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_api.rlrun import LoraSpec
from scalerl_operator.capacity.model_shape import LayerShape, Linear, ModelShape

LORA_PATH = "spec.model.lora"
TARGETS_PATH = f"{LORA_PATH}.targetModules"


def check_adapters(shape: ModelShape, lora: LoraSpec) -> None:
    """Raise InvalidRun for adapters that the model cannot have."""
    linears = [linear for layer in shape.layer_shapes for linear in layer.linears]
    names = sorted({each.name for each in linears})
    if not names:
        raise InvalidRun([Fault(LORA_PATH, f"set, but {shape.family} has no layer for it", "unset for this model")])
    if unknown := sorted(set(lora.target_modules or ()) - set(names)):
        raise InvalidRun([Fault(TARGETS_PATH, ", ".join(unknown), f"linear layers of the model: {', '.join(names)}")])
    adapted = [linear for layer in shape.layer_shapes for linear in list_adapted(layer, lora)]
    experts = shape.traits.experts
    hidden = {each.name for each in adapted if each.kind in ("wide", "mlp output")}
    if shape.has_experts and experts is not None and experts.hides_mlp and hidden:
        found = ", ".join(sorted(hidden))
        others = ", ".join(name for name in names if name not in hidden)
        raise InvalidRun([Fault(TARGETS_PATH, f"{found}, names of experts too", f"some of {others}")])
    width, narrow = min((min(each.inputs, each.outputs), each.name) for each in adapted)
    if lora.rank > width:
        allowed = f"at most {width}, the width of {narrow}; or targetModules without it"
        raise InvalidRun([Fault(f"{LORA_PATH}.rank", str(lora.rank), allowed)])


def list_adapted(layer: LayerShape, lora: LoraSpec) -> list[Linear]:
    """Return the layer's linear layers that get an adapter."""
    return [each for each in layer.linears if lora.target_modules is None or each.name in lora.target_modules]


def count_trained(shape: ModelShape, run: RLRun) -> int:
    """Return the number of trained values: of the adapters, or of the whole model."""
    lora = run.spec.model.lora
    return shape.parameters if lora is None else sum(_count(each, lora) for each in shape.layer_shapes)


def count_held(shape: ModelShape, run: RLRun) -> int:
    """Return the number of weights that the trainer holds: the model's, and the adapters' beside them."""
    return shape.parameters + (0 if run.spec.model.lora is None else count_trained(shape, run))


def adapters_of(shape: ModelShape, run: RLRun) -> int | None:
    """Return the values of the run's adapters; None where the whole model is trained."""
    return None if run.spec.model.lora is None else count_trained(shape, run)


def largest_trained_layer(shape: ModelShape, run: RLRun) -> int:
    """Return the trained values of the layer that has most of them."""
    lora = run.spec.model.lora
    if lora is None:
        return shape.largest_layer.parameters
    return max(_count(each, lora) for each in shape.layer_shapes)


def count_engine_numbers(shape: ModelShape, lora: LoraSpec, split: int) -> int:
    """Return the numbers that each of an engine's `split` GPUs has for adapters, of the rank that it has room for.

    vLLM holds A whole and B in shares, or the other way round for the layers whose inputs are shared; both whole for
    projections into latents. It makes queries, keys and values one layer, and gate and up; room is for all of a layer.
    """
    total = 0
    for layer in shape.layer_shapes:
        adapted = list_adapted(layer, lora)
        kinds = {each.kind for each in adapted} - {"latent"}
        with_room = [each for each in layer.linears if each.kind in kinds or each in adapted]
        total += sum(_engine_width(each, split) for each in with_room)
    return lora.engine_rank * total


def _engine_width(linear: Linear, split: int) -> int:
    if linear.kind in ("attention output", "mlp output"):
        return -(-linear.inputs // split) + linear.outputs
    return linear.inputs + (linear.outputs if linear.kind == "latent" else -(-linear.outputs // split))


def _count(layer: LayerShape, lora: LoraSpec) -> int:
    return sum(lora.rank * (each.inputs + each.outputs) for each in list_adapted(layer, lora))
