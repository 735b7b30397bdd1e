"""Makes the policy of a model, and compares it with the model's own forward before the first step. PURE.

A model that the packed row does not represent would train silently wrong. So a few random sequences are computed twice:
by transformers' eager attention, one sequence at a time, through the model's own head; and packed, by the policy.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scalerl_api import Fault, InvalidRun
from scalerl_runtime.actors.policy import Policy
from scalerl_runtime.actors.sequence.sequence_group import SequenceGroup
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, register_attention
from scalerl_runtime.algorithm.head import Precision
from scalerl_runtime.models.adapters import adapter_parameters
from scalerl_runtime.models.head_transform import measure_transform
from scalerl_runtime.models.parts import find_body
from scalerl_runtime.weights.zero_partitions import full_shape

Running = Callable[[Any], AbstractContextManager[Any]]

MODEL_PATH = "spec.model.source"
ALLOWED = "a model whose own forward the trainer's packed rows represent; docs/models.md lists the families"
# Tokens. To see a leak, every other sequence is changed; those between are short, as a state that leaks decays.
LENGTHS = (33, 7, 19, 7, 5, 7)
MAX_LENGTH = 300  # a window shorter than this is exceeded
TOLERANCE = 1e-3  # nats, mean over tokens, float32; right models have 1e-6
LEAK_TOLERANCE = 1e-4  # nats, mean over tokens, float32; right models have 0, or 1e-6 with experts
# bf16: times the model's own sensitivity to rounding (`_rounding_noise`). Note 060 has the measurements.
NOISE_FACTOR = 4.0
NOISE_FLOOR = 2e-3  # nats; a model of a few equal logits has no noise to multiply
ROUNDING = 2.0**-8  # of bf16, relative: its last digit, or half of it
UNREPRESENTABLE = (ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError)


@dataclass(frozen=True)
class StartReport:
    """Mean absolute differences of log-probabilities, in nats."""

    difference: float  # packed against alone
    leak: float  # of a short sequence, when its neighbours in the row change
    noise: float  # of the model's own forward, when every layer's output is rounded once more; 0 in float32

    @property
    def faults(self) -> list[str]:
        """Say what is too large; empty for a model that is represented."""
        limit = max(NOISE_FACTOR * self.noise, NOISE_FLOOR) if self.noise else TOLERANCE
        leak_limit = max(self.noise, NOISE_FLOOR) if self.noise else LEAK_TOLERANCE
        found = []
        if not self.difference <= limit:  # nan too
            found.append(
                f"log-probabilities differ from the model's own forward by {self.difference:.2g} nats in the mean;"
                f" at most {limit:.2g} is rounding"
            )
        if not self.leak <= leak_limit:
            found.append(
                f"a sequence changes by {self.leak:.2g} nats when its neighbours in a packed row do;"
                f" at most {leak_limit:.2g} is rounding"
            )
        return found


def make_checked_policy(
    model: Any,
    *,
    precision: Precision,
    temperature: float,
    device: torch.device | str = "cpu",
    running: Running = nullcontext,
    group: SequenceGroup | None = None,
) -> Policy:
    """Return the policy of `model`, whose attention and head it replaces.

    Args:
        model: with its own head; any attention. It is moved to `device`.
        precision, temperature: of the policy's head.
        device: where it trains, so that the kernels are those of training.
        running, group: see `compare`.

    Raises:
        InvalidRun: the policy cannot run, or does not compute what the model's own forward computes.
    """
    policy, report = compare(model.to(device), running, group)
    if report.faults:
        raise _invalid(model, "; ".join(report.faults))
    policy.head.precision, policy.head.temperature = precision, temperature
    freeze_unused(policy)
    return policy


def freeze_unused(policy: Policy) -> None:
    """Freeze what text does not pass through, such as a vision tower: ZeRO would decay weights without a gradient.

    With adapters everything but these is frozen.
    """
    adapters = adapter_parameters(policy.model)
    modules = (find_body(policy.model), policy.head)
    used = {id(p) for p in adapters.values()} or {id(p) for module in modules for p in module.parameters()}
    for parameter in policy.parameters():
        parameter.requires_grad_(id(parameter) in used)


def compare(
    model: Any, running: Running = nullcontext, group: SequenceGroup | None = None
) -> tuple[Policy, StartReport]:
    """Replace attention and head of `model`; return the policy and how far it is from what the model was.

    The head computes in float32 at temperature 1 here, as nothing else is comparable with the model's own.
    `running` is a context in which a module may run; under ZeRO-3 its parameters are gathered there.
    `group` are the ranks that share each row, all of which compare: the policy then computes in parts.

    Raises:
        InvalidRun: the policy cannot run.
    """
    was_training = model.training
    model.eval()
    try:
        sequences = plan_sequences(model)
        model.set_attn_implementation("eager")
        with running(model):
            alone = logprobs_alone(model, sequences)
            noise = _rounding_noise(model, sequences, alone)
            transform = measure_transform(model, sequences[0][:4])
        register_attention()
        model.set_attn_implementation(ATTENTION_NAME)
        if find_body(model).config._attn_implementation != ATTENTION_NAME:
            raise ValueError("its layers have an attention of their own, not by transformers' interface")
        policy = Policy(model, precision="fp32", temperature=1.0, transform=transform, group=group)
        with running(policy):
            packed = logprobs_packed(policy, sequences)
            changed = logprobs_packed(policy, [each if i % 2 else each.flip(0) for i, each in enumerate(sequences)])
    except UNREPRESENTABLE as error:
        raise _invalid(model, " ".join(str(error).split()) or repr(error)) from error
    policy.train(was_training)
    return policy, StartReport(_difference(packed, alone), _difference(packed[1::2], changed[1::2]), noise)


def _invalid(model: Any, found: str) -> InvalidRun:
    return InvalidRun([Fault(MODEL_PATH, f"{type(model).__name__}: {found}", ALLOWED)])


def plan_sequences(model: Any) -> list[Tensor]:
    """Return random sequences of ordinary tokens; the first is longer than a short window."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    longest = [LENGTHS[0], *(window + LENGTHS[0] for window in windows if isinstance(window, int))]
    lengths = (max(length for length in longest if length <= MAX_LENGTH), *LENGTHS[1:])
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    ordinary = torch.ones(min(full_shape(embeddings)[0], full_shape(head.weight)[0]))
    # Ids of images and the like stand for inputs that are not there.
    special = [value for name, value in _numbers(model.config) if name.endswith(("token_id", "token_index"))]
    ordinary[[value for value in special if 0 <= value < len(ordinary)]] = 0.0
    generator = torch.Generator().manual_seed(0)
    return [torch.multinomial(ordinary, n, True, generator=generator).to(embeddings.device) for n in lengths]


