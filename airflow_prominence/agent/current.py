"""Which container of a job runs now: written by its runner, read by the commands that a user sends into it.

Commands start under a shared lock, and the runner takes the lock for itself to say that a container is over. So when
it then looks for what is left of the job, every command's process is there to be found, and none comes after.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from dataclasses import dataclass
from typing import Any, Iterator

from .images.model import Image
from .paths import LeasePaths, read_json, write_atomic
from .runtimes.base import ContainerSpec

_LOCK_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Current:
    """The task's container that was started last, below guard number `guard`; `live` until it has ended."""

    runtime: str
    spec: ContainerSpec
    guard: int
    live: bool


def begin(paths: LeasePaths, runtime: str, spec: ContainerSpec, guard: int) -> None:
    """Say that this container is being started."""
    _write(paths, Current(runtime, spec, guard, live=True))


def end(paths: LeasePaths) -> None:
    """Say that it is over: from the return of this on no command is started in it."""
    found = read(paths)
    if found is None or not found.live:
        return
    fd = _open_lock(paths)
    try:
        until = time.monotonic() + _LOCK_PATIENCE_S
        while time.monotonic() < until:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
        _write(paths, dataclasses.replace(found, live=False))
    finally:
        os.close(fd)


def read(paths: LeasePaths) -> Current | None:
    """None when no container of the lease was ever started."""
    raw = read_json(paths.current)
    if raw is None:
        return None
    return Current(str(raw["runtime"]), _spec(raw["spec"]), int(raw["guard"]), bool(raw["live"]))


@contextlib.contextmanager
def held(paths: LeasePaths) -> Iterator[Current | None]:
    """What runs now, and will until the caller is done or has become another program; None if nothing does."""
    fd = _open_lock(paths)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        found = read(paths)
        yield found if found is not None and found.live else None
    finally:
        os.close(fd)


def _open_lock(paths: LeasePaths) -> int:
    return os.open(paths.current + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _write(paths: LeasePaths, current: Current) -> None:
    # not synced: after the machine's own end nothing of it runs
    write_atomic(paths.current, json.dumps(dataclasses.asdict(current)), sync=False)


def _spec(raw: dict[str, Any]) -> ContainerSpec:
    binds = [(host, path) for host, path in raw["binds"]]
    return ContainerSpec(**dict(raw, image=Image(**raw["image"]), binds=binds))
