"""The size of Ray's object store, which lies in each pod's /dev/shm. PURE."""

from scalerl_api.recipe import Recipe
from scalerl_runtime.algorithm.microbatch import PACKED_TOKEN_BYTES

BASE_BYTES = 512 * 2**20  # completions on their way to the coordinator, headers of weights, log-probabilities of a step
EXPERT_BYTES = 2048  # of a token with `routerReplay`: 128 layers of 8 experts, two bytes each; few models have more


def object_store_bytes(recipe: Recipe) -> int:
    """Return the bytes of a store that holds the largest batch on its way to the ranks, beside all else.

    The largest batch has every completion at the recipe's limit. The memory is taken only when objects fill it.
    """
    sequences = recipe.prompts_per_step * recipe.completions_per_prompt
    token_bytes = PACKED_TOKEN_BYTES + (EXPERT_BYTES if recipe.router_replay else 0)
    return BASE_BYTES + sequences * recipe.length.sequence_tokens * token_bytes
