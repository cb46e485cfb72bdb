"""Storing the outputs of a job that has ended once more, from what is kept of it, for an order of the API."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from .kept import Kept
from .order import Order
from .staging.outgoing import store_each
from .staging.outputs import Source, StageOut
from .staging.uploads import ObjectStore
from .users import User
from .wire import encode


class Stopped(Exception):
    """There shall be no more of it, or it broke off; the text says why."""


def store(
    order: Order,
    kept: Kept,
    source: tuple[User, str],
    to: tuple[str, str | None],
    guarded: Callable[[StageOut], Mapping[str, Any]],
    tell: Callable[[bytes], str | None],
) -> tuple[int | None, str | None]:
    """Exit code and error: 0 when all outputs are stored, else why not.

    `source` is the job's user and a folder for archives, `to` the token for URLs and a file of CAs. `guarded` runs each
    output and raises Stopped; `tell` delivers a line of JSON, and says why to stop, if there is a reason.
    """
    user, scratch = source
    token, ca_file = to

    def told(kind: str, data: dict[str, Any]) -> None:
        stop = tell(encode({"kind": kind, "data": data}) + b"\n")
        if stop is not None:
            raise Stopped(stop)

    try:
        reason = store_each(
            order.outputs.wanted,
            Source(kept.roots, scratch, user, kept.disk_mb << 20),
            ObjectStore(order.outputs.folder, order.outputs.url, token, ca_file),
            guarded,
            told,
        )
    except Stopped as stopped:
        return None, str(stopped)
    return (0, None) if reason is None else (None, reason)
