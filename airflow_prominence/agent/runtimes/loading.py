"""A runtime by its name."""

import importlib
import os
from typing import Optional, Type

from .base import Runtime, RuntimeUnavailable

NAMES = ("bubblewrap", "apptainer", "podman", "udocker", "docker")


def default_engine_dir() -> str:
    if os.geteuid() == 0:
        return "/var/lib/prominence-agent/engine"
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "prominence-agent", "engine")


def load(name: str, engine_dir: Optional[str] = None) -> Runtime:
    """The runtime called `name`; what it keeps for itself (binaries, container storage) is below `engine_dir`."""
    if name not in NAMES:
        raise RuntimeUnavailable("runtime {!r} is not one of {}".format(name, ", ".join(NAMES)))
    module = importlib.import_module("." + name, __package__)
    found: Type[Runtime] = module.RUNTIME
    return found(engine_dir or default_engine_dir())
