"""What a user may write about the pods of a role. PURE."""

from typing import Any

from pydantic import Field

from scalerl_api.base import ApiModel


class TemplateMetadata(ApiModel):
    """What a user may write on a role's pods."""

    labels: dict[str, str] = Field(default={}, max_length=50)
    """Further labels; those of `scalerl.io/` and `app.kubernetes.io/` are the operator's."""
    annotations: dict[str, str] = Field(default={}, max_length=50)
    """Further annotations."""


class PodTemplate(ApiModel):
    """A Kubernetes PodTemplateSpec that is merged into a role's pods."""

    metadata: TemplateMetadata = TemplateMetadata()
    """Labels and annotations."""
    spec: dict[str, bool | int | str | list[Any] | dict[str, Any]] = Field(default={}, max_length=100)
    """A PodSpec: nodeSelector, tolerations, volumes, priorityClassName, ... The container `runtime` is the role's own;
    others run beside it. What the operator sets itself is refused by name. Only read on a cluster."""
