"""A job's volume, where it is mounted, and what a tool is that mounts it."""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Mapping

from ..addresses import Allowed


class Unmountable(Exception):
    """The volume can't be mounted; one sentence says why. `final` if it will not help to try again."""

    def __init__(self, sentence: str, final: bool = False) -> None:
        super().__init__(sentence)
        self.final = final


@dataclass(frozen=True)
class Volume:
    """What a document says of its storage. `account` holds its secrets."""

    kind: str
    mountpoint: str
    account: Mapping[str, str] = field(repr=False)


def parse(raw: Mapping[str, Any]) -> Volume:
    """The volume of an assignment's `storage`; raises ValueError naming the field."""
    kind, mountpoint = raw.get("type"), raw.get("mountpoint")
    if kind not in ("webdav", "b2drop", "onedata"):
        raise ValueError(f"storage.type: {kind!r} is not supported by this agent")
    if not isinstance(mountpoint, str) or not mountpoint.startswith("/"):
        raise ValueError("storage.mountpoint: must be an absolute path")
    account = raw.get(kind)
    if not isinstance(account, dict) or not all(isinstance(value, str) for value in account.values()):
        raise ValueError(f"storage.{kind}: must map strings to strings")
    # a leading double slash has a meaning of its own in POSIX
    return Volume(kind, "/" + posixpath.normpath(mountpoint).lstrip("/"), account)


@dataclass(frozen=True)
class Place:
    """Where a volume is mounted on the node, for whom, and what its tool may use there.

    No job's process can change a folder on the way to `point`, or enter `folder`.
    """

    point: str
    folder: str  # for the tool's own files
    uid: int
    gid: int
    allowed: Allowed
    everybody: bool  # whether it can be mounted for users other than the one who mounts it


class Tool(ABC):
    """A program that mounts volumes, in the foreground and until it gets SIGTERM."""

    #: How it is called in the job's story.
    name: str

    @abstractmethod
    def check(self, volume: Volume, place: Place, timeout_s: float) -> None:
        """Ask the server whether this will do; raises Unmountable."""

    @abstractmethod
    def command(self, volume: Volume, place: Place) -> tuple[list[str], dict[str, str]]:
        """argv and environment of the program; no secret is in argv. Raises Unmountable."""

    def unsaved(self, place: Place) -> list[str]:  # noqa: ARG002 - for those that override it
        """Files that the job has written and the server does not have yet."""
        return []
