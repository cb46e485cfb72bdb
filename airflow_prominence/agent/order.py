"""An order to a node for one job, as the API hands it out, and where it is kept.

A command and a snapshot are for a running job; storing outputs once more is for one whose folder is kept after its end.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any, Mapping

from .assignment import NO_OUTPUTS, BadAssignment, Outputs, parse_outputs
from .paths import LeasePaths

EXEC = "exec"
SNAPSHOT = "snapshot"
STAGE_OUT = "stage_out"

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z")


class BadOrder(ValueError):
    """One sentence that names the field."""


@dataclass(frozen=True)
class Order:
    """`argv` is a command's; `path` (the container's), `name` (in the archive) and `url` (PUT) are a snapshot's.

    `limit` is in bytes: of what the command writes, of the archive, or of what is told of outputs.
    """

    id: str
    lease: str
    kind: str
    timeout_s: float
    limit: int
    argv: tuple[str, ...] = ()
    path: str = ""
    name: str = ""
    url: str = ""
    outputs: Outputs = NO_OUTPUTS

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Order:
        """Raises BadOrder."""
        order, lease, kind = (_text(raw, key) for key in ("id", "lease", "kind"))
        if not _SAFE.match(order):
            raise BadOrder(f"id: {order!r} is not a plain name")
        timeout, limit = raw.get("timeout_s"), raw.get("limit")
        if not isinstance(timeout, (int, float)) or timeout <= 0 or not isinstance(limit, int):
            raise BadOrder("timeout_s and limit: must be positive numbers")
        if kind == EXEC:
            argv = raw.get("argv")
            if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
                raise BadOrder("argv: must be a list of strings")
            return cls(order, lease, kind, timeout, limit, argv=tuple(argv))
        if kind == SNAPSHOT:
            path, name, url = (_text(raw, key) for key in ("path", "name", "url"))
            return cls(order, lease, kind, timeout, limit, path=path, name=name, url=url)
        if kind == STAGE_OUT:
            try:
                return cls(order, lease, kind, timeout, limit, outputs=parse_outputs(raw))
            except BadAssignment as error:
                raise BadOrder(str(error)) from error
        raise BadOrder(f"kind: {kind!r} is not supported by this agent")


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadOrder(f"{key}: must be a text")
    return value


@dataclass(frozen=True)
class OrderPaths:
    """The record of one order, inside of its lease's: made before anything is done, so nothing is done twice."""

    lease: LeasePaths
    id: str

    @property
    def record(self) -> str:
        return os.path.join(self.lease.commands, self.id)

    @property
    def order(self) -> str:
        return os.path.join(self.record, "order.json")

    @property
    def process(self) -> str:
        return os.path.join(self.record, "pid")

    @property
    def archive(self) -> str:
        return os.path.join(self.record, "snapshot.tgz")

    @property
    def log(self) -> str:
        return os.path.join(self.record, "log")

    @property
    def ended(self) -> str:
        return os.path.join(self.record, "ended")

    @property
    def marker(self) -> str:
        """Tells the command's processes from all others, as the lease's marker tells the job's."""
        return "PROMINENCE_COMMAND=" + self.id

    @property
    def group(self) -> str:
        return "command-" + self.id

    def read(self) -> Order:
        with open(self.order, encoding="utf-8") as handle:
            return Order.parse(json.load(handle))


def orders(lease: LeasePaths) -> list[OrderPaths]:
    """All orders of a lease that have a record on this node."""
    try:
        found = os.listdir(lease.commands)
    except FileNotFoundError:
        return []
    return [OrderPaths(lease, name) for name in sorted(found) if _SAFE.match(name)]
