"""Keeps parts running: starts them, notices their death, ends what a dead one left behind, starts them again."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from airflow_prominence.standalone.parts import ALL, NODE, POSTGRES, STOP_SIGNALS, Part, processes
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.processes import ProcessId, kill, spawn, wait_gone
from airflow_prominence.standalone.records import read_json, write_json

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_STEADY = 60.0
"""Seconds of life after which a part's next death counts as its first."""


@dataclass
class _Kept:
    part: Part
    leader: ProcessId
    since: float
    child: subprocess.Popen[bytes] | None
    delay: float = _FIRST_DELAY
    retry_at: float | None = None


class Keeper:
    """The parts that run, with a record on disk from which another keeper can take them over."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._kept: dict[str, _Kept] = {}
        self._records: dict[str, Any] = read_json(places.parts) or {}

    def running_names(self) -> set[str]:
        """Parts of the record that live, whoever started them."""
        leaders = {name: ProcessId.from_record(record) for name, record in self._records.items()}
        return {name for name, leader in leaders.items() if leader and leader.alive()}

    def start(self, part: Part) -> None:
        """Have the part running: take over the process that runs already, if it is what would be started now."""
        record = self._records.get(part.name) or {}
        leader = ProcessId.from_record(record)
        if leader and leader.alive() and record.get("fingerprint") == part.fingerprint:
            self._kept[part.name] = _Kept(part, leader, time.monotonic(), None)
            return
        end_part(self._places, part.name, leader)
        self._launch(part, _FIRST_DELAY)

    def _launch(self, part: Part, delay: float) -> None:
        if part.before:
            part.before()
        child = spawn(part.argv, env=part.env, cwd=part.cwd, log=part.log, account=part.account)
        leader = ProcessId.of(child.pid)
        if leader is None:  # ended already: its parent is still to ask, so the pid is still its own
            leader = ProcessId(child.pid, -1, "")
        self._kept[part.name] = _Kept(part, leader, time.monotonic(), child, delay)
        self._records[part.name] = {**leader.record(), "fingerprint": part.fingerprint}
        write_json(self._places.parts, self._records)

    def alive(self, name: str) -> bool:
        kept = self._kept[name]
        if kept.child is not None and kept.child.poll() is not None:
            return False
        return kept.leader.alive()

    def leader(self, name: str) -> ProcessId:
        return self._kept[name].leader

    def started(self, name: str) -> float | None:
        """When this keeper started the part (epoch seconds); None if it took a running one over."""
        kept = self._kept[name]
        return None if kept.child is None else time.time() - (time.monotonic() - kept.since)

    def code(self, name: str) -> int | None:
        """With which code the part has ended, as far as this keeper is its parent."""
        child = self._kept[name].child
        return None if child is None else child.poll()

    def look(self) -> list[str]:
        """One round: say what happened, in lines for the supervisor's log."""
        said = []
        now = time.monotonic()
        for name, kept in list(self._kept.items()):
            if self.alive(name):
                continue
            if kept.retry_at is None:
                code = kept.child.returncode if kept.child else None
                how = "" if code is None else f" (exit {code})" if code >= 0 else f" (signal {-code})"
                delay = _FIRST_DELAY if now - kept.since > _STEADY else kept.delay
                kept.retry_at, kept.delay = now + delay, min(delay * 2, _LONGEST_DELAY)
                # At once, not when it is started again: orphans hold the database's locks and ports.
                end_part(self._places, name, kept.leader, grace=0)
                said.append(f"{name} ended{how}; starting it again in {delay:g} s")
            elif now >= kept.retry_at:
                self._launch(kept.part, kept.delay)
                said.append(f"{name} started again")
        return said


def end_part(places: Places, name: str, leader: ProcessId | None, grace: float = 2) -> None:
    """End what is left of a part before it is started again; a node's jobs go on without their node."""
    if leader:
        leader.signal(STOP_SIGNALS.get(name, signal.SIGTERM))
        kill(wait_gone([leader], grace))
    if name != NODE:
        kill(processes(places, name, leader))


def recorded(places: Places) -> dict[str, ProcessId]:
    """The leaders of the parts as last written down."""
    records = read_json(places.parts) or {}
    leaders = {name: ProcessId.from_record(record) for name, record in records.items()}
    return {name: leader for name, leader in leaders.items() if leader}


def end_all(places: Places, grace: float = 5) -> None:
    """End every process of the stack, jobs too."""
    leaders = recorded(places)
    for names in (tuple(name for name in ALL if name != POSTGRES), (POSTGRES,)):
        # Looked for before anything ends: what a dying process leaves behind no longer descends from it.
        found = {process for name in names for process in processes(places, name, leaders.get(name))}
        for name in names:
            if name in leaders:
                leaders[name].signal(STOP_SIGNALS.get(name, signal.SIGTERM))
        wait_gone([leaders[name] for name in names if name in leaders], grace)
        for _ in range(10):  # what came up meanwhile too
            kill(found)
            found = {process for name in names for process in processes(places, name, leaders.get(name))}
            if not found:
                break
    places.parts.unlink(missing_ok=True)
