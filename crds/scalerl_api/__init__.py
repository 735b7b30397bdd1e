"""The API shared by operator and runtime: RLRun, its status, and the wire format. Imports pydantic only."""

from scalerl_api.recipe import Recipe
from scalerl_api.rlrun import RLRun, RLRunSpec
from scalerl_api.status import RLRunStatus
from scalerl_api.validation import Fault, InvalidRun, parse_run

__all__ = ["Fault", "InvalidRun", "RLRun", "RLRunSpec", "RLRunStatus", "Recipe", "parse_run"]
