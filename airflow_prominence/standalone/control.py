"""``up``, ``stop`` and ``status`` of the one-machine stack, for the commands and for tests."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_prominence.standalone.errors import StackError
from airflow_prominence.standalone.keeper import end_all, recorded
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.processes import ProcessId, kill, wait_gone
from airflow_prominence.standalone.progress import Progress
from airflow_prominence.standalone.records import read_json
from airflow_prominence.standalone.settings import own_environment

_GIVE_UP_SECONDS = 300


@contextlib.contextmanager
def _alone(places: Places) -> Iterator[None]:
    """One ``up`` or ``stop`` at a time; the lock ends with its holder, however that ends."""
    places.run.mkdir(parents=True, exist_ok=True)
    with places.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def supervisor(places: Places) -> ProcessId | None:
    """The daemon, if it lives."""
    process = ProcessId.from_record(read_json(places.supervisor))
    return process if process and process.alive() else None


def up(places: Places, progress: Progress) -> None:
    """Have the stack running; does nothing to one that runs."""
    places.make()
    with _alone(places):
        daemon = supervisor(places)
        if daemon and (read_json(places.status) or {}).get("error"):
            # It is still ending what it could not bring up; its words were for whoever asked for that.
            progress.show("waiting for the last start to end")
            kill(wait_gone([daemon], 20))
        if supervisor(places) is None:
            places.status.unlink(missing_ok=True)
            _start_daemon(places)
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while True:
            status: dict[str, Any] = read_json(places.status) or {}
            if status.get("error"):
                progress.done()
                raise StackError(str(status["error"]))
            if status.get("ready"):
                progress.done()
                return
            progress.show(str(status.get("step", "starting")))
            if supervisor(places) is None and not (read_json(places.status) or {}).get("error"):
                progress.done()
                raise StackError(f"the stack's supervisor has died: see {places.logs / 'supervisor.log'}.")
            if time.monotonic() > deadline:
                progress.done()
                raise StackError(f"the stack is not up after {_GIVE_UP_SECONDS} s: see the logs in {places.logs}.")
            time.sleep(0.1)


def _start_daemon(places: Places) -> None:
    log = places.logs / "supervisor.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "airflow_prominence.standalone", "supervise", "--home", str(places.home)],
            env=own_environment(os.environ),
            cwd=places.home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # It outlives us; who asks for its status reads the record that it writes of itself.
    deadline = time.monotonic() + 30
    while supervisor(places) is None:
        if child.poll() is not None or time.monotonic() > deadline:
            raise StackError(f"the stack's supervisor did not start: see {log}.")
        time.sleep(0.05)
    child.returncode = 0


def stop(places: Places, progress: Progress) -> bool:
    """End every process of the stack; False when there was none."""
    if not places.run.exists():
        return False
    daemon = supervisor(places)
    if daemon:
        # Before the lock: an `up` that waits for the daemon holds it.
        progress.show("stopping the supervisor")
        daemon.signal(signal.SIGTERM)
        kill(wait_gone([daemon], 15))
    with _alone(places):
        found = bool(daemon) or bool(recorded(places))
        progress.show("stopping the stack")
        end_all(places)
        places.supervisor.unlink(missing_ok=True)
        places.status.unlink(missing_ok=True)
        progress.done()
    return found


def read_env(path: Path) -> dict[str, str]:
    """The variables of a running stack's ``env`` file."""
    if not path.exists():
        return {}
    return dict(re.findall(r"^export (\w+)='([^']*)'$", path.read_text(encoding="utf-8"), re.MULTILINE))
