"""The runner's event loop: its reporter, its guards, limits, and everything that may end a job early."""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from itertools import count
from typing import Any, Callable, Iterable

from . import forks, linux, report, spool
from .assignment import Assignment
from .cgroup import Cgroup
from .guarded import Ended, Guarded
from .limits import DiskWatch, MemoryWatch
from .paths import LeasePaths, read_json
from .users import User
from .work import Work

WALLTIME_GRACE_S = 2.0
SAMPLE_S = 0.5
#: What containers stand on is ended too when they have not ended so long after their grace: they may hang in it.
STUCK_S = 1.0
PARTING_S = 5.0
EVICTED = "Job was evicted"


class Interrupted(Exception):
    """The job must end now; by the time this is raised everything of it is dead.

    `stale`: it is nobody's any more. `asked`: somebody wants its end, who counts more than a limit. `limit`: it has
    passed one of its own limits, and what it has made until then is wanted.
    """

    def __init__(
        self,
        status: str,
        reason: str,
        grace_s: float = 0.0,
        *,
        stale: bool = False,
        asked: bool = False,
        limit: bool = False,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.grace_s = grace_s
        self.stale = stale
        self.asked = asked
        self.limit = limit


class GuardFailed(Exception):
    """A guard ended by itself without an answer, by a fault of the runtime or of ours; everything else is dead too."""


class Supervisor:
    """Runs guarded work, one or several pieces side by side, while listening to everybody who may stop it."""

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
        self._running: list[Guarded] = []
        self._died: list[Guarded] = []  # guards that left their work to us
        self._broken: GuardFailed | None = None
        self._restart_at = 0.0
        self._next_sample = 0.0
        self.memory = MemoryWatch(assignment.resources.memory_mb)
        self.disk: DiskWatch | None = None
        #: To which phase the API lets a job go that holds at their borders.
        self.allowed = ""
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
                self.interrupt(Interrupted("killed", str(message["stop"]), WALLTIME_GRACE_S, asked=True))
            elif "go" in message:
                self.allowed = str(message["go"])
            elif "full" in message:
                self._discard[str(message["full"])] = True

    def _reporter_ended(self, code: int) -> None:
        self._reporter_code = code
        if code == report.STALE:
            self.interrupt(Interrupted("killed", "stale", stale=True))
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
            self.interrupt(Interrupted("failed", EVICTED, WALLTIME_GRACE_S))
        else:
            grace = float(wanted.get("grace_s") or 0.0)
            self.interrupt(Interrupted("killed", str(wanted.get("why") or "stopped"), grace, asked=True))

    def interrupt(self, interruption: Interrupted) -> None:
        """Have the job end; of several reasons the first counts, but before a limit what somebody wants."""
        before = self._interruption
        if before is None or interruption.stale or (interruption.asked and not (before.asked or before.stale)):
            self._interruption = interruption

    def go_on_after(self, interruption: Interrupted) -> None:
        """Let there be more guarded work, for what is done after a job that has passed a limit."""
        if self._interruption is interruption:
            self._interruption = None

    # -- events

    def _turn(self, timeout_s: float) -> None:
        """Wait for one event at most, and see to it."""
        if self._restart_at:
            timeout_s = min(timeout_s, self._restart_at - time.monotonic())
        for key, _ in self._selector.select(max(0.0, timeout_s)):
            if key.data == "wake":
                os.read(key.fd, 4096)
            elif key.data == "reporter":
                self._hear_reporter()
            elif not key.data.hear():
                self._selector.unregister(key.fileobj)
        self._reap()
        for guarded in [one for one in self._running if one.over]:
            self._ended(guarded)
        for name, wanted in self._discard.items():
            if wanted:
                for guarded in self._running:
                    guarded.discard(name)
        if self._restart_at and time.monotonic() >= self._restart_at:
            self._restart_at = 0.0
            self.start_reporter()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for guarded in self._running:
                if guarded.pid == pid:
                    guarded.reaped(status)
            if pid == self._reporter:
                self._reporter_ended(linux.exit_code(status))

    def _ended(self, guarded: Guarded) -> None:
        """Everything of it is dead, or, where the guard died before it, ours to kill."""
        self._running.remove(guarded)
        if guarded.fileno() in self._selector.get_map():
            self._selector.unregister(guarded)
        if guarded.result is None:
            self._died.append(guarded)
            status = guarded.status or 0
            if self._interruption is None and not os.WIFSIGNALED(status):
                self._broken = GuardFailed(f"the guard ended with {linux.exit_code(status)}")
            self.interrupt(Interrupted("failed", EVICTED))
            return
        guarded.close()
        if guarded.on_end is not None and not guarded.asked:
            if guarded.limited and guarded.result["oom"]:
                self.interrupt(Interrupted("killed", "Job used too much memory", limit=True))
            guarded.on_end(guarded)

    # -- guarded work

    def start(self, work: Work, limited: bool = False, alone: bool = True, on_end: Ended | None = None) -> Guarded:
        """Do `work` under a guard.

        `limited` work is the job's own and counts as such; work that is not `alone` will have more of it beside it.
        `on_end` hears of an end that nobody has asked for.
        """
        self.check()
        others = any(guarded.limited for guarded in self._running)
        if limited and not others:
            self._next_sample = time.monotonic() + SAMPLE_S
        used = {guarded.number for guarded in self._running}
        number = next(number for number in count() if number not in used)
        guarded = Guarded(self._paths, number, work, limited, on_end)
        guarded.begin(self._user, alone and not others)
        self._running.append(guarded)
        self._selector.register(guarded, selectors.EVENT_READ, guarded)
        return guarded

    def wait(self, guarded: Guarded, deadline: float | None = None) -> dict[str, Any]:
        """Until everything of it is dead; its result. Interrupted or GuardFailed when everything else is dead, too."""
        self.until(lambda: guarded.over, deadline)
        if guarded.result is None:
            self._look(None)
        assert guarded.result is not None  # else a dead guard has ended the job
        return guarded.result

    def guarded(self, work: Work, deadline: float | None = None, limited: bool = False) -> dict[str, Any]:
        """Do `work` under a guard and wait for it."""
        return self.wait(self.start(work, limited), deadline)

    def until(
        self,
        done: Callable[[], bool],
        deadline: float | None = None,
        patience_s: float | None = None,
        poll_s: float = 60.0,
    ) -> bool:
        """Serve everybody until `done` says so, False if that takes longer than `patience_s`.

        It is asked after each event, and every `poll_s` seconds. Raises as `wait` does. `deadline` is the walltime's.
        """
        end = None if patience_s is None else time.monotonic() + patience_s
        while True:
            if done():
                return True
            self._look(deadline)
            now = time.monotonic()
            if end is not None and now >= end:
                return False
            limits = [moment for moment in (deadline, end) if moment is not None]
            if any(guarded.limited for guarded in self._running):
                limits.append(self._next_sample)
            self._turn(min([poll_s, *(moment - now for moment in limits), *self._press()]))

    def end(self, works: Iterable[Guarded], grace_s: float, deadline: float | None = None) -> None:
        """Have work end, and wait until it has; raises as `wait` does."""
        wanted = list(works)
        for guarded in wanted:
            guarded.ask(grace_s)
        self.until(lambda: all(guarded.over for guarded in wanted), deadline)

    def check(self) -> None:
        """Raise if the job must end; for the moments between two pieces of work."""
        self._turn(0.0)
        self._look(None)

    def end_all(self, grace_s: float) -> None:
        """Nothing guarded is left after this, whatever happens meanwhile.

        What other work stands on is given a moment more, to part from what it serves in peace.
        """
        for guarded in self._running:
            if not guarded.work.carries:
                guarded.ask(grace_s)
        late = time.monotonic() + grace_s + STUCK_S
        while self._running:
            stuck = time.monotonic() >= late and not all(guarded.work.carries for guarded in self._running)
            if stuck or all(guarded.work.carries for guarded in self._running):
                for guarded in self._running:
                    guarded.ask(PARTING_S if grace_s and not stuck else 0.0)
            self._turn(min([STUCK_S, *self._press()]))
        if self._died:
            self._mop_up()

    def _press(self) -> list[float]:
        return [guarded.press() for guarded in self._running if guarded.asked]

    def _look(self, deadline: float | None) -> None:
        """See whether a limit is passed; raise if the job must end, and everything of it is dead by then."""
        self._check_limits(deadline)
        if self._interruption is None:
            return
        self.end_all(self._interruption.grace_s)
        raise self._broken or self._interruption

    def _check_limits(self, deadline: float | None) -> None:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            self.interrupt(Interrupted("killed", "Walltime limit exceeded", WALLTIME_GRACE_S, limit=True))
        counted = [guarded for guarded in self._running if guarded.limited]
        if not counted or now < self._next_sample:
            return
        self._next_sample = now + SAMPLE_S
        if self._group.oom_kills() or (self._watched(counted) and self._memory_exceeded(counted)):
            self.interrupt(Interrupted("killed", "Job used too much memory", limit=True))
        if self.disk is not None and self.disk.exceeded([guarded.pid for guarded in counted]):
            self.interrupt(Interrupted("killed", "Job used too much disk", limit=True))

    def _watched(self, counted: list[Guarded]) -> bool:
        return not self._group.limits_memory or any(guarded.work.regroups for guarded in counted)

    def _memory_exceeded(self, counted: list[Guarded]) -> bool:
        apart_kb = sum(guarded.memory_kb for guarded in counted)
        return self.memory.exceeded([guarded.pid for guarded in counted], apart_kb)

    def _mop_up(self) -> None:
        """Guards are dead: their orphans are ours now, because we are a subreaper too."""
        for guarded in self._died:
            guarded.work.kill()
        self._group.kill()
        uid = self._user.uid if self._user.own else None
        linux.kill_branded(linux.Brand(self._paths.marker, uid))
        while True:
            left = [
                found.pid
                for found in linux.descendants(os.getpid())
                if found.pid != self._reporter and found.state not in "ZX"
            ]
            linux.send(left, signal.SIGKILL)
            self._reap()
            if not left:
                break
            time.sleep(0.01)
        for guarded in self._died:
            guarded.drain()
            guarded.close()
            guarded.work.end()
        self._died.clear()
