"""Delivers a lease's reports and streams from its spool to the API, at least once, until the end is acknowledged.

Nothing about progress is kept on disk: reports are idempotent by sequence number and the server says which offset of a
stream it wants, so a new deliverer begins at the beginning and is told where to go on.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import time
from typing import Any, Callable

from . import linux, spool
from .assignment import Assignment
from .wire import Backoff, Connection, Refused, Unreachable, encode

CHUNK = 64 * 1024
DELIVERED = 0
STALE = 3
GAVE_UP = 5
#: How often the API is asked whether a job that holds may go on.
HELD_POLL_S = 1.0
PATIENCE_S = 7 * 24 * 3600.0

_IN_MODIFY = 2
_IN_CREATE = 0x100


class Changes:
    """Wakes its reader when a file of the spool grows; by inotify, so that waiting costs nothing."""

    def __init__(self, folder: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd >= 0 and libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_MODIFY | _IN_CREATE) < 0:
            os.close(self._fd)
            self._fd = -1

    def wait(self, timeout_s: float) -> None:
        if self._fd < 0:
            time.sleep(min(timeout_s, 0.2))  # no inotify instance left for this user
            return
        if select.select([self._fd], [], [], timeout_s)[0]:
            try:
                os.read(self._fd, 65536)
            except BlockingIOError:
                return


class Stream:
    """One of the job's output streams, as far as the server has it."""

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self.full = False
        self._path = spool.stream_path(folder, name)
        self.offset = 0

    def pending(self) -> bool:
        try:
            return not self.full and os.path.getsize(self._path) > self.offset
        except FileNotFoundError:
            return False

    def chunk(self) -> bytes:
        with open(self._path, "rb") as handle:
            handle.seek(self.offset)
            return handle.read(CHUNK)


class Delivery:
    """One lease's delivery. `tell` hears what the server wants of the runner: {"stop": why} or {"full": stream}."""

    def __init__(self, assignment: Assignment, folder: str, tell: Callable[[dict[str, Any]], None]) -> None:
        self._assignment = assignment
        self._folder = folder
        self._tell = tell
        self._connection = Connection(assignment.report_url)
        self._streams = [Stream(folder, name) for name in spool.STREAMS]
        self._acked = 0
        self._read = 0
        self._waiting: list[dict[str, Any]] = []
        self._stopped = False
        self._begun_again = False
        self._bare = False
        self._held = False
        self._allowed = ""

    def _gather(self) -> None:
        """Take up the whole lines that have been appended since."""
        self._begun_again = False
        try:
            with open(spool.reports_path(self._folder), "rb") as handle:
                handle.seek(self._read)
                fresh = handle.read()
        except FileNotFoundError:
            return
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        reports = [json.loads(line) for line in whole.splitlines()]
        self._waiting.extend(report for report in reports if report["seq"] > self._acked)
        if reports:
            self._held = reports[-1]["kind"] == "held"

    def step(self) -> bool:
        """Send what there is; True when the end has been acknowledged. Raises Unreachable or Refused."""
        self._gather()
        ending = bool(self._waiting) and self._waiting[-1]["kind"] == "end"
        end = int(self._waiting[-1]["seq"]) if ending else 0
        self._post([report for report in self._waiting if report["kind"] != "end"])
        if ending and self._acked >= end:
            return True  # who delivered before us has told it, and died before the answer
        for stream in self._streams:
            self._put(stream, ending)
        if not ending:
            return False
        if self.busy or not self._waiting or not os.path.exists(spool.swept_path(self._folder)):
            return False
        self._post(self._waiting)
        return self._acked >= end

    def _post(self, reports: list[dict[str, Any]]) -> None:
        if not reports and not self._held:
            return
        given = [_bare(report) for report in reports] if self._bare else reports
        answer = self._call("POST", "/reports", encode({"reports": given}), "application/json")
        self._bare = False
        has = int(answer["seq"])
        if has < self._acked:
            # The server has less than it had: its database came back without its last moments. Begin again.
            self._read, self._waiting, self._begun_again = 0, [], True
        self._acked = has
        self._waiting = [report for report in self._waiting if report["seq"] > has]
        if answer.get("go") and answer["go"] != self._allowed:
            self._allowed = str(answer["go"])
            self._tell({"go": self._allowed})
        if answer.get("stop") and not self._stopped:
            self._stopped = True
            self._tell({"stop": str(answer["stop"])})

    def _put(self, stream: Stream, all_of_it: bool) -> None:
        # a few chunks a turn, so that a flood on one stream does not hold up the other or the reports
        for _ in range(1 << 30 if all_of_it else 8):
            if not stream.pending():
                return
            path = f"/streams/{stream.name}?offset={stream.offset}"
            answer = self._call("PUT", path, stream.chunk(), "application/octet-stream")
            stream.offset = int(answer["offset"])
            if answer.get("full"):
                stream.full = True
                self._tell({"full": stream.name})

    def _call(self, method: str, path: str, body: bytes, kind: str) -> dict[str, Any]:
        return self._connection.call(method, path, self._assignment.token, body, kind)

    @property
    def busy(self) -> bool:
        return any(stream.pending() for stream in self._streams)

    def run(self, patience_s: float = PATIENCE_S) -> int:
        """Deliver until the end is acknowledged (DELIVERED), refused (STALE), or nobody has answered for too long."""
        changes = Changes(self._folder)
        backoff = Backoff()
        heard = time.monotonic()
        while True:
            try:
                if self.step():
                    return DELIVERED
            except Refused as error:
                if error.status in (401, 409):
                    print("stale: " + str(error))
                    return STALE
                print("refused, will try again: " + str(error))
                # Whatever it is that the server can't take, the job must end: without it, from now on.
                self._bare = error.status == 400
                if time.monotonic() - heard > patience_s:
                    return GAVE_UP
                time.sleep(backoff.pause())
                continue
            except Unreachable as error:
                if time.monotonic() - heard > patience_s:
                    print("gave up: " + str(error))
                    return GAVE_UP
                time.sleep(backoff.pause())
                continue
            backoff.reset()
            heard = time.monotonic()
            if not self.busy and not self._begun_again:
                changes.wait(HELD_POLL_S if self._held else 5.0)
                # let a burst of small writes become one request
                time.sleep(0.02)


def _bare(report: dict[str, Any]) -> dict[str, Any]:
    """The report with no more in it than a job's life needs."""
    kind, data = report["kind"], report["data"]
    if kind == "end":
        kept = {name: data[name] for name in ("status", "reason", "node_success")}
        return dict(report, data=dict(kept, execution={}))
    if kind in ("stage_in", "running", "stage_out"):
        return dict(report, data={})
    if kind == "held":
        return dict(report, data={"phase": data["phase"], "tasks_success": data.get("tasks_success")})
    return dict(report, kind="log", data={"message": f"(a report of kind {kind} was refused)"})


def reporter(assignment: Assignment, folder: str, parent: int, out: int | None) -> int:
    """The body of the reporter process, which lives no longer than its runner."""
    if not linux.die_with_parent(9, parent):
        return GAVE_UP
    linux.set_title("prominence-agent report " + assignment.lease)

    def tell(message: dict[str, Any]) -> None:
        if out is not None:
            os.write(out, encode(message) + b"\n")

    return Delivery(assignment, folder, tell).run()
