"""Storing the outputs of a job that has ended once more, from what is kept of it, for an order of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Mapping

from .kept import Kept
from .order import Order
from .staging.outgoing import store_each
from .staging.outputs import Source, StageOut
from .staging.uploads import ObjectStore
from .users import User
from .wire import Unreachable, encode


class Stopped(Exception):
    """There shall be no more of it, or it broke off; the text says why."""


@dataclass(frozen=True)
class Storing:
    """What is stored: `scratch` is a folder for archives, `token` reads the one that URLs are asked for with."""

    order: Order
    kept: Kept
    user: User
    scratch: str
    token: Callable[[], str]
    ca_file: str | None


def store(
    storing: Storing, guarded: Callable[[StageOut], Mapping[str, Any]], tell: Callable[[bytes], str | None]
) -> tuple[int | None, str | None]:
    """Exit code and error: 0 when all outputs are stored, else why not.

    `guarded` runs each output and raises Stopped; `tell` delivers a line of JSON, and says why to stop, if there is a
    reason.
    """
    kept, outputs = storing.kept, storing.order.outputs

    def told(kind: str, data: dict[str, Any]) -> None:
        stop = tell(encode({"kind": kind, "data": data}) + b"\n")
        if stop is not None:
            raise Stopped(stop)

    try:
        source = Source(kept.roots, storing.scratch, storing.user, kept.disk_mb << 20)
        to = ObjectStore(outputs.folder, outputs.url, storing.token(), storing.ca_file)
        reason = store_each(outputs.wanted, source, to, guarded, told)
    except (Stopped, Unreachable) as stopped:
        return None, str(stopped)
    return (0, None) if reason is None else (None, reason)
