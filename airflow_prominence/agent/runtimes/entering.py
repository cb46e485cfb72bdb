"""A command in a container that is nothing but namespaces: it enters them itself."""

from typing import Dict, List, Optional, Sequence

from ..enter import find
from .base import ContainerSpec, Launch
from .files import run_as


def entered(
    spec: ContainerSpec, argv: List[str], more: Dict[str, str], guard: int, kinds: Sequence[str] = ("mnt",)
) -> Optional[Launch]:
    """What `Runtime.inside` answers; `kinds` are the namespaces that tell the container from what starts it."""
    pid = find(guard, kinds)
    beside = spec.beside(argv, more)
    return None if pid is None else Launch(beside.command(), beside.environment(), run_as(spec), enters=pid)
