"""Makes what a run has beside its pods, and takes over nothing that is not the run's. I/O.

Nobody has to be let read Secrets for that: whose an object is, the API server is asked by a patch that changes nothing.
"""

from collections.abc import Mapping

from scalerl_operator.kube.client import CHILDREN, Json, KubeClient, KubeError
from scalerl_operator.resources.names import LABEL_MANAGED_BY, LABEL_RUN

# Of a create: the object is there; or a quota, a policy, a rule says no, as some also do where it is there.
_PERHAPS_THERE = (403, 409, 422)


class NotOurs(KubeError):
    """There is an object of the name that the run needs, and it is not the run's."""

    def __init__(self, kind: str, name: str):
        words = "it is not this run's, and is left as it is; unless it goes with an earlier run of the same name, "
        super().__init__(f"{kind} {name}", 409, "AlreadyExists", words + "remove it or name the run otherwise")


async def make_child(kube: KubeClient, document: Json, *, is_known: bool) -> None:
    """Make `document` be so. Raises KubeError; NotOurs where its name is somebody else's.

    Args:
        is_known: it was made before, as far as one knows: to create it again would be refused, but a quota may first
            count it twice.
    """
    kind = document["kind"]
    refusal: KubeError | None = None
    if not is_known:
        refusal = await _create(kube, document)
        if refusal is None:
            return
    uid = await _find_ours(kube, document)
    if uid is not None:  # with its uid, so that one that has taken its place meanwhile is not taken for it
        await kube.apply(CHILDREN[kind], {**document, "metadata": {**document["metadata"], "uid": uid}})
    elif refusal is not None:
        raise refusal
    else:
        await kube.create(CHILDREN[kind], document)


async def _create(kube: KubeClient, document: Json) -> KubeError | None:
    """Return why it may be there already; None: it was made."""
    try:
        await kube.create(CHILDREN[document["kind"]], document)
    except KubeError as error:
        if error.status not in _PERHAPS_THERE:
            raise
        return error
    return None


async def _find_ours(kube: KubeClient, document: Json) -> str | None:
    """Return the uid of the run's own object; None if there is none of that name. Raises NotOurs."""
    kind, metadata = document["kind"], document["metadata"]
    try:
        found = await kube.check(CHILDREN[kind], metadata["namespace"], metadata["name"], _marks(metadata))
    except KubeError as error:
        if error.status == 404:
            return None
        if error.status == 422:
            raise NotOurs(kind, metadata["name"]) from error
        raise
    return str(found["metadata"]["uid"])


def _marks(metadata: Json) -> Mapping[str, str]:
    """What only an object of this run has: its owner; of the claim, which nobody owns, our labels."""
    if "ownerReferences" in metadata:
        return {"/metadata/ownerReferences/0/uid": metadata["ownerReferences"][0]["uid"]}
    return {f"/metadata/labels/{_escape(name)}": metadata["labels"][name] for name in (LABEL_MANAGED_BY, LABEL_RUN)}


def _escape(name: str) -> str:
    """Write a name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
