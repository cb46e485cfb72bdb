"""The runner's event loop: its reporter, the guard of the moment, limits, and everything that may end a job early."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import time
from typing import Any

from . import forks, linux, report, spool
from .assignment import Assignment
from .cgroup import Cgroup
from .guard import Guard, Work
from .limits import DiskWatch, MemoryWatch
from .paths import LeasePaths, Process, read_json
from .users import User
from .wire import encode

GUARD_PATIENCE_S = 12.0
WALLTIME_GRACE_S = 2.0
SAMPLE_S = 0.5
EVICTED = "Job was evicted"


class Interrupted(Exception):
    """The job must end now; by the time this is raised everything of it is dead."""

    def __init__(self, status: str, reason: str, grace_s: float = 0.0, stale: bool = False) -> None:
        super().__init__(reason)
        self.result: dict[str, Any] = {}  # what the guard could still tell of the work
        self.status = status
        self.reason = reason
        self.grace_s = grace_s
        self.stale = stale


class GuardFailed(Exception):
    """The guard ended by itself without an answer, by a fault of the runtime or of ours."""


class Supervisor:
    """Runs guarded work one at a time while listening to everybody who may stop it."""

    def __init__(self, paths: LeasePaths, assignment: Assignment, user: User, group: Cgroup) -> None:
        self._paths = paths
        self._assignment = assignment
        self._user = user
        self._group = group
        self._selector = selectors.DefaultSelector()
        self._interruption: Interrupted | None = None
        self._discard = dict.fromkeys(spool.STREAMS, False)
        self._reporter = 0
        self._reporter_code: int | None = None
        self._reporter_out = -1
        self._heard = b""
        self._guard = 0
        self._guard_status: int | None = None
        self._restart_at = 0.0
        self.memory = MemoryWatch(assignment.resources.memory_mb)
        self.disk: DiskWatch | None = None
        linux.become_subreaper()
        out, into = os.pipe()
        os.set_blocking(out, False)
        os.set_blocking(into, False)
        signal.set_wakeup_fd(into, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminated)
        self._selector.register(out, selectors.EVENT_READ, "wake")
        if os.path.exists(paths.stop):
            self._terminated()  # it was told while it was being born

    # -- the reporter

    def start_reporter(self) -> None:
        out, into = os.pipe()
        parent = os.getpid()
        self._reporter_code = None
        self._reporter = forks.fork(
            lambda: report.reporter(self._assignment, self._paths.spool, parent, into), keep=[into]
        )
        os.close(into)
        os.set_blocking(out, False)
        self._reporter_out = out
        self._selector.register(out, selectors.EVENT_READ, "reporter")

    def _hear_reporter(self) -> None:
        try:
            data = os.read(self._reporter_out, 65536)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(self._reporter_out)
            os.close(self._reporter_out)
            self._reporter_out = -1
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "stop" in message:
                self._interrupt(Interrupted("killed", str(message["stop"]), WALLTIME_GRACE_S))
            elif "full" in message:
                self._discard[str(message["full"])] = True

    def _reporter_ended(self, code: int) -> None:
        self._reporter_code = code
        if code == report.STALE:
            self._interrupt(Interrupted("killed", "stale", stale=True))
        elif code not in (report.DELIVERED, report.GAVE_UP):
            self._restart_at = time.monotonic() + 0.3

    def wait_delivered(self) -> int:
        """Until the end has been acknowledged; the reporter's exit code."""
        while self._reporter_code not in (report.DELIVERED, report.STALE, report.GAVE_UP):
            self._turn(5.0)
        return int(self._reporter_code)

    # -- what may end a job early

    def _terminated(self, *_: object) -> None:
        wanted = read_json(self._paths.stop)
        if wanted is None:
            # nobody of the API asked: this node is going down
            self._interrupt(Interrupted("failed", EVICTED, WALLTIME_GRACE_S))
        else:
            grace = float(wanted.get("grace_s") or 0.0)
            self._interrupt(Interrupted("killed", str(wanted.get("why") or "stopped"), grace))

    def _interrupt(self, interruption: Interrupted) -> None:
        if self._interruption is None or interruption.stale:
            self._interruption = interruption

    def check(self) -> None:
        """Raise if the job must end; for the moments between two pieces of work."""
        self._turn(0.0)
        if self._interruption is not None:
            raise self._interruption

    # -- events

    def _turn(self, timeout_s: float, control: socket.socket | None = None) -> bytes:
        """Wait for one event at most; what the guard has said, if it has."""
        said = b""
        if self._restart_at:
            timeout_s = max(0.0, min(timeout_s, self._restart_at - time.monotonic()))
        for key, _ in self._selector.select(timeout_s):
            if key.data == "wake":
                os.read(key.fd, 4096)
            elif key.data == "reporter":
                self._hear_reporter()
            elif key.data == "guard" and control is not None:
                try:
                    said = control.recv(1 << 20)
                except OSError:
                    said = b""
                if not said:
                    self._selector.unregister(control)
        self._reap()
        if self._restart_at and time.monotonic() >= self._restart_at:
            self._restart_at = 0.0
            self.start_reporter()
        return said

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._guard:
                self._guard_status = status
            elif pid == self._reporter:
                self._reporter_ended(linux.exit_code(status))

    # -- guarded work

    def guarded(self, work: Work, deadline: float | None = None, limited: bool = False) -> dict[str, Any]:
        """Do `work` under a guard; its result, or Interrupted or GuardFailed when everything of it is dead."""
        self.check()
        return _Guarded(self, work, deadline, limited).run()


