"""Makes sure that nothing of a lease is left on the node: no process, no container, no folder, no user id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from typing import Any

from . import current, linux, spool, stage, users
from .cgroup import Cgroup
from .node import Node
from .paths import LeasePaths, Process, write_atomic
from .runtimes.base import ContainerError, RuntimeUnavailable
from .storage import folders

GUARD_PATIENCE_S = 8.0


def group_name(paths: LeasePaths) -> str:
    return "prominence-" + paths.lease


def await_guards(paths: LeasePaths) -> None:
    """Guards whose runner is dead kill their work by themselves; give them the time, then kill them too."""
    guards = [guard for guard in map(Process.read, paths.guards()) if guard is not None]
    end = time.monotonic() + GUARD_PATIENCE_S
    while True:
        left = [guard.pid for guard in guards if guard.alive]
        if not left:
            return
        if time.monotonic() > end:
            linux.send(left, signal.SIGKILL)
        time.sleep(0.02)


def _containers(paths: LeasePaths) -> list[dict[str, str]]:
    try:
        with open(paths.containers, encoding="utf-8") as handle:
            return [json.loads(line) for line in handle if line.endswith("\n")]
    except FileNotFoundError:
        return []


def kill(paths: LeasePaths, node: Node | None) -> list[int]:
    """Kill every process of the lease, by all that it can be known by; returns what would not die."""
    await_guards(paths)
    current.end(paths)
    if node is not None:
        for container in _containers(paths):
            try:
                node.runtime(container["runtime"]).kill(container["name"])
            except (ContainerError, RuntimeUnavailable, OSError, subprocess.SubprocessError) as error:
                print("{}: {}".format(container["name"], error))
    Cgroup.find(group_name(paths)).kill()
    user = users.User.read(paths)
    uid = user.uid if user is not None and user.own else None
    return linux.kill_branded(linux.Brand(paths.marker, uid))


def detach(paths: LeasePaths) -> bool:
    """Remove the job's groups and its volume's mount; False when something of them stays."""
    Cgroup.find(group_name(paths)).remove()
    if not folders.remove(paths):
        print(f"{paths.mounts}: could not be removed")
        return False
    return True


def remove(paths: LeasePaths) -> bool:
    """Remove the job's folder and groups and give its user id back; False when something of it stays."""
    if not detach(paths):
        return False
    if not stage.remove(paths.job):
        print(f"{paths.job}: could not be removed")
        return False
    users.release(paths)
    return True


def close(paths: LeasePaths, how: dict[str, Any]) -> None:
    """The lease is over: its record stays, without its secrets and its output, until the API says forget."""
    write_atomic(paths.ended, json.dumps(how))
    write_atomic(paths.assignment, json.dumps({"lease": paths.lease}))
    shutil.rmtree(paths.spool, ignore_errors=True)
    for path in (*paths.guards(), paths.containers, paths.current, paths.stop, paths.lost):
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue


def forget(paths: LeasePaths) -> None:
    folders.remove(paths)
    stage.remove(paths.job)
    users.release(paths)
    shutil.rmtree(paths.record, ignore_errors=True)


def has_ended(paths: LeasePaths) -> bool:
    return spool.ended(paths.spool)
