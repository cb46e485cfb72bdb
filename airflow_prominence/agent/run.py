"""One lease's runner: the life of one attempt of one job on this node, or what a dead runner has left to do."""

from __future__ import annotations

import json
import os
from typing import Callable

from . import assignment, jobrun, kept, linux, metadata, report, spool, sweep, users
from .cgroup import Cgroup
from .node import Node
from .paths import LeasePaths, Process, write_atomic
from .supervise import Supervisor

OK = 0
FAILED = 1
LOST = 4


def _load(paths: LeasePaths) -> assignment.Assignment:
    with open(paths.assignment, encoding="utf-8") as handle:
        return assignment.parse(handle.read())


def run(state: str, lease: str) -> int:
    """The whole job. The caller has made sure that this lease was never started before."""
    paths = LeasePaths(state, lease)
    os.umask(0o077)
    linux.set_title("prominence-agent run --lease " + lease)
    wanted = _load(paths)
    node = Node.read(state)
    user = users.claim(paths)
    group = Cgroup.create(sweep.group_name(paths), wanted.resources.memory_mb, wanted.resources.cpus)
    reports = spool.Writer(paths.spool)
    supervisor = Supervisor(paths, wanted, user, group)
    supervisor.start_reporter()
    job = jobrun.Job(paths, wanted, user, group, node, supervisor, reports)
    outcome = job.run()
    leavings = None if outcome.stale else job.leavings()
    if not outcome.stale:
        reports.add(*jobrun.end_report(job, outcome, paths.spool, leavings))
    _tidy(paths, leavings)
    _close(paths, report.STALE if outcome.stale else supervisor.wait_delivered())
    job.give_up_images()
    for name in node.trim_cache():
        print(f"{name} was removed from the cache")
    return OK


def _tidy(paths: LeasePaths, leavings: kept.Leavings | None) -> None:
    linux.kill_branded(linux.Brand(paths.marker, _own_uid(paths)))
    if leavings is None or not kept.keep(paths, leavings):
        sweep.remove(paths)
    spool.mark_swept(paths.spool)


def _own_uid(paths: LeasePaths) -> int | None:
    user = users.User.read(paths)
    return user.uid if user is not None and user.own else None


def _close(paths: LeasePaths, code: int) -> None:
    sweep.close(paths, {"delivered": code == report.DELIVERED, "stale": code == report.STALE})


def recover(state: str, lease: str) -> int:
    """After a runner's death: nothing of the job survives; its end is delivered, or it is marked as lost."""
    paths = LeasePaths(state, lease)
    os.umask(0o077)
    linux.set_title(f"prominence-agent run --lease {lease} --deliver-only")
    try:
        node: Node | None = Node.read(state)
    except FileNotFoundError:
        node = None
    left = sweep.kill(paths, node)
    if left:
        print(f"processes {left} would not die")
    if kept.Kept.read(paths) is None:
        sweep.remove(paths)
    if not sweep.has_ended(paths):
        return _lost(paths, "runner and guard are dead")
    spool.mark_swept(paths.spool)
    try:
        wanted = _load(paths)
    except ValueError as error:
        # written by another version of ours: its end cannot be told, but its place must not stay taken
        return _lost(paths, f"the record of the job cannot be read: {error}")
    delivery = report.Delivery(wanted, paths.spool, lambda _message: None)
    _close(paths, delivery.run())
    return OK


def _lost(paths: LeasePaths, reason: str) -> int:
    write_atomic(paths.lost, json.dumps({"reason": reason}))
    return LOST


def main(state: str, lease: str, deliver_only: bool) -> int:
    """The command line's way in, for a lease whose assignment is on disk; `serve` forks instead."""
    paths = LeasePaths(state, lease)
    before = Process.read(paths.runner)
    if before is not None and before.alive:
        print(f"lease: {lease} is being run by process {before.pid}")
        return FAILED
    if os.path.exists(paths.ended):
        print(f"lease: {lease} has ended")
        return FAILED
    if before is not None and not deliver_only:
        print(f"lease: {lease} was started before and is never started twice; use --deliver-only")
        return FAILED
    body: Callable[[str, str], int] = recover if deliver_only else run
    Process.of(os.getpid()).write(paths.runner)
    print(metadata.block().detail)
    return body(state, lease)
