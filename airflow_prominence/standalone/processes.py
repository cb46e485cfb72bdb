"""Processes by pid *and* start time, so that a pid that was given out anew is never taken for ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_ZOMBIE = {"Z", "X", "x"}


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Start times count from the boot: of another boot they mean nothing."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    session: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The command's name stands in parentheses and may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], parent=int(fields[1]), session=int(fields[3]), started=int(fields[19]))


@dataclass(frozen=True)
class ProcessId:
    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        stat = _stat(pid)
        return None if stat is None or stat.state in _ZOMBIE else cls(pid, stat.started, boot_id())

    @classmethod
    def from_record(cls, record: Any) -> ProcessId | None:
        if not isinstance(record, dict):
            return None
        try:
            return cls(int(record["pid"]), int(record["started"]), str(record["boot"]))
        except (KeyError, TypeError, ValueError):
            return None

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def alive(self) -> bool:
        if self.boot != boot_id():
            return False
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started and stat.state not in _ZOMBIE

    def signal(self, number: signal.Signals) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def everything() -> Iterator[int]:
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            yield int(entry)


def of_session(leader: ProcessId) -> list[ProcessId]:
    """The living processes of the session that ``leader`` (dead or alive) made.

    The kernel gives a pid out again only when no process has it as its session, so what still has it is ours
    unless the number was free in between: then there is a new leader with another start time, or none older than it.
    """
    if leader.boot != boot_id():
        return []
    now = _stat(leader.pid)
    if now is not None and now.started != leader.started:
        return []
    found = []
    for pid in everything():
        stat = _stat(pid)
        if stat and stat.session == leader.pid and stat.started >= leader.started and stat.state not in _ZOMBIE:
            found.append(ProcessId(pid, stat.started, leader.boot))
    return found


def with_descendants(roots: Iterable[ProcessId]) -> list[ProcessId]:
    """``roots`` that live, and all that descend from them, as things are now."""
    children: dict[int, list[int]] = {}
    for pid in everything():
        stat = _stat(pid)
        if stat:
            children.setdefault(stat.parent, []).append(pid)
    found: dict[int, ProcessId] = {}
    waiting = [root.pid for root in roots if root.alive()]
    while waiting:
        pid = waiting.pop()
        process = ProcessId.of(pid)
        if process and pid not in found:
            found[pid] = process
            waiting.extend(children.get(pid, []))
    return list(found.values())


def working_in(folder: Path) -> list[ProcessId]:
    """Processes whose working folder is ``folder``: PostgreSQL's backends, each of which is a session of its own."""
    wanted = str(folder)
    found = []
    for pid in everything():
        with contextlib.suppress(OSError):
            if os.readlink(_PROC / str(pid) / "cwd") == wanted:
                process = ProcessId.of(pid)
                if process:
                    found.append(process)
    return found


def marked(name: str, value: str) -> list[ProcessId]:
    """Processes that were started with the environment variable ``name=value``."""
    wanted = f"{name}={value}".encode()
    found = []
    for pid in everything():
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                process = ProcessId.of(pid)
                if process:
                    found.append(process)
    return found


def wait_gone(processes: Iterable[ProcessId], seconds: float) -> list[ProcessId]:
    """Wait until all have ended; return those that have not."""
    left = list(processes)
    deadline = time.monotonic() + seconds
    while True:
        left = [process for process in left if process.alive()]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.05)


def kill(processes: Iterable[ProcessId]) -> None:
    """SIGKILL, and wait a moment for the kernel to be done with them."""
    targets = list(processes)
    for process in targets:
        process.signal(signal.SIGKILL)
    wait_gone(targets, 5)


@dataclass(frozen=True)
class Account:
    """A user that a process is started as, by number."""

    uid: int
    gid: int


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, account: Account | None = None
) -> subprocess.Popen[bytes]:
    """Start a process as leader of a session of its own, with no terminal and its output in ``log``."""
    if log.exists() and log.stat().st_size > 50_000_000:
        os.replace(log, log.with_suffix(".log.1"))
    with log.open("ab", buffering=0) as output:
        return subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077 if account else -1,
        )
