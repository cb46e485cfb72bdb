"""The guard: a process between the runner and one piece of work (a pull, a sidecar, or one try of one task).

It is the child subreaper of everything the work starts, copies its output to the spool, and kills all of it when the
work is over, when the runner says so, or when the runner is gone. It never outlives its work. A runner may have several
guards side by side; none touches what is another's.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import time

from . import linux
from .copying import READ, Copy
from .runtimes.base import ContainerError, RuntimeUnavailable, Usage
from .wire import encode
from .work import Call, Container, Message, Work

LEFTOVERS_GRACE_S = 0.5
PATIENCE_S = 10.0
SETTLE_S = 0.2
_ROUNDS = 16


class _Over(Exception):
    """The runner is gone or wants the work to end, before it has begun."""


class Guard:
    """The guard process's own life; made and run inside it."""

    def __init__(self, work: Work, control: socket.socket, copies: list[Copy], uid: int | None) -> None:
        self._work = work
        self._control = control
        self._copies = {copy.source: copy for copy in copies}
        self._group = work.group
        self._uid = uid  # a user that is this work's alone
        self._selector = selectors.DefaultSelector()
        self._child = 0
        self._code: int | None = None
        self._answer = -1
        self._line = b""
        self._heard = b""
        self._end_at: float | None = None  # when the work is killed, once it must end
        self._orphaned = False
        self._usage: Usage | None = None
        self._samples = False

    def run(self, ends: tuple[int, int]) -> int:
        """Do the work; `ends` are the write ends of the output pipes."""
        linux.become_subreaper()
        wake_out, wake_in = os.pipe()
        os.set_blocking(wake_in, False)
        os.set_blocking(wake_out, False)
        signal.set_wakeup_fd(wake_in)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._interrupted)
        for fd in self._copies:
            os.set_blocking(fd, False)
        began = time.monotonic()
        error: str | None = None
        try:
            error = self._start(ends)
        except _Over:
            error = "stopped"
        except (ContainerError, RuntimeUnavailable, OSError, subprocess.SubprocessError) as failure:
            error = str(failure)
        os.close(ends[0])
        os.close(ends[1])
        signal.signal(signal.SIGTERM, lambda *_: None)
        if error is None:
            self._selector.register(wake_out, selectors.EVENT_READ, "wake")
            self._selector.register(self._control, selectors.EVENT_READ, "control")
            for fd in self._copies:
                self._selector.register(fd, selectors.EVENT_READ, "output")
            self._watch()
        wall = time.monotonic() - began
        self._kill_all(LEFTOVERS_GRACE_S if self._end_at is None else 0.0)
        for copy in self._copies.values():
            copy.finish()
        self._finish()
        return 0 if self._orphaned or self._say({"result": self._result(error, wall)}) else 1

    def _say(self, message: Message) -> bool:
        try:
            self._control.sendall(encode(message) + b"\n")
        except OSError:
            return False
        return True

    def _interrupted(self, *_: object) -> None:
        raise _Over

    def _start(self, ends: tuple[int, int]) -> str | None:
        child = self._work.begin()
        out, into = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            try:
                signal.set_wakeup_fd(-1)
                for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                    signal.signal(signum, signal.SIG_DFL)
                os.setsid()
                os.dup2(ends[0], 1)
                os.dup2(ends[1], 2)
                child(into)
            finally:
                os._exit(126)
        os.close(into)
        self._answer = out
        os.set_blocking(out, False)
        self._selector.register(out, selectors.EVENT_READ, "answer")
        return None

    def _watch(self) -> None:
        """Until the child has ended, or must."""
        first = self._work.usage() if isinstance(self._work, Container) else None
        self._samples = first is not None
        resident = self._work.resident
        asked = False
        while self._code is None:
            waits = [1.0] if self._samples else []
            if self._end_at is not None:
                if not asked and self._work.settled(self._child):
                    asked = True
                    self._ask()
                left = self._end_at - time.monotonic()
                if left <= 0:
                    return
                waits.append(left if asked else min(left, SETTLE_S))
            dues = [copy.due_s() for copy in self._copies.values()] + [resident.due_s() if resident else None]
            waits += [due for due in dues if due is not None]
            for key, _ in self._selector.select(min(waits, default=None)):
                self._event(key.data, key.fd)
            for copy in self._copies.values():
                copy.settle()
            if self._samples:
                self._sample()
            if resident is not None:
                resident.look(self._child)
            self._reap()

    def _sample(self) -> None:
        self._usage = self._work.usage() or self._usage
        if self._usage is not None:
            self._say({"memory_kb": self._usage.rss_kb})

    def _event(self, kind: str, fd: int) -> None:
        if kind == "output":
            self._copy(fd)
        elif kind == "wake":
            os.read(fd, 4096)
        elif kind == "answer":
            self._read_answer()
        elif kind == "control":
            self._listen()

    def _read_answer(self) -> None:
        try:
            data = os.read(self._answer, READ)
        except BlockingIOError:
            return
        self._line += data
        if not data and self._answer in self._selector.get_map():
            self._selector.unregister(self._answer)
            if not self._line:
                self._say({"started": True})  # the child has become another program, which closed its end

    def _listen(self) -> None:
        try:
            data = self._control.recv(READ)
        except OSError:
            data = b""
        if not data:
            # the runner is dead: nobody will count, limit or stop this work any more
            self._orphaned = True
            self._end_at = 0.0
            self._selector.unregister(self._control)
            return
        self._heard += data
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "kill" in message:
                end_at = time.monotonic() + float(message["kill"])
                self._end_at = end_at if self._end_at is None else min(self._end_at, end_at)
            for copy in self._copies.values():
                if copy.target == message.get("discard"):
                    copy.discarded = True

    def _copy(self, fd: int) -> None:
        if fd in self._copies and not self._copies[fd].pump(_ROUNDS):
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
            del self._copies[fd]

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self._code is None:
                    self._code = 137
                return
            if pid == 0:
                return
            if pid == self._child:
                self._code = linux.exit_code(status)

    def _ask(self) -> None:
        """SIGTERM, to give the work a chance to tidy up."""
        tree = linux.descendants(os.getpid())
        inner = [found.pid for found in tree if found.pid != self._child]
        # a container's outer process would take its inside down at once, so it is asked only when it is alone
        linux.send(inner or [self._child], signal.SIGTERM)

    def _living(self) -> list[int]:
        tree = {found.pid for found in linux.descendants(os.getpid()) if found.state not in "ZX"}
        return sorted(tree | {pid for pid in self._group.members() if pid not in tree})

    def _kill_all(self, grace_s: float) -> None:
        """Nothing of the tree survives this: the leftovers are asked, then killed until none is found."""
        self._reap()
        if self._living() and grace_s:
            linux.send(self._living(), signal.SIGTERM)
            end = time.monotonic() + grace_s
            while self._living() and time.monotonic() < end:
                for fd in list(self._copies):
                    self._copy(fd)
                time.sleep(0.01)
                self._reap()
        end = time.monotonic() + PATIENCE_S
        if self._code is None:
            self._work.kill()
        while True:
            self._group.kill(1.0)
            if self._uid is not None and self._living():
                linux.kill_user(self._uid)
            left = self._living()
            linux.send(left, signal.SIGKILL)
            self._reap()
            if not left or time.monotonic() > end:
                return
            time.sleep(0.005)

    def _finish(self) -> None:
        self._read_answer_rest()
        try:
            self._work.end()
        except (OSError, ContainerError, RuntimeUnavailable, subprocess.SubprocessError) as failure:
            print(f"cleanup: {failure}")

    def _read_answer_rest(self) -> None:
        if self._answer >= 0:
            before = -1
            while before != len(self._line):
                before = len(self._line)
                self._read_answer()

    def _result(self, error: str | None, wall: float) -> Message:
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu, rss = own.ru_utime + own.ru_stime, int(own.ru_maxrss)
        if self._work.resident is not None:
            rss = self._work.resident.most_kb(rss)
        if self._usage is not None:
            # what is below the guard is the runtime's client alone
            cpu, rss = max(cpu, self._usage.cpu_s), self._usage.max_rss_kb or rss
        answer: Message = json.loads(self._line) if self._line.endswith(b"\n") else {}
        if error is None and "error" in answer and not isinstance(self._work, Call):
            error = str(answer["error"])
        code = 137 if self._code is None else self._code
        return {
            "code": code,
            "wall": wall,
            "cpu": cpu,
            "max_rss_kb": rss,
            "oom": self._end_at is None and self._work.ran_out(code, rss),
            "error": error,
            "answer": answer,
            "left": self._living(),
        }
