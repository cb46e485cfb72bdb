"""Image names as container users write them."""

import re
from dataclasses import dataclass

from .model import PullError

HUB = "docker.io"
_HUB_ALIASES = {HUB, "index.docker.io", "registry-1.docker.io"}
_HUB_API = "registry-1.docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """`registry/repository:tag@digest`, all parts filled in but for an absent digest ("")."""

    registry: str
    repository: str
    tag: str
    digest: str

    def __str__(self) -> str:
        return "{}/{}:{}{}".format(self.registry, self.repository, self.tag, "@" + self.digest if self.digest else "")

    @property
    def api_host(self) -> str:
        return _HUB_API if self.registry == HUB else self.registry

    @property
    def wanted(self) -> str:
        """What to ask the registry for: a digest wins over a tag."""
        return self.digest or self.tag


def parse(name: str) -> Reference:
    """The parts of an image name; `busybox` is `docker.io/library/busybox:latest`. Raises PullError."""
    rest = name[len("docker://") :] if name.startswith("docker://") else name
    rest, _, digest = rest.partition("@")
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        registry, path = head, tail
    else:
        registry, path = HUB, rest
    last = path.rsplit("/", 1)[-1]
    tag = "latest"
    if ":" in last:
        path, _, tag = path.rpartition(":")
    registry = canonical(registry)
    if registry == HUB and "/" not in path:
        path = "library/" + path
    wrong = (
        not _REGISTRY.fullmatch(registry)
        or not _REPOSITORY.fullmatch(path)
        or not _TAG.fullmatch(tag)
        or ("@" in name and not _DIGEST.fullmatch(digest))
    )
    if wrong:
        raise PullError(f"image: {name!r} is not a valid image name")
    return Reference(registry, path, tag, digest)


def canonical(registry: str) -> str:
    """The one name of a registry: Docker Hub has several."""
    return HUB if registry in _HUB_ALIASES else registry


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def is_hub(name: str) -> bool:
    return name.startswith("shub://")


def is_loopback(host: str) -> bool:
    """Whether a host, maybe with its port, is this machine by its very name."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]")
    return name in ("localhost", "::1") or bool(re.fullmatch(r"127\.\d+\.\d+\.\d+", name))
