"""A node's leases as its service sees them: started once, adopted after a restart, recovered when a runner dies."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any, Mapping

from . import forks, linux, run, spool, sweep
from .kept import Kept, KeptFolders
from .paths import BadLease, LeasePaths, Process, leases, read_json, write_atomic

RECOVER_AGAIN_S = 5.0


def _say(lease: str, text: str) -> None:
    print("{} lease {}: {}".format(time.strftime("%Y-%m-%dT%H:%M:%S"), lease, text), flush=True)


class Leases:
    """All leases with a record below one state folder."""

    def __init__(self, state: str, kept: KeptFolders) -> None:
        self._state = state
        self._kept = kept
        self._children: dict[int, str] = {}
        self._recover_at: dict[str, float] = {}
        self._running: dict[str, Process] = {}
        self._ended: dict[str, bool] = {}
        self._disk_mb: dict[str, int] = {}  # what running jobs were promised
        self.lost: dict[str, str] = {}

    def adopt(self) -> None:
        """Take up what an earlier service of this node has left."""
        for lease in leases(self._state):
            paths = LeasePaths(self._state, lease)
            runner = Process.read(paths.runner)
            if os.path.exists(paths.ended):
                self._end(lease)
                continue
            self._disk_mb[lease] = _disk_mb(read_json(paths.assignment) or {})
            if runner is None:
                # recorded, and then the service died before it started anything
                self._fork(paths, recovering=False)
            else:
                _say(lease, f"adopted, its runner is process {runner.pid}")
                self._running[lease] = runner

    def table(self) -> dict[str, str]:
        """For the API: every lease that has a record here."""
        found = dict.fromkeys(list(self._running) + list(self.lost), "running")
        found.update({lease: self._kept.state_of(lease) or "ended" for lease in self._ended})
        return found

    # -- what the API wants

    def start(self, assignment: Mapping[str, Any]) -> None:
        """Record the assignment, then start its runner; a lease that has a record is left alone."""
        lease = str(assignment.get("lease"))
        try:
            paths = LeasePaths(self._state, lease)
        except BadLease as error:
            _say(lease, str(error))
            return
        if os.path.exists(paths.assignment):
            return
        os.makedirs(paths.record, mode=0o700, exist_ok=True)
        write_atomic(paths.assignment, json.dumps(dict(assignment)))
        self._disk_mb[lease] = _disk_mb(assignment)
        self._kept.make_room(sum(map(self._taken_mb, self._disk_mb)))
        self._fork(paths, recovering=False)

    def stop(self, lease: str, why: str, grace_s: float) -> None:
        runner = self._running.get(lease)
        if runner is None:
            return
        paths = LeasePaths(self._state, lease)
        if os.path.exists(paths.stop):
            return  # told already; the API repeats itself until the job has ended
        write_atomic(paths.stop, json.dumps({"why": why, "grace_s": grace_s}))
        _say(lease, f"stop: {why}")
        if runner.alive:
            linux.send([runner.pid], signal.SIGTERM)

    def forget(self, lease: str) -> None:
        if lease in self._running:
            # the API has given it up while it runs: end it first, and forget when it is asked for again
            self.stop(lease, "forgotten", 0.0)
            return
        if lease in self._ended and not self._kept.forget(lease):
            return  # asked for again when its folder has gone
        if lease in self._ended or lease in self.lost:
            sweep.forget(LeasePaths(self._state, lease))
            self._ended.pop(lease, None)
            self.lost.pop(lease, None)

    def told_lost(self, lease: str) -> None:
        sweep.close(LeasePaths(self._state, lease), {"lost": True})
        self.lost.pop(lease, None)
        self._end(lease)

    # -- runners

    def _taken_mb(self, lease: str) -> int:
        """What a job may take of the disk; of one whose end may have been told already, what is kept of it."""
        paths = LeasePaths(self._state, lease)
        if os.path.exists(paths.ended) or os.path.exists(spool.swept_path(paths.spool)):
            kept = Kept.read(paths)
            return 0 if kept is None else kept.size_mb
        return self._disk_mb[lease]

    def _end(self, lease: str) -> None:
        self._ended[lease] = True
        self._disk_mb.pop(lease, None)
        self._kept.ended(lease)

    def _fork(self, paths: LeasePaths, recovering: bool) -> None:
        """Start a runner that outlives this process.

        It waits until its pid is on disk: a service that dies in between has either started nothing or can find it.
        """
        out, into = os.pipe()
        state, lease = self._state, paths.lease

        def body() -> int:
            # an order to stop that comes this early is found in its file later
            signal.signal(signal.SIGTERM, lambda *_: None)
            go = os.read(out, 1)
            os.close(out)
            if not go:
                recorded = Process.read(paths.runner)
                if recorded is None or recorded.pid != os.getpid():
                    return run.FAILED
            return run.recover(state, lease) if recovering else run.run(state, lease)

        pid = forks.fork(body, keep=[out], log=paths.log, session=True)
        os.close(out)
        runner = Process.of(pid)
        runner.write(paths.runner)
        os.write(into, b"g")
        os.close(into)
        self._children[pid] = lease
        self._running[lease] = runner
        _say(lease, "{} by process {}".format("recovered" if recovering else "started", pid))

    def tick(self) -> bool:
        """Look after all runners; True when there is something new to tell the API."""
        self._reap()
        before = len(self.lost)
        for lease, runner in list(self._running.items()):
            if not runner.alive:
                self._runner_gone(lease)
        return self._kept.tick() or len(self.lost) > before

    def _reap(self) -> None:
        for pid in list(self._children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._children[pid]

    def _runner_gone(self, lease: str) -> None:
        paths = LeasePaths(self._state, lease)
        if os.path.exists(paths.ended):
            del self._running[lease]
            self._end(lease)
            _say(lease, "ended")
        elif os.path.exists(paths.lost):
            del self._running[lease]
            self._disk_mb.pop(lease, None)
            self.lost[lease] = "Runner and guard died on the node"
            _say(lease, "lost")
        elif time.monotonic() >= self._recover_at.get(lease, 0.0):
            self._recover_at[lease] = time.monotonic() + RECOVER_AGAIN_S
            self._fork(paths, recovering=True)

    def listed(self) -> list[dict[str, str]]:
        return [{"lease": lease} for lease in sorted(list(self._running) + list(self.lost))]


def _disk_mb(assignment: Mapping[str, Any]) -> int:
    """What a job was promised of the disk; the runner refuses an assignment that does not say it."""
    resources = assignment.get("resources")
    found = resources.get("disk_mb") if isinstance(resources, dict) else None
    return found if isinstance(found, int) else 0
