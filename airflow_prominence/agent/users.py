"""Which user a job's processes are: never uid 0, and never a uid that another running job on this machine has."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass
from itertools import chain
from typing import Iterator

from . import linux
from .paths import LeasePaths, read_json, write_atomic

CLAIMS = "/run/prominence-agent"
#: Between those that systemd and distributions use for people, services and containers; the second number is not in.
RANGES = ((61000, 61184), (70000, 80000))


class NoUser(Exception):
    """Every uid of the pool is taken."""


@dataclass(frozen=True)
class User:
    uid: int
    gid: int
    own: bool  # this uid is the lease's alone: whatever has it is the job's

    @classmethod
    def read(cls, paths: LeasePaths) -> User | None:
        found = read_json(paths.user)
        return None if found is None else cls(int(found["uid"]), int(found["gid"]), bool(found["own"]))


def _pool() -> Iterator[int]:
    return chain.from_iterable(range(low, high) for low, high in RANGES)


def _stale(claim: str) -> bool:
    """A claim whose lease is over, or whose whole state folder is gone, whatever agent made it."""
    with open(claim, encoding="utf-8") as handle:
        text = handle.read()
    try:
        record = str(json.loads(text)["record"])
    except (ValueError, KeyError):
        return True
    return not os.path.exists(os.path.join(record, "user"))


def claim(paths: LeasePaths) -> User:
    """The user of this lease: one of the pool when root, else ourselves. Claims hold machine-wide, for two agents."""
    known = User.read(paths)
    if known is not None:
        return known
    if os.geteuid() != 0:
        user = User(os.getuid(), os.getgid(), own=False)
        _remember(paths, user)
        return user
    os.makedirs(CLAIMS, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(CLAIMS, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        used = {linux.owner(pid) for pid in linux.pids()}
        for uid in _pool():
            path = os.path.join(CLAIMS, str(uid))
            if uid in used or (os.path.exists(path) and not _stale(path)):
                continue
            user = User(uid, uid, own=True)
            # the lease's own file first: a claim that names a lease without it counts as stale
            _remember(paths, user)
            write_atomic(path, json.dumps({"record": os.path.abspath(paths.record)}))
            return user
    finally:
        os.close(lock)
    raise NoUser("no user id is free for a job on this node")


def hold(paths: LeasePaths) -> None:
    """Claim the lease's user again, whose claim went when the machine started anew though files of his are kept."""
    user = User.read(paths)
    if user is None or not user.own:
        return
    path = os.path.join(CLAIMS, str(user.uid))
    if not os.path.exists(path):
        os.makedirs(CLAIMS, mode=0o700, exist_ok=True)
        write_atomic(path, json.dumps({"record": os.path.abspath(paths.record)}))


def _remember(paths: LeasePaths, user: User) -> None:
    write_atomic(paths.user, json.dumps({"uid": user.uid, "gid": user.gid, "own": user.own}))


def release(paths: LeasePaths) -> None:
    """Give the uid back; only when no process and no file of it is left."""
    user = User.read(paths)
    if user is None:
        return
    if user.own:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(CLAIMS, str(user.uid)))
    os.unlink(paths.user)
