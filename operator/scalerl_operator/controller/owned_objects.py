"""Creates and updates the objects of a run beside its pods; an object of another owner is left alone. I/O.

Ownership is checked with a no-op patch, so the operator needs no `get` on Secrets.
"""

from collections.abc import Mapping

from scalerl_operator.kube.client import CHILDREN, Json, KubeClient, KubeError
from scalerl_operator.resources.names import LABEL_MANAGED_BY, LABEL_RUN

# Answers to a create where the object may exist: 409; and 403 or 422 by quota or policy, which come first in some
# cases.
_MAY_EXIST = (403, 409, 422)


class NotOurs(KubeError):
    """An object of another owner has the name that the run needs."""

    def __init__(self, kind: str, name: str):
        words = "it is not this run's, and is left as it is; unless it goes with an earlier run of the same name, "
        super().__init__(f"{kind} {name}", 409, "AlreadyExists", words + "remove it or name the run otherwise")


async def make_child(kube: KubeClient, document: Json, *, is_known: bool) -> None:
    """Create or update the object `document`. Raises KubeError; NotOurs if another owner has the name.

    Args:
        is_known: the object probably exists: check before a create, which a quota may count twice.
    """
    kind = document["kind"]
    refusal: KubeError | None = None
    if not is_known:
        refusal = await _create(kube, document)
        if refusal is None:
            return
    found = await _find_ours(kube, document)
    if found is not None:  # with the uid: the apply fails if another object has replaced it meanwhile
        metadata = {**document["metadata"], "uid": str(found["metadata"]["uid"])}
        await kube.apply(CHILDREN[kind], {**_keep_size(document, found), "metadata": metadata})
    elif refusal is not None:
        raise refusal
    else:
        await kube.create(CHILDREN[kind], document)


async def _create(kube: KubeClient, document: Json) -> KubeError | None:
    """Create the object; return the error if it may exist already, None if it was created."""
    try:
        await kube.create(CHILDREN[document["kind"]], document)
    except KubeError as error:
        if error.status not in _MAY_EXIST:
            raise
        return error
    return None


def _keep_size(document: Json, found: Json) -> Json:
    """Return `document` with the size that a claim has: the spec's is that of a new claim, and none may shrink."""
    if document["kind"] != "PersistentVolumeClaim" or "resources" not in found.get("spec", {}):
        return document
    return {**document, "spec": {**document.get("spec", {}), "resources": found["spec"]["resources"]}}


async def _find_ours(kube: KubeClient, document: Json) -> Json | None:
    """Return the run's object; None if no object has the name. Raises NotOurs."""
    kind, metadata = document["kind"], document["metadata"]
    try:
        found = await kube.check(CHILDREN[kind], metadata["namespace"], metadata["name"], _identifying_values(metadata))
    except KubeError as error:
        if error.status == 404:
            return None
        if error.status == 422:
            raise NotOurs(kind, metadata["name"]) from error
        raise
    return found


def _identifying_values(metadata: Json) -> Mapping[str, str]:
    """Values that only an object of this run has: its owner; for the claim, which has no owner, our labels."""
    if "ownerReferences" in metadata:
        return {"/metadata/ownerReferences/0/uid": metadata["ownerReferences"][0]["uid"]}
    return {f"/metadata/labels/{_escape(name)}": metadata["labels"][name] for name in (LABEL_MANAGED_BY, LABEL_RUN)}


def _escape(name: str) -> str:
    """Write a name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
