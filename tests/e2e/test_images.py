"""The images of the later tests hold the code and its packages, and no build tool."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab import USER, Platform, call

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]  # the first one builds the images
LABELS = "org.opencontainers.image."
PROGRAMS = ("pip", "pip3", "uv", "gcc", "cc", "g++", "make")
BINARIES = ("opt/scalerl/bin", "usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")  # PATH
PACKAGES = "opt/scalerl/lib/python3.11/site-packages"
Json = dict[str, Any]


def describe_image(image: str) -> Json:
    """The image's configuration."""
    found: Json = json.loads(call("buildah", "inspect", "--type", "image", image))["OCIv1"]["config"]
    return found


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The image's files; nothing of it runs."""
    container = call("buildah", "from", "--pull-never", image).strip()
    try:
        yield Path(call("buildah", "mount", container).strip())
    finally:
        call("buildah", "rm", container)


@pytest.mark.parametrize(
    ("role", "absent"),
    [
        ("operator", ("torch", "vllm", "ray", "kubernetes", "pip", "setuptools", "wheel")),
        ("runtime", ("pip",)),  # torch brings setuptools
    ],
)
def test_image_is_not_roots_and_has_no_build_tools(platform: Platform, role: str, absent: tuple[str, ...]) -> None:
    if not platform.is_ours:
        pytest.skip("the images of KUBECONFIG's cluster were not built here")
    image = platform.operator_image if role == "operator" else platform.runtime_image
    config = describe_image(image)
    assert config["User"] == f"{USER}:{USER}"
    labels = {key.removeprefix(LABELS): text for key, text in config["Labels"].items() if key.startswith(LABELS)}
    name, version = image.removeprefix("localhost/").rsplit(":", 1)
    assert (labels["title"], labels["version"], labels["licenses"]) == (name, version, "Apache-2.0")
    assert labels["description"]
    with mounted(image) as root:
        names = {path.name for folder in BINARIES for path in (root / folder).iterdir()}
        assert {"python", "python3"} <= names, "the image's programs were looked at"
        assert names.isdisjoint(PROGRAMS)
        packages = {path.name for path in (root / PACKAGES).iterdir()}
        assert f"scalerl_{role}" in packages
        assert packages.isdisjoint(absent)
        assert not (root / "opt/scalerl-build").exists()
        assert not (root / "tools").exists()
