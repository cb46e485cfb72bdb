"""Which of a multi-platform image's variants this machine runs."""

import platform
from typing import Any, Dict, List

from .model import PullError

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def architecture() -> str:
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def choose(manifests: List[Dict[str, Any]]) -> Dict[str, Any]:
    """The entry of an image index for this machine."""
    ours = architecture()
    offered = []
    for entry in manifests:
        have = entry.get("platform") or {}
        pair = (have.get("os", "linux"), have.get("architecture", ours))
        if pair == ("linux", ours):
            return entry
        offered.append("{}/{}".format(*pair))
    raise PullError("image: has no variant for linux/{} (it has {})".format(ours, ", ".join(offered) or "none"))
