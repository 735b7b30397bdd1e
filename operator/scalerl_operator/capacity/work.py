"""Costs of one token: operations, bytes of weights and of cache. PURE."""

from dataclasses import dataclass

from scalerl_operator.capacity.model_shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class ExpertWork:
    """The routed experts of all layers."""

    parameters: int
    """Of all experts of all layers."""
    number: int
    """Of one layer."""
    chosen: int
    """Of a token."""


@dataclass(frozen=True, kw_only=True)
class ModelWork:
    """Sizes of a model that its time depends on."""

    parameters: int
    """All values of the model; a tied matrix counts once."""
    active_parameters: int
    """Values that a token is multiplied with in one pass: layers without the experts not chosen, and the head."""
    head_parameters: int
    layers: int
    attention_width: float
    """Query heads times (width of a key + width of a value) / 2."""
    kv_numbers: int
    """Numbers that all layers cache of a token."""
    hidden: int = 0
    """Width."""
    windows: tuple[int | None, ...] = ()
    """Most tokens that each layer attends; None, or a layer that is not named: all before it."""
    experts: ExpertWork | None = None
    kv_heads: int = 0
    """Heads of keys that attention gets; with a latent attention all."""
    kv_width: int = 0
    """Of a head's key and value together."""
    adapters: int | None = None
    """Values of low-rank adapters, which are trained in place of the model's; None: the model's are."""

    @property
    def trained_parameters(self) -> int:
        """Values that are trained, sent and stored."""
        return self.parameters if self.adapters is None else self.adapters

    @property
    def body_parameters(self) -> int:
        """Active values without the head."""
        return self.active_parameters - self.head_parameters

    @property
    def _windows_of_layers(self) -> tuple[int | None, ...]:
        return (*self.windows, *[None] * (self.layers - len(self.windows)))

    def attention_flops(self, sequences: float, mean: float, mean_square: float) -> float:
        """Return the operations of one forward's causal attention.

        Args:
            sequences: number.
            mean, mean_square: of their tokens, and of these squared.

        A sequence of T tokens has T^2 / 2 pairs of a query and a key, with a window of w at most T w. Scores and values
        take 2 operations for each pair and unit of width.
        """
        half = mean_square / 2
        pairs = sum(half if each is None else min(half, mean * each) for each in self._windows_of_layers)
        return 4.0 * self.attention_width * sequences * pairs

    def cached_layer_tokens(self, context: float) -> float:
        """Return the tokens that a sequence's cache holds and a step reads, summed over the layers."""
        return sum(context if each is None else min(context, each) for each in self._windows_of_layers)

    def read_parameters(self, running: float) -> float:
        """Return the values that a decoding step of so many tokens reads: each matrix once, and the chosen experts.

        With independent, even choices an expert is missed by n tokens with the chance (1 - chosen / number)^n.
        """
        once = self.active_parameters + (self.adapters or 0)
        if self.experts is None:
            return float(once)
        share = self.experts.chosen / self.experts.number
        missed = float((1 - share) ** max(1.0, running))
        return once + self.experts.parameters * (1 - missed - share)


def measure_work(shape: ModelShape, adapters: int | None = None) -> ModelWork:
    """Return the work of a model's shape, with so many values of adapters where these are trained."""
    layers = shape.layer_shapes
    routed = [each for each in layers if each.experts]
    experts = None
    if routed:
        # A layer's experts that are not chosen are all that it has beyond its active parameters.
        spare = sum((each.parameters - each.active_parameters) for each in routed)
        number, chosen = routed[0].experts, min(routed[0].chosen, routed[0].experts)
        total = spare * number / (number - chosen) if number > chosen else 0
        experts = ExpertWork(parameters=round(total), number=number, chosen=chosen) if total else None
    return ModelWork(
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        head_parameters=shape.head_parameters,
        layers=shape.layers,
        attention_width=shape.heads * (shape.head_dim + shape.value_dim) / 2,
        kv_numbers=shape.kv_numbers * shape.layers,
        hidden=shape.hidden,
        windows=tuple(each.window for each in layers),
        experts=experts,
        kv_heads=shape.heads if shape.is_latent else shape.kv_heads,
        kv_width=shape.head_dim + shape.value_dim,
        adapters=adapters,
    )
