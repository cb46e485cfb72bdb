"""A job's sidecars: started before its standard tasks, ended after them, and told when they end before."""

from __future__ import annotations

import time
from typing import Any, Callable, Mapping

from . import spool
from .guarded import Guarded
from .supervise import Supervisor
from .work import Container

#: What a sidecar has to tidy up in, between the last task's end and its own (s).
GRACE_S = 5.0

Used = Callable[[int, Mapping[str, Any]], None]


class Sidecars:
    """`used` is told what each has used: its task's index and its guard's result."""

    def __init__(self, supervisor: Supervisor, reports: spool.Writer, used: Used) -> None:
        self._supervisor = supervisor
        self._reports = reports
        self._used = used
        self._running: dict[int, Guarded] = {}
        self._began: dict[int, float] = {}

    def start(self, index: int, work: Container, deadline: float) -> str | None:
        """Start the sidecar that is task `index`; why that can't be, if it can't."""

        def ended(guarded: Guarded) -> None:
            result = guarded.result or {}
            if result["error"] is None:
                self._report(index, result, early=True)

        self._began[index] = time.monotonic()
        guarded = self._supervisor.start(work, limited=True, alone=False, on_end=ended)
        self._running[index] = guarded
        self._supervisor.until(lambda: guarded.started or guarded.over, deadline)
        error = None if guarded.result is None else guarded.result["error"]
        return None if error is None else str(error)

    def end(self, deadline: float | None = None) -> None:
        """Have all end that still run: asked first, killed when they take too long."""
        running = {index: guarded for index, guarded in self._running.items() if not guarded.over}
        self._supervisor.end(running.values(), GRACE_S, deadline)
        for index, guarded in running.items():
            self._report(index, guarded.result or {}, early=False)

    def account(self) -> None:
        """Say what they have used, whatever has ended them."""
        for index, guarded in self._running.items():
            self._used(index, guarded.result or {"code": 137, "wall": time.monotonic() - self._began[index]})

    def _report(self, index: int, result: Mapping[str, Any], early: bool) -> None:
        self._reports.add(
            "task",
            {
                "task": index,
                "exit_code": int(result["code"]),
                "wall": round(float(result["wall"]), 3),
                "cpu": round(float(result["cpu"]), 3),
                "max_rss_kb": int(result["max_rss_kb"]),
                "retries": 0,
                "sidecar": "early" if early else "ended",
            },
        )
