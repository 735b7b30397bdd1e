"""The size of the claim that holds a run's folder, from the sizes of its model.

A checkpoint has the weights in the model's type and AdamW's float32 state: weights, two moments. In float32 DeepSpeed
keeps its own copy of the weights beside the model's. With adapters a checkpoint is smaller: the size is then an upper
bound, and no claim is refused. PURE.
"""

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_api.addresses import parse_hub_model, to_plain_path
from scalerl_api.rlrun import SCRATCH, ScratchModel
from scalerl_operator.capacity.model_shape import parse_model
from scalerl_operator.capacity.published_models import find_published, scratch_config

PATH = "spec.checkpoint.claimSize"
UNKNOWN_SIZE = "100Gi"  # of a claim for a model whose sizes are not known here
NUM_SPARE = 2  # checkpoints beyond `keep`: one that is written, one that an evaluation still needs
NUM_MODELS = 2  # model-final and model-best
GIBIBYTE = 2**30
OTHER_BYTES = GIBIBYTE  # records, logs, data of buckets
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}


def count_parameters(run: RLRun) -> int | None:
    """Return the number of parameters of the run's model; None if its sizes are not known here."""
    source = run.spec.model.source
    if source == SCRATCH:
        return parse_model(scratch_config(run.spec.model.scratch or ScratchModel()), SCRATCH).parameters
    name = parse_hub_model(to_plain_path(source))
    config = None if name is None else find_published(name.name)
    if config is None:
        return None
    try:
        return parse_model(config, source).parameters
    except InvalidRun:
        return None


def needed_bytes(run: RLRun, parameters: int) -> int:
    """Return the size of the run's folder at its largest, with a copy of the model in the cache."""
    spec, weights = run.spec, run.spec.model.item_bytes * parameters
    checkpoints = (spec.checkpoint.keep + NUM_SPARE) * run.spec.model.checkpoint_bytes(parameters)
    return checkpoints + (NUM_MODELS + 1) * weights + spec.rollouts.max_megabytes * 1_000_000 + OTHER_BYTES


def fit_claim(run: RLRun) -> str:
    """Return the size of the claim that is created for the run: the spec's, else what its model needs."""
    spec = run.spec.checkpoint
    if spec.claim_size is not None:
        return spec.claim_size
    parameters = count_parameters(run)
    if parameters is None:
        return UNKNOWN_SIZE
    return f"{-(-needed_bytes(run, parameters) // GIBIBYTE)}Gi"


def check_claim(run: RLRun) -> list[Fault]:
    """Return a fault for a claim whose size cannot hold the checkpoints to keep and one that is written."""
    spec, parameters = run.spec.checkpoint, count_parameters(run)
    if spec.claim_size is None or spec.claim_name is not None or parameters is None or run.spec.model.lora is not None:
        return []
    num, size = spec.keep + 1, run.spec.model.checkpoint_bytes(parameters)
    if parse_quantity(spec.claim_size) >= num * size:
        return []
    needed = -(-needed_bytes(run, parameters) // GIBIBYTE)
    words = f"{num} checkpoints of {size / 1e9:.1f} GB ({parameters / 1e9:.2f} billion parameters) do not fit"
    return [Fault(PATH, spec.claim_size, f"at least {needed}Gi, or unset: {words}")]


def parse_quantity(text: str) -> int:
    """Return the bytes of a size such as `100Gi`."""
    return int(text[:-2]) * _UNITS[text[-2:]]