class _Guarded:
    """One guard from the runner's side."""

    def __init__(self, owner: Supervisor, work: Work, deadline: float | None, limited: bool) -> None:
        self._owner = owner
        self._work = work
        self._deadline = deadline
        self._limited = limited
        self._control, self._theirs = socket.socketpair()
        self._files: dict[str, int] = {}
        self._pipes: dict[str, list[int]] = {}
        self._told: dict[str, bool] = dict.fromkeys(spool.STREAMS, False)
        self._said = b""
        self._asked: float | None = None
        self._patience = 0.0
        self._next_sample = time.monotonic() + SAMPLE_S

    def run(self) -> dict[str, Any]:
        owner = self._owner
        self._open()
        try:
            self._fork()
            owner._selector.register(self._control, selectors.EVENT_READ, "guard")
            result = self._wait()
            if result is None:
                self._mop_up()
                status = owner._guard_status or 0
                if owner._interruption is not None:
                    raise owner._interruption
                if os.WIFSIGNALED(status):
                    raise Interrupted("failed", EVICTED)
                raise GuardFailed(f"the guard ended with {linux.exit_code(status)}")
            if self._asked is not None and owner._interruption is not None:
                owner._interruption.result = result
                raise owner._interruption
            return result
        finally:
            self._close()

    def _open(self) -> None:
        user = self._owner._user
        for name in spool.STREAMS:
            out, into = os.pipe()
            # so that the job may open /dev/stdout by name
            os.fchown(into, user.uid, user.gid)
            self._pipes[name] = [out, into]
            path = spool.stream_path(self._owner._paths.spool, name)
            self._files[name] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _fork(self) -> None:
        owner = self._owner
        parent = os.getpid()
        ends = (self._pipes["stdout"][1], self._pipes["stderr"][1])
        sources = {self._pipes[name][0]: self._files[name] for name in spool.STREAMS}
        uid = owner._user.uid if owner._user.own else None

        def body() -> int:
            linux.set_title("prominence-agent guard " + owner._assignment.lease)
            if not linux.die_with_parent(signal.SIGTERM, parent):
                return 1
            return Guard(self._work, self._theirs, sources, owner._group, uid).run(ends)

        owner._guard_status = None
        keep = [self._theirs.fileno(), *ends, *sources.keys(), *sources.values()]
        owner._guard = forks.fork(body, keep=keep)
        Process.of(owner._guard).write(owner._paths.guard, sync=False)
        self._theirs.close()
        for end in ends:
            os.close(end)

    def _wait(self) -> dict[str, Any] | None:
        owner = self._owner
        while True:
            said = owner._turn(self._timeout(), self._control)
            if owner._guard_status is not None:
                said += self._rest()  # its last words may have come between the two looks
            self._said += said
            *lines, self._said = self._said.split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "result" in message:
                    result: dict[str, Any] = message["result"]
                    return result
            if owner._guard_status is not None and not said:
                return None
            self._pass_on()
            self._check_limits()
            if owner._interruption is not None and self._asked is None:
                self._ask(owner._interruption.grace_s)
            if self._asked is not None and time.monotonic() > self._asked + self._patience:
                linux.send([owner._guard], signal.SIGKILL)

    def _rest(self) -> bytes:
        self._control.setblocking(False)
        said = b""
        while True:
            try:
                more = self._control.recv(1 << 20)
            except OSError:
                return said
            if not more:
                return said
            said += more

    def _timeout(self) -> float:
        now = time.monotonic()
        if self._asked is not None:
            return max(0.0, min(1.0, self._asked + self._patience - now))
        until = self._next_sample if self._limited else now + 60.0
        if self._deadline is not None:
            until = min(until, self._deadline)
        return max(0.0, until - now)

    def _pass_on(self) -> None:
        for name, wanted in self._owner._discard.items():
            if wanted and not self._told[name]:
                self._told[name] = True
                self._say({"discard": self._files[name]})

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.sendall(encode(message) + b"\n")
        except OSError:
            return  # it is dead, which the next turn of the loop sees

    def _ask(self, grace_s: float) -> None:
        self._asked = time.monotonic()
        self._patience = grace_s + GUARD_PATIENCE_S
        self._say({"kill": grace_s})
        # it may be in the middle of preparing a container, where it does not listen
        linux.send([self._owner._guard], signal.SIGTERM)

    def _check_limits(self) -> None:
        owner, now = self._owner, time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            owner._interrupt(Interrupted("killed", "Walltime limit exceeded", WALLTIME_GRACE_S))
        if not self._limited or now < self._next_sample:
            return
        self._next_sample = now + SAMPLE_S
        if owner._group.oom_kills() or (not owner._group.limits_memory and owner.memory.exceeded(owner._guard)):
            owner._interrupt(Interrupted("killed", "Job used too much memory"))
        if owner.disk is not None and owner.disk.exceeded():
            owner._interrupt(Interrupted("killed", "Job used too much disk"))

    def _mop_up(self) -> None:
        """The guard is dead: its orphans are ours now, because we are a subreaper too."""
        owner = self._owner
        self._work.kill()
        owner._group.kill()
        uid = owner._user.uid if owner._user.own else None
        linux.kill_branded(linux.Brand(owner._paths.marker, uid))
        while True:
            left = [
                found.pid
                for found in linux.descendants(os.getpid())
                if found.pid != owner._reporter and found.state not in "ZX"
            ]
            linux.send(left, signal.SIGKILL)
            owner._reap()
            if not left:
                break
            time.sleep(0.01)
        for name, (out, _) in self._pipes.items():
            self._drain(out, self._files[name])
        self._work.end()

    def _drain(self, out: int, target: int) -> None:
        os.set_blocking(out, False)
        while True:
            try:
                data = os.read(out, 65536)
            except BlockingIOError:
                return
            if not data:
                return
            os.write(target, data)

    def _close(self) -> None:
        owner = self._owner
        if self._control.fileno() in owner._selector.get_map():
            owner._selector.unregister(self._control)
        self._control.close()
        for name in spool.STREAMS:
            os.close(self._pipes[name][0])
            os.close(self._files[name])
        # not before the guard has left its zombie: the next one's death must not be mixed up with its
        while owner._guard_status is None:
            owner._turn(1.0)
        owner._guard = 0
