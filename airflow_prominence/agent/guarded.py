"""One guard from the runner's side: its pipes, what it says, and what it is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import Any, Callable

from . import forks, linux, spool
from .copying import Copy
from .guard import Guard
from .paths import LeasePaths, Process
from .users import User
from .wire import encode
from .work import Work

PATIENCE_S = 12.0

Ended = Callable[["Guarded"], None]


class Guarded:
    """A piece of work under its guard. `result` is what the guard has told of it, None if it died before."""

    def __init__(self, paths: LeasePaths, number: int, work: Work, limited: bool, on_end: Ended | None) -> None:
        self.number = number
        self.work = work
        self.limited = limited
        self.on_end = on_end
        self.result: dict[str, Any] | None = None
        self.started = False  # its program is running
        self.over = False  # its guard is gone, and everything that it has said was heard
        self.asked = False  # it was told to end
        self.memory_kb = 0  # of processes that are not below the guard
        self.pid = 0
        self.status: int | None = None
        self._paths = paths
        self._file = paths.guard(number)
        self._control, self._theirs = socket.socketpair()
        self._files: dict[str, int] = {}
        self._pipes: dict[str, tuple[int, int]] = {}
        self._told: set[str] = set()
        self._said = b""
        self._until = 0.0

    def fileno(self) -> int:
        return self._control.fileno()

    def begin(self, user: User, alone: bool) -> None:
        """Start the guard. Work that is `alone` may have all processes of the job's user killed at its end."""
        for name in spool.STREAMS:
            out, into = os.pipe()
            # so that the job may open /dev/stdout by name
            os.fchown(into, user.uid, user.gid)
            self._pipes[name] = out, into
            path = spool.stream_path(self._paths.spool, name)
            self._files[name] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        parent = os.getpid()
        ends = (self._pipes["stdout"][1], self._pipes["stderr"][1])
        copies = [self._copy(name, shared=not alone) for name in spool.STREAMS]
        uid = user.uid if user.own and alone else None

        def body() -> int:
            linux.set_title("prominence-agent guard " + self._paths.lease)
            if not linux.die_with_parent(signal.SIGTERM, parent):
                return 1
            return Guard(self.work, self._theirs, copies, uid).run(ends)

        keep = [self._theirs.fileno(), *ends]
        for copy in copies:
            keep += [copy.source, copy.target, *([] if copy.beside is None else [copy.beside])]
        self.pid = forks.fork(body, keep=keep)
        Process.of(self.pid).write(self._file, sync=False)
        self._theirs.close()
        for end in ends:
            os.close(end)

    def _copy(self, name: str, shared: bool) -> Copy:
        beside = self.work.copy_to if name == "stdout" else None
        return Copy(self._pipes[name][0], self._files[name], shared, beside)

    # -- what it says

    def hear(self, all_of_it: bool = False) -> bool:
        """Take in what it says; False when it will say nothing more."""
        self._control.setblocking(not all_of_it)
        while True:
            try:
                data = self._control.recv(1 << 20)
            except OSError:
                return False
            if not data:
                return False
            *lines, self._said = (self._said + data).split(b"\n")
            for line in lines:
                self._understand(json.loads(line))
            if not all_of_it:
                return True

    def _understand(self, message: dict[str, Any]) -> None:
        if "result" in message:
            self.result = message["result"]
        elif "started" in message:
            self.started = True
        elif "memory_kb" in message:
            self.memory_kb = int(message["memory_kb"])

    def reaped(self, status: int) -> None:
        """The guard has ended; its last words may have come since they were last listened for."""
        self.status = status
        self.hear(all_of_it=True)
        self.over = True

    # -- what it is told

    def discard(self, stream: str) -> None:
        """Keep no more of this stream."""
        if stream not in self._told:
            self._told.add(stream)
            self._say({"discard": self._files[stream]})

    def ask(self, grace_s: float) -> None:
        """Have the work end within `grace_s` seconds; of several wishes the earliest counts."""
        until = time.monotonic() + grace_s + PATIENCE_S
        if self.asked and until >= self._until:
            return
        self.asked = True
        self._until = until
        self._say({"kill": grace_s})
        # it may be in the middle of preparing a container, where it does not listen
        linux.send([self.pid], signal.SIGTERM)

    def press(self) -> float:
        """Kill a guard that takes too long to end; in how many seconds to look again."""
        left = self._until - time.monotonic()
        if left <= 0:
            linux.send([self.pid], signal.SIGKILL)
            return 1.0
        return min(1.0, left)

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.sendall(encode(message) + b"\n")
        except OSError:
            return  # it is dead, which the loop sees when it has reaped it

    # -- after it

    def drain(self) -> None:
        """Keep the output that a dead guard has left in its pipes; everything that wrote to them is dead."""
        for name, (out, _) in self._pipes.items():
            os.set_blocking(out, False)
            self._copy(name, shared=False).finish()

    def close(self) -> None:
        self._control.close()
        for name in spool.STREAMS:
            os.close(self._pipes[name][0])
            os.close(self._files[name])
        if self.work.copy_to is not None:
            os.close(self.work.copy_to)
