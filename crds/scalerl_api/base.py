"""The base of every API type: frozen, camelCase on the wire, no unknown field. PURE."""

from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import PydanticCustomError

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$"
NAME_ALLOWED = "1 to 52 lower-case letters, digits and '-', with a letter or digit at both ends"
# A run's Service is named after it, and before Kubernetes 1.36 a Service's name begins with a letter.
RUN_NAME_PATTERN = r"^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$"  # 52: pod names add a role, an index and a hash
RUN_NAME_ALLOWED = "1 to 52 lower-case letters, digits and '-', with a letter first and a letter or digit last"


class ApiModel(BaseModel):
    """Snake case in Python, camel case in YAML; an unknown field is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_strict_as_the_api_server(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would silently convert: `true` or "8" for a whole number, 1 for true."""
        kinds = _kinds(cls, info.field_name or "")
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise PydanticCustomError("int_type" if int in kinds else "float_type", "a number is needed")
        if isinstance(value, str) and int in kinds and str not in kinds:
            raise PydanticCustomError("int_type", "a number is needed")
        if bool in kinds and len(kinds) == 1 and not isinstance(value, bool):
            raise PydanticCustomError("bool_type", "true or false is needed")
        return value

    def find_text(self, path: str) -> str:
        """Return the text at `path`, such as `model.source`; empty if a part of it is unset or no text is there."""
        found: object = self
        for part in path.split("."):
            found = getattr(found, to_snake(part), None)
        return found if isinstance(found, str) else ""


@cache
def _kinds(model: type[BaseModel], name: str) -> frozenset[Any]:
    """The plain types that a field accepts: {int, NoneType} for `int | None`; none for a list or a mapping."""
    annotation = model.model_fields[name].annotation
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Literal):
        return frozenset(each if isinstance(each, type) else type(each) for each in get_args(annotation))
    return frozenset({annotation}) if origin is None else frozenset()
