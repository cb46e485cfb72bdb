"""Forking children that share nothing with their parent but what they are given.

Every process of the agent is a fork of a single-threaded one: no interpreter starts between assignment and job.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Callable, Iterable

#: Descriptors that every fork keeps.
_shared: set[int] = set()


def share(fd: int) -> None:
    """Keep `fd` open in all that are forked from now on, by this process and by them, but for programs they execute."""
    _shared.add(fd)


def _close_all_but(keep: Iterable[int]) -> None:
    # a stray copy of a pipe or lock would hide its owner's death from whoever watches it
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep and fd not in _shared:
            try:
                os.close(fd)
            except OSError:
                continue  # the descriptor that listed the folder


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def fork(body: Callable[[], int], keep: Iterable[int] = (), log: str | None = None, session: bool = False) -> int:
    """Run `body` in a child with only `keep` and the standard descriptors open; its result is the exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code, whole = 70, False
    try:
        _reset_signals()
        if session:
            os.setsid()
        _close_all_but(frozenset(keep))
        if log is not None:
            _redirect(log)
        code = body()
        whole = True
    finally:
        # leaving by an exception must not run the parent's code in this copy of it
        if not whole:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(null)
    os.close(out)
