"""The node's service: registers the node, hears of its leases by long-polling, and looks after their runners.

It is one single-threaded loop, so that it may fork. Ending it, by any signal, ends no job: the runners go on, and the
next service finds them.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
import uuid
from dataclasses import dataclass
from typing import Any, Mapping

from . import __version__, facts
from .kept import KeptFolders, total_mb
from .leases import Leases
from .metadata import Verdict
from .node import Node
from .orders import Orders
from .paths import leases, make_state
from .wire import Backoff, Connection, Refused, Unreachable, encode

TICK_S = 1.0
ANSWER_S = 15.0


class Unusable(Exception):
    """The service can't start; one sentence says why."""


@dataclass(frozen=True)
class Config:
    url: str
    token_file: str
    name: str
    site: str
    state: str
    cpus: int
    memory_mb: int
    disk_mb: int
    node: Node
    metadata: Verdict


def _say(text: str) -> None:
    print("{} {}".format(time.strftime("%Y-%m-%dT%H:%M:%S"), text), flush=True)


def check_state(state: str) -> None:
    """As root, jobs run as users of their own, who must be able to reach their folders."""
    if os.geteuid() != 0:
        return
    path = os.path.abspath(state)
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o001:
            raise Unusable(f"--state: {state} can't be reached by the jobs' users, because {path} is closed to others")


def lock_state(state: str) -> int:
    """Two services on one folder would start every job twice. The kernel drops the lock when we die."""
    fd = os.open(os.path.join(state, "serve.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Unusable(f"--state: {state} is served by another agent") from error
    os.truncate(fd, 0)
    os.write(fd, str(os.getpid()).encode())
    return fd


class Service:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._boot = str(uuid.uuid4())
        self._orders = Orders(config.state, config.url, config.token_file)
        self._leases = Leases(config.state, KeptFolders(config.state, config.disk_mb, self._orders.works_on))
        self._connection = Connection(config.url, timeout_s=ANSWER_S)
        self._backoff = Backoff()
        self._node: str | None = None
        self._poll_s = 20.0
        self._ending = False
        self._wake, into = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(into, False)
        signal.set_wakeup_fd(into, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._end)

    def _end(self, *_: object) -> None:
        self._ending = True

    def run(self) -> int:
        self._orders.adopt()
        self._leases.adopt()
        while not self._ending:
            self._tick()
            try:
                self._converse()
                self._backoff.reset()
            except Unreachable as error:
                self._connection.close()
                _say(f"API not reached: {error}")
                self._rest(self._backoff.pause())
            except Refused as error:
                self._connection.close()
                _say(f"API refused: {error}")
                self._node = None
                self._rest(self._backoff.pause())
        _say("leaving; running jobs go on without this service")
        return 0

    def _rest(self, seconds: float) -> None:
        """A pause in which runners are looked after."""
        end = time.monotonic() + seconds
        while not self._ending and time.monotonic() < end:
            self._await(None, min(TICK_S, end - time.monotonic()))
            self._tick()

    def _tick(self) -> bool:
        """Look after runners and commands; True when there is something new to tell the API."""
        self._orders.tick()
        return self._leases.tick()

    def _await(self, fd: int | None, seconds: float) -> bool:
        """True when `fd` can be read; signals end the wait."""
        ready = select.select([self._wake] + ([] if fd is None else [fd]), [], [], max(0.0, seconds))[0]
        if self._wake in ready:
            os.read(self._wake, 4096)
        return fd is not None and fd in ready

    # -- the protocol

    def _token(self) -> str:
        try:
            with open(self._config.token_file, encoding="utf-8") as handle:
                return handle.read().strip()
        except OSError as error:
            raise Unreachable(f"token file: {error}") from error

    def _call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._connection.call("POST", path, self._token(), encode(body))

    def _converse(self) -> None:
        """Register if need be, tell what is lost, and poll once."""
        if self._node is None:
            self._register()
        for lease, reason in list(self._leases.lost.items()):
            self._report_lost(lease, reason)
        self._poll()

    def _register(self) -> None:
        config = self._config
        answer = self._call(
            "/nodes",
            {
                "name": config.name,
                "site": config.site,
                "kind": "local",
                "boot": self._boot,
                "cpus": config.cpus,
                "memory_mb": config.memory_mb,
                "disk_mb": config.disk_mb,
                "runtimes": dict(config.node.runtimes),
                "runtime_info": dict(config.node.info, metadata=config.metadata.info),
                "agent_version": __version__,
                "running": self._leases.listed(),
            },
        )
        self._node = str(answer["node"])
        self._poll_s = float(answer.get("poll_s") or 20)
        _say(f"registered {config.name} of site {config.site} as node {self._node}")

    def _report_lost(self, lease: str, reason: str) -> None:
        try:
            self._call(f"/nodes/{self._node}/lost", {"boot": self._boot, "lease": lease, "reason": reason})
        except Refused as error:
            if error.status not in (400, 404, 410):
                raise
            _say(f"lease {lease}: the API does not want it any more: {error}")
        self._leases.told_lost(lease)

    def _poll(self) -> None:
        body = {
            "boot": self._boot,
            "leases": self._leases.table(),
            "commands": self._orders.listed(),
            "timeout": self._poll_s,
        }
        self._connection.send("POST", f"/nodes/{self._node}/poll", self._token(), encode(body))
        end = time.monotonic() + self._poll_s + ANSWER_S
        while not self._await(self._connection.fd, min(TICK_S, end - time.monotonic())):
            if self._ending or self._tick():
                # the answer, if it comes, is repeated at the next poll
                self._connection.close()
                return
            if time.monotonic() > end:
                raise Unreachable("no answer to a poll")
        answer = self._connection.receive()
        for assignment in answer.get("start") or []:
            self._leases.start(assignment)
        for order in answer.get("stop") or []:
            grace = float(order.get("grace_s") or 0.0)
            self._leases.stop(str(order["lease"]), str(order.get("why") or "stopped"), grace)
        for order in answer.get("commands") or []:
            self._orders.start(order)
        for lease in answer.get("forget") or []:
            self._leases.forget(str(lease))


def serve(config: Config) -> int:
    lock = lock_state(config.state)
    try:
        config.node.write()
        for command in set(config.node.runtimes.values()):
            config.node.runtime(command)  # imported now, so that no runner has to
        _say(config.metadata.detail)
        return Service(config).run()
    finally:
        os.close(lock)


def prepare(state: str) -> None:
    make_state(state)
    check_state(state)


def detected(state: str, cpus: int | None, memory_mb: int | None, disk_mb: int | None) -> dict[str, int]:
    return {
        "cpus": cpus or facts.cpus(),
        "memory_mb": memory_mb or facts.memory_mb(),
        # what is kept of jobs gives way to new ones
        "disk_mb": disk_mb or facts.disk_mb(state) + total_mb(state, leases(state)),
    }