def _numbers(config: Any) -> list[tuple[str, int]]:
    parts = [config.to_dict(), config.get_text_config().to_dict()]
    return [(name, value) for part in parts for name, value in part.items() if isinstance(value, int)]


@torch.no_grad()
def logprobs_alone(model: Any, sequences: Sequence[Tensor]) -> list[Tensor]:
    """Log-probabilities of all tokens but the first, [T - 1] each, from the model's own forward of each sequence.

    Raises ValueError if the model has another number of logits than tokens.
    """
    found = []
    for tokens in sequences:
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].float()
        if len(logits) != len(tokens) - 1:
            raise ValueError(f"the model returns logits of {len(logits) + 1} positions for {len(tokens)} tokens")
        found.append(logits.log_softmax(-1).gather(1, tokens[1:, None]).squeeze(1))
    return found


@torch.no_grad()
def logprobs_packed(policy: Policy, sequences: Sequence[Tensor]) -> list[Tensor]:
    """Return the same from one packed row of all sequences."""
    logp, _ = policy(*pack_all(sequences))
    return list(torch.split(logp, [len(tokens) - 1 for tokens in sequences]))


def pack_all(sequences: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the policy's inputs for a row of `sequences` of which all tokens but the first are trained."""
    tokens = torch.cat(list(sequences))
    positions = torch.cat([torch.arange(len(each), device=tokens.device) for each in sequences])
    lengths = torch.tensor([0, *(len(each) for each in sequences)], device=tokens.device)
    trained = (positions > 0).nonzero().squeeze(1)
    return tokens, positions, lengths.cumsum(0), trained - 1, tokens[trained]


def _difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return float((torch.cat(list(left)).double() - torch.cat(list(right)).double()).abs().mean())


def _rounding_noise(model: nn.Module, sequences: Sequence[Tensor], alone: Sequence[Tensor]) -> float:
    """Return the change of the log-probabilities when every layer's output is rounded once more, at random.

    Two right ways of computing a bf16 model differ by rounding, and by how much depends on the model: on its depth, on
    how its layers amplify, on experts that are chosen by a hair. float32 needs no such measure.
    """
    if next(model.parameters()).dtype == torch.float32:
        return 0.0
    generator = torch.Generator(device=sequences[0].device).manual_seed(0)

    def jitter(_module: nn.Module, _inputs: object, output: object) -> object:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        random = torch.rand(output.shape, generator=generator, device=output.device)
        return (output.float() * (1.0 + ROUNDING * (2.0 * random - 1.0))).to(output.dtype)

    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [module.register_forward_hook(jitter) for module in leaves]
    try:
        return _difference(logprobs_alone(model, sequences), alone)
    finally:
        for handle in handles:
            handle.remove()
