"""The orders of a node as its service sees them: each is carried out at most once, by a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any, Mapping

from . import command, forks
from .answers import Answers
from .inside import NOT_RUNNING
from .kept import NOT_KEPT
from .order import STAGE_OUT, BadOrder, Order, OrderPaths, orders
from .paths import BadLease, LeasePaths, Process, leases, write_atomic

#: How long it is remembered that an order was carried out: longer than an answer to a poll can be on its way (s).
REMEMBER_S = 600.0
_PRUNE_S = 60.0


def _say(text: str) -> None:
    print("{} {}".format(time.strftime("%Y-%m-%dT%H:%M:%S"), text), flush=True)


class Orders:
    """All orders with a record below one state folder."""

    def __init__(self, state: str, url: str, token_file: str) -> None:
        self._state = state
        self._url = url
        self._token_file = token_file
        self._children: set[int] = set()
        self._running: dict[str, tuple[OrderPaths, Process]] = {}
        self._prune_at = time.monotonic() + _PRUNE_S

    def adopt(self) -> None:
        """Take up what an earlier service of this node has left; what was recorded and not begun never begins."""
        for lease in leases(self._state):
            for paths in orders(LeasePaths(self._state, lease)):
                if os.path.exists(paths.ended):
                    continue
                process = Process.read(paths.process)
                if process is not None and process.alive:
                    self._running[paths.id] = paths, process
                else:
                    self._fork(paths, recovering=True)

    def listed(self) -> list[str]:
        """For the API: the orders that have arrived here and are not over."""
        return sorted(self._running)

    def works_on(self, lease: str) -> bool:
        """Whether there is an order of this lease that is not over."""
        return any(paths.lease.lease == lease for paths, _ in self._running.values())

    def start(self, given: Mapping[str, Any]) -> None:
        """Record the order, then carry it out; one that has a record is left alone."""
        name = str(given.get("id"))
        try:
            order = Order.parse(given)
            paths = OrderPaths(LeasePaths(self._state, order.lease), order.id)
        except (BadOrder, BadLease) as error:
            _say(f"order {name}: {error}")
            self._refuse(name, str(error))
            return
        if os.path.exists(paths.record):
            return
        if not os.path.exists(paths.lease.assignment):
            self._refuse(name, NOT_KEPT if order.kind == STAGE_OUT else NOT_RUNNING)
            return
        os.makedirs(paths.record, mode=0o700)
        write_atomic(paths.order, json.dumps(dict(given)))
        self._fork(paths, recovering=False)

    def _refuse(self, name: str, error: str) -> None:
        answers = Answers(self._url, self._token_file, name)

        def body() -> int:
            answers.end(None, error)
            return 0

        # the service itself waits for nobody
        self._children.add(forks.fork(body, session=True))

    def _fork(self, paths: OrderPaths, recovering: bool) -> None:
        """Start a process that outlives this one. If it dies before its pid is on disk, the order counts as begun."""
        state, url, token_file = self._state, self._url, self._token_file

        def body() -> int:
            if recovering:
                return command.recover(paths, url, token_file)
            return command.run(state, paths, url, token_file)

        pid = forks.fork(body, log=paths.log, session=True)
        process = Process.of(pid)
        process.write(paths.process, sync=False)
        self._children.add(pid)
        self._running[paths.id] = paths, process
        _say(f"order {paths.id} of lease {paths.lease.lease}: {'recovered' if recovering else 'begun'} by {pid}")

    def tick(self) -> None:
        """Look after the processes of all orders."""
        for pid in list(self._children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._children.discard(pid)
        for name, (paths, process) in list(self._running.items()):
            if process.alive:
                continue
            del self._running[name]
            if os.path.exists(paths.record) and not os.path.exists(paths.ended):
                self._fork(paths, recovering=True)
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_S
            self._prune()

    def _prune(self) -> None:
        for lease in leases(self._state):
            for paths in orders(LeasePaths(self._state, lease)):
                try:
                    old = time.time() - os.stat(paths.ended).st_mtime > REMEMBER_S
                except FileNotFoundError:
                    continue
                if old and paths.id not in self._running:
                    shutil.rmtree(paths.record, ignore_errors=True)
