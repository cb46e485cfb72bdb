"""Carrying out one order: a process of its own between the API and a guard, which outlives the node's service.

It hears the command's output and passes it on piece by piece; a slow API slows the command down, so nothing is kept on
the node. The guard ends all of the command with it: when it is over, takes too long, writes too much, when nobody waits
for it any more, when the job's container ends, and when this process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import Any, Iterator

from . import current, forks, linux, restage, sending, sweep
from .answers import Answers
from .cgroup import Cgroup
from .guard import PATIENCE_S as GUARD_PATIENCE_S
from .guard import Guard
from .inside import NOT_RUNNING, Archive, Command, kill
from .kept import NOT_KEPT, Kept
from .node import Node
from .order import EXEC, STAGE_OUT, BadOrder, Order, OrderPaths
from .paths import write_atomic
from .restage import Stopped
from .staging.outputs import StageOut
from .users import User
from .wire import encode
from .work import Call, Work

LOST = "the command's process on the node was lost"
BEAT_S = 1.0
ENDED_BY_SIGNAL = (128 + signal.SIGTERM, 128 + signal.SIGKILL)
RUNNER_SAYS_S = 1.5
GRACE_S = 0.5
_READ = 64 * 1024


class _TimeIsUp(Exception):
    """The order's time is over while something else than its guard works."""


class _Run:
    """One order, or a part of it, under its guard. `deadline` is a moment (monotonic)."""

    def __init__(self, paths: OrderPaths, order: Order, user: User, answers: Answers, deadline: float) -> None:
        self._paths = paths
        self._order = order
        self._user = user
        self._answers = answers
        self._deadline = deadline
        self._why: str | None = None  # it must end
        self._stop_at = 0.0
        self._guard = 0
        self._control, self._theirs = socket.socketpair()
        self._said = b""
        self._count = 0
        self._container: str | None = None

    # -- the kinds

    def command(self, node: Node, group: Cgroup) -> tuple[int | None, str | None]:
        """Exit code and error; only a command that has ended by itself has an exit code and no error."""
        work = Command(node, self._paths, self._order, group)
        self._container_is_over()
        out, into = os.pipe()
        # so that the command may open /dev/stdout by name
        os.fchown(into, self._user.uid, self._user.gid)
        with self._limited():
            self._fork(work, into, [])
            os.close(into)
            os.set_blocking(out, False)
            result = self._listen(out)
            if result is None:
                kill(self._paths, group)
            self._read(out, most=1 << 30)
        os.close(out)
        return self._outcome(result)

    def snapshot(self) -> tuple[int | None, str | None]:
        """The same: 0 when the archive is where it shall go."""
        with open(self._paths.archive, "w+b") as archive:
            work = Archive(self._paths, self._order, self._user, archive.fileno())
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            with self._limited():
                self._fork(work, null, [archive.fileno()])
                os.close(null)
                code, error = self._outcome(self._listen(None))
            if error is not None:
                return None, error
            archive.seek(0)
            try:
                with self._hurried():
                    sending.put(self._order.url, archive)
            except sending.NotSent as failure:
                return None, str(failure)
            except _TimeIsUp:
                return None, self._too_long()
        return code, None

    def output(self, work: StageOut) -> dict[str, Any]:
        """How one of several outputs was stored; raises Stopped when there shall be no more."""
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        with self._limited():
            self._fork(Call(work.run, self._paths.marker), null, [])
            os.close(null)
            result = self._listen(None)
            _, error = self._outcome(result)
        if result is None or error is not None:
            raise Stopped(error or LOST)
        answer: dict[str, Any] = result["answer"]
        return answer

    # -- its guard

    def _fork(self, work: Work, into: int, keep: list[int]) -> None:
        parent = os.getpid()
        ends = (into, os.dup(into))

        def body() -> int:
            linux.set_title("prominence-agent guard " + self._order.lease)
            if not linux.die_with_parent(signal.SIGTERM, parent):
                return 1
            return Guard(work, self._theirs, [], None).run(ends)

        self._guard = forks.fork(body, keep=[self._theirs.fileno(), *ends, *keep])
        self._theirs.close()
        os.close(ends[1])

    def _listen(self, out: int | None) -> dict[str, Any] | None:
        """Until the guard has told how it went; None if it died before."""
        beat = time.monotonic() + BEAT_S
        while True:
            fds = [self._control.fileno()] + ([] if out is None or self._why is not None else [out])
            ready = select.select(fds, [], [], max(0.0, beat - time.monotonic()))[0]
            if out in ready:
                self._read(out)
                beat = time.monotonic() + BEAT_S
            if self._control.fileno() in ready:
                try:
                    data = self._control.recv(1 << 20)
                except OSError:
                    data = b""
                if not data:
                    return None
                *lines, self._said = (self._said + data).split(b"\n")
                for message in map(json.loads, lines):
                    if "result" in message:
                        result: dict[str, Any] = message["result"]
                        return result
            if time.monotonic() >= beat:
                self._look()
                beat = time.monotonic() + BEAT_S

    def _look(self) -> None:
        if self._why is None:
            self._stop(self._answers.beat())
        elif time.monotonic() > self._stop_at + GRACE_S + GUARD_PATIENCE_S:
            linux.send([self._guard], signal.SIGKILL)
        if self._why is None and self._order.kind == EXEC and self._container_is_over():
            self._stop(NOT_RUNNING)

    def _container_is_over(self) -> bool:
        """Whether another container runs than the first that was seen running, or none."""
        now = current.read(self._paths.lease)
        name = now.spec.name if now is not None and now.live else None
        self._container = self._container or name
        return self._container is not None and self._container != name

    def _read(self, out: int, most: int = 16) -> None:
        """Pass on what is there, some pieces at a time."""
        for _ in range(most):
            try:
                data = os.read(out, _READ)
            except BlockingIOError:
                return
            if not data or self._why is not None:
                return
            room = self._order.limit - self._count
            self._count += len(data)
            self._stop(self._answers.write(data[: max(0, room)], self._deadline))
            if room < len(data):
                self._stop(f"it wrote more than {self._order.limit / (1 << 20):g} MB")

    # -- its end

    def _stop(self, why: str | None) -> None:
        """Have all of it end, for the first reason that is given."""
        if why is None or self._why is not None:
            return
        self._why = why
        self._stop_at = time.monotonic()
        with contextlib.suppress(OSError):  # it is dead already
            self._control.sendall(encode({"kill": GRACE_S}) + b"\n")
        # it may be looking for the container, where it does not listen
        linux.send([self._guard], signal.SIGTERM)

    def _outcome(self, result: dict[str, Any] | None) -> tuple[int | None, str | None]:
        self._control.close()
        os.waitpid(self._guard, 0)
        if self._why is not None:
            return None, self._why
        if result is None:
            return None, LOST
        error = result["error"] or result["answer"].get("error")
        code = int(result["code"])
        if self._order.kind == EXEC and (error or code in ENDED_BY_SIGNAL) and self._ended_with_its_container():
            # whatever it was that failed, this is why
            error = NOT_RUNNING
        return (None, str(error)) if error else (code, None)

    def _ended_with_its_container(self) -> bool:
        """Whether it was killed because its container ended, which the job's runner says a moment later."""
        end = time.monotonic() + RUNNER_SAYS_S
        while not self._container_is_over():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def _too_long(self) -> str:
        return f"it did not end within {self._order.timeout_s:g} s"

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """The order's time counts, also while the API is being waited for."""
        signal.signal(signal.SIGALRM, lambda *_: self._stop(self._too_long()))
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self._deadline - time.monotonic()))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextlib.contextmanager
    def _hurried(self) -> Iterator[None]:
        """The same for what is done here and has no guard. What nobody waits for any more is given up, too."""

        def tick(*_: object) -> None:
            if time.monotonic() > self._deadline or self._answers.beat() is not None:
                raise _TimeIsUp

        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, BEAT_S, BEAT_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _group(paths: OrderPaths) -> Cgroup:
    return Cgroup.find(sweep.group_name(paths.lease)).below(paths.group)


