"""Where the agent keeps things below its state folder, and how they are written so that a crash leaves no half file."""

from __future__ import annotations

import glob
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from . import linux

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


class BadLease(ValueError):
    """A lease id that cannot be a folder's name."""


def write_atomic(path: str, text: str, sync: bool = True) -> None:
    """The file, readable by us alone, is the old one or the new one; with `sync` even when the machine stops."""
    partial = f"{path}.{os.getpid()}.part"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        if sync:
            os.fsync(handle.fileno())
    os.replace(partial, path)


def read_json(path: str) -> dict[str, Any] | None:
    """None when the file is not there."""
    try:
        with open(path, encoding="utf-8") as handle:
            found = json.load(handle)
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a JSON object")
    return found


@dataclass(frozen=True)
class LeasePaths:
    """The record of one lease, and the folder of its job."""

    state: str
    lease: str

    def __post_init__(self) -> None:
        if not _SAFE.match(self.lease):
            raise BadLease(f"lease: {self.lease!r} is not a plain name")

    @property
    def record(self) -> str:
        return os.path.join(self.state, "leases", self.lease)

    @property
    def assignment(self) -> str:
        return os.path.join(self.record, "assignment.json")

    @property
    def spool(self) -> str:
        return os.path.join(self.record, "spool")

    @property
    def runner(self) -> str:
        return os.path.join(self.record, "runner.pid")

    def guard(self, number: int) -> str:
        """Of the guards that live at the same time the first is number 0."""
        return os.path.join(self.record, f"guard-{number}.pid" if number else "guard.pid")

    def guards(self) -> list[str]:
        """The files of all guards there have been."""
        return sorted(glob.glob(os.path.join(glob.escape(self.record), "guard*.pid")))

    @property
    def stop(self) -> str:
        return os.path.join(self.record, "stop")

    @property
    def lost(self) -> str:
        return os.path.join(self.record, "lost")

    @property
    def ended(self) -> str:
        return os.path.join(self.record, "ended")

    @property
    def user(self) -> str:
        return os.path.join(self.record, "user")

    @property
    def containers(self) -> str:
        return os.path.join(self.record, "containers")

    @property
    def current(self) -> str:
        return os.path.join(self.record, "current")

    @property
    def kept(self) -> str:
        """Says what of an ended job is kept on the node, and until when; not there if nothing is."""
        return os.path.join(self.record, "kept")

    @property
    def commands(self) -> str:
        return os.path.join(self.record, "commands")

    @property
    def log(self) -> str:
        return os.path.join(self.record, "runner.log")

    @property
    def job(self) -> str:
        return os.path.join(self.state, "jobs", self.lease)

    @property
    def storage(self) -> str:
        """What the tool that mounts the job's volume keeps on the node."""
        return os.path.join(self.record, "storage")

    @property
    def mounts(self) -> str:
        return os.path.join(self.state, "mounts", self.lease)

    @property
    def volume(self) -> str:
        """Where the job's volume is mounted; not in the job's own folder, which is removed with all that is in it."""
        return os.path.join(self.mounts, "volume")

    @property
    def marker(self) -> str:
        return "PROMINENCE_LEASE=" + self.lease


@dataclass(frozen=True)
class Process:
    """A process by pid, start time and boot, so that a reused pid is never taken for it."""

    pid: int
    start: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process:
        found = linux.stat(pid)
        return cls(pid, found.start if found is not None else -1, linux.boot_id())

    @property
    def alive(self) -> bool:
        found = linux.stat(self.pid)
        return (
            found is not None and found.start == self.start and found.state not in "ZX" and self.boot == linux.boot_id()
        )

    def write(self, path: str, sync: bool = True) -> None:
        write_atomic(path, json.dumps({"pid": self.pid, "start": self.start, "boot": self.boot}), sync)

    @classmethod
    def read(cls, path: str) -> Process | None:
        found = read_json(path)
        return None if found is None else cls(int(found["pid"]), int(found["start"]), str(found["boot"]))


def make_state(state: str) -> None:
    """The folders of a node. Jobs' own users pass through `jobs` and `mounts`; nobody else reads `leases`."""
    for path, mode in ((state, 0o711), ("leases", 0o700), ("jobs", 0o711), ("mounts", 0o711), ("cache", 0o755)):
        full = os.path.join(state, path)
        os.makedirs(full, exist_ok=True)
        os.chmod(full, mode)


def leases(state: str) -> list[str]:
    """Ids of all leases with a record on this node."""
    folder = os.path.join(state, "leases")
    found = sorted(name for name in os.listdir(folder) if _SAFE.match(name))
    return [name for name in found if os.path.exists(os.path.join(folder, name, "assignment.json"))]
