"""The part of a role's pods that a user may set. PURE."""

from typing import Any

from pydantic import Field

from scalerl_api.base import ApiModel


class TemplateMetadata(ApiModel):
    """Metadata that is added to a role's pods."""

    labels: dict[str, str] = Field(default={}, max_length=50)
    """Further labels; `scalerl.io/` and `app.kubernetes.io/` are reserved for the operator."""
    annotations: dict[str, str] = Field(default={}, max_length=50)
    """Further annotations."""


class PodTemplate(ApiModel):
    """A Kubernetes PodTemplateSpec that is merged into a role's pods."""

    metadata: TemplateMetadata = TemplateMetadata()
    """Labels and annotations."""
    spec: dict[str, bool | int | str | list[Any] | dict[str, Any]] = Field(default={}, max_length=100)
    """A PodSpec: nodeSelector, tolerations, volumes, priorityClassName, ... The container `runtime` is the role's own;
    others run beside it. A field that the operator sets itself is refused by name. Only read on a cluster."""