def run(state: str, paths: OrderPaths, url: str, token_file: str) -> int:
    """Carry out the order that has been recorded."""
    os.umask(0o077)
    linux.set_title("prominence-agent command " + paths.id)
    answers = Answers(url, token_file, paths.id)
    code: int | None = None
    error: str | None = None
    try:
        order = paths.read()
    except (BadOrder, OSError, ValueError) as bad:
        error = str(bad)
    else:
        user = User.read(paths.lease)
        error = answers.beat()
        kept = Kept.read(paths.lease) if order.kind == STAGE_OUT else None
        if error is None and order.kind == STAGE_OUT and (user is None or kept is None):
            error = NOT_KEPT
        if error is None and order.kind != STAGE_OUT and (user is None or os.path.exists(paths.lease.ended)):
            error = NOT_RUNNING
        if error is None and user is not None:
            linux.become_subreaper()
            node, deadline = Node.read(state), time.monotonic() + order.timeout_s

            def part() -> _Run:
                return _Run(paths, order, user, answers, deadline)

            if kept is not None:
                code, error = restage.store(
                    restage.Storing(order, kept, user, paths.record, answers.token, node.ca_file),
                    lambda work: part().output(work),
                    lambda line: answers.write(line, deadline),
                )
            else:
                code, error = part().command(node, _group(paths)) if order.kind == EXEC else part().snapshot()
    close(paths, code, error)
    answers.end(code, error)
    return 0


def recover(paths: OrderPaths, url: str, token_file: str) -> int:
    """After the death of its process: nothing of the command survives, and who waits for it hears so."""
    os.umask(0o077)
    linux.set_title("prominence-agent command " + paths.id)
    kill(paths, _group(paths))
    close(paths, None, LOST)
    Answers(url, token_file, paths.id).end(None, LOST)
    return 0


def close(paths: OrderPaths, code: int | None, error: str | None) -> None:
    """The record stays, without what was secret in it, so that the order is never carried out again."""
    for path in (paths.order, paths.archive):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    with contextlib.suppress(FileNotFoundError):  # the whole lease was forgotten meanwhile
        write_atomic(paths.ended, json.dumps({"exit_code": code, "error": error}), sync=False)
