"""The commands that run a container, one module each, behind one small interface."""

from .base import ContainerError, ContainerSpec, Launch, Runtime, RuntimeUnavailable, Usage
from .loading import NAMES, load

__all__ = ["NAMES", "ContainerError", "ContainerSpec", "Launch", "Runtime", "RuntimeUnavailable", "Usage", "load"]
