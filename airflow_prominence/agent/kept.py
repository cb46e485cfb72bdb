"""Folders of jobs that have ended, kept for a time so that their outputs can be stored once more.

Kept is what outputs are read from, the job's home and its /tmp, with the user whose they are; nothing of images, mounts
or tokens. A folder goes when its time is over, when nobody can need it any more, or before that, the oldest first, when
the node's disk is wanted for a job.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Callable, Mapping

from . import forks, linux, stage, sweep, users
from .limits import used_bytes
from .paths import LeasePaths, read_json, write_atomic

NOT_KEPT = "the job's directory is not kept on this node any more"

KEPT = "kept"
DROPPING = "dropping"


@dataclass(frozen=True)
class Leavings:
    """What may be kept of a job: the container's paths with the node's, the job's disk in MB, for how long (s)."""

    roots: Mapping[str, str]
    disk_mb: int
    keep_s: float


@dataclass(frozen=True)
class Kept:
    """What is kept of a job. Times are epoch seconds."""

    roots: Mapping[str, str]
    disk_mb: int
    size_mb: int
    since: float
    until: float

    @classmethod
    def read(cls, paths: LeasePaths) -> Kept | None:
        """None when nothing is kept, or was by another version of ours that wrote otherwise."""
        try:
            found = read_json(paths.kept)
            return None if found is None else cls(**found)
        except (TypeError, ValueError):
            return None


def keep(paths: LeasePaths, leavings: Leavings) -> bool:
    """Keep what may be kept and remove the rest; False if it could not be parted."""
    if not (sweep.detach(paths) and stage.remove_scratch(paths.job)):
        return False
    size = used_bytes(paths.job)
    now = time.time()
    kept = Kept(leavings.roots, leavings.disk_mb, -(-size // (1 << 20)), now, now + leavings.keep_s)
    write_atomic(paths.kept, json.dumps(asdict(kept)))
    return True


def total_mb(state: str, leases: list[str]) -> int:
    """How much disk is taken by what is kept of these leases."""
    found = [Kept.read(LeasePaths(state, lease)) for lease in leases]
    return sum(kept.size_mb for kept in found if kept is not None)


class KeptFolders:
    """What is kept on a node, as its service sees it. `in_use` says whether a lease's folder is being read just now."""

    def __init__(self, state: str, disk_mb: int, in_use: Callable[[str], bool]) -> None:
        self._state = state
        self._disk_mb = disk_mb
        self._in_use = in_use
        self._kept: dict[str, Kept] = {}
        self._unwanted: set[str] = set()
        self._dropping: dict[int, str] = {}

    def state_of(self, lease: str) -> str | None:
        """What the API hears of an ended lease: `kept`, `dropping` while it is being removed, None if nothing is."""
        if lease in self._dropping.values() or lease in self._unwanted:
            return DROPPING
        return KEPT if lease in self._kept else None

    def ended(self, lease: str) -> None:
        """Take up a lease that has ended, here or in the time of an earlier service."""
        paths = LeasePaths(self._state, lease)
        kept = Kept.read(paths)
        if kept is None:
            if os.path.lexists(paths.job):
                self._drop(lease, "it was being removed before")
            return
        users.hold(paths)
        self._kept[lease] = kept

    def forget(self, lease: str) -> bool:
        """Nobody needs it any more; True when nothing of it is left."""
        if lease in self._kept:
            self._unwanted.add(lease)
            self.tick()
        return self.state_of(lease) is None

    def make_room(self, leased_mb: int) -> None:
        """See to it that what is kept has its place beside jobs that were promised so much disk."""
        for lease in sorted(self._kept, key=lambda name: self._kept[name].since):
            if leased_mb + sum(kept.size_mb for kept in self._kept.values()) <= self._disk_mb:
                return
            if not self._in_use(lease):
                self._drop(lease, "its room is wanted for a job")

    def tick(self) -> bool:
        """Remove what is over its time; True when there is something new to tell the API."""
        news = False
        for pid in list(self._dropping):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._dropping[pid]
                news = True
        now = time.time()
        for lease, kept in list(self._kept.items()):
            over = now >= kept.until or lease in self._unwanted
            if over and not self._in_use(lease):
                self._drop(lease, "its time is over" if now >= kept.until else "nobody needs it any more")
                news = True
        return news

    def _drop(self, lease: str, why: str) -> None:
        """Begin to remove a folder, which may take its time. From now on nobody begins to read it."""
        paths = LeasePaths(self._state, lease)
        self._kept.pop(lease, None)
        self._unwanted.discard(lease)
        if os.path.exists(paths.kept):
            os.unlink(paths.kept)
        print("{} lease {}: its folder goes, {}".format(time.strftime("%Y-%m-%dT%H:%M:%S"), lease, why), flush=True)

        def body() -> int:
            linux.set_title("prominence-agent sweep " + lease)
            return 0 if sweep.remove(paths) else 1

        self._dropping[forks.fork(body, log=paths.log, session=True)] = lease
