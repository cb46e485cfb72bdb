"""What a guard does for an order: a command in a running container, or an archive of a job's files."""

from __future__ import annotations

import errno
import os
import time
from typing import Callable

from . import current, enter, linux
from .cgroup import Cgroup
from .node import Node
from .order import Order, OrderPaths
from .pack import TooLarge, pack
from .paths import LeasePaths, Process
from .runtimes.base import HOME, TMP, ContainerError, Launch, RuntimeUnavailable
from .users import User
from .wire import encode
from .within import NotThere
from .work import Work, execute

NOT_RUNNING = "Job is not running"

#: Between a job's tasks no container runs for a moment, and one that has just been started is not up yet (seconds).
_NEXT_TASK_S = 3.0
_START_S = 10.0
_LOOK_S = 0.02


class Command(Work):
    """`group` is the command's own part of the job's groups."""

    def __init__(self, node: Node, paths: OrderPaths, order: Order, group: Cgroup) -> None:
        self._node = node
        self._paths = paths
        self._order = order
        self.group = group

    def begin(self) -> Callable[[int], None]:
        now, launch = self._find()

        def child(out: int) -> None:
            with current.held(self._paths.lease) as still:
                if still is None or still.spec.name != now.spec.name:
                    os.write(out, encode({"error": NOT_RUNNING}) + b"\n")
                    os._exit(1)
                try:
                    self._run(launch)
                except enter.NotEntered as error:
                    os.write(out, encode({"error": str(error)}) + b"\n")
                except OSError as error:
                    sentence = f"{launch.argv[0]}: {os.strerror(error.errno or errno.ENOEXEC)}"
                    os.write(out, encode({"error": sentence}) + b"\n")
            os._exit(1)

        return child

    def _run(self, launch: Launch) -> None:
        # not before the lock is held: who removes the job's groups must find this one
        self.group.make()
        if launch.enters is None:
            execute(launch, self.group, self._paths.lease.marker)
        else:
            self.group.join()
            enter.run(launch.enters, launch.run_as, launch.argv, launch.env, HOME)

    def _find(self) -> tuple[current.Current, Launch]:
        began = time.monotonic()
        more = dict([self._paths.marker.split("=", 1), self._paths.lease.marker.split("=", 1)])
        while True:
            waited = time.monotonic() - began
            now = current.read(self._paths.lease)
            guard = None if now is None else _guard(self._paths.lease, now)
            if now is not None and now.live and guard is not None:
                try:
                    runtime = self._node.runtime(now.runtime)
                except RuntimeUnavailable as error:
                    raise ContainerError(str(error)) from error
                launch = runtime.inside(now.spec, list(self._order.argv), more, guard)
                if launch is not None:
                    return now, launch
                if waited > _START_S:
                    raise ContainerError("the job's container is not up yet")
            elif waited > _NEXT_TASK_S:
                raise ContainerError(NOT_RUNNING)
            time.sleep(_LOOK_S)

    def end(self) -> None:
        """What has left the tree of its parents is known by its mark, which a container's first process keeps."""
        kill(self._paths, self.group)


def kill(paths: OrderPaths, group: Cgroup) -> None:
    """End all that is left of a command."""
    group.kill()
    linux.kill_branded(linux.Brand(paths.marker), patience_s=5.0)
    group.remove()


class Archive(Work):
    """Writes the archive of a snapshot, as the job's user, to a file that its caller has opened."""

    def __init__(self, paths: OrderPaths, order: Order, user: User, target: int) -> None:
        self._paths = paths
        self._order = order
        self._user = user
        self._target = target

    def begin(self) -> Callable[[int], None]:
        roots = self._roots()

        def child(out: int) -> None:
            os.environ["PROMINENCE_COMMAND"] = self._order.id
            if os.geteuid() == 0:
                linux.become(self._user.uid, self._user.gid)
            answer = {}
            try:
                with os.fdopen(self._target, "wb", closefd=False) as target:
                    pack(roots, self._order.path, self._order.name, target, self._order.limit)
            except NotThere as error:
                answer = {"error": str(error)}
            except TooLarge as error:
                answer = {"error": f"the snapshot {error}, which is the limit here"}
            except OSError as error:
                answer = {"error": f"the node can't keep the snapshot: {error.strerror}"}
            os.write(out, encode(answer) + b"\n")
            os._exit(0)

        return child

    def _roots(self) -> dict[str, str]:
        """The folders of the job that its containers see, and where: mounted storage is not the job's."""
        job = self._paths.lease.job
        home = os.path.join(job, "home")
        roots = {HOME: home, TMP: os.path.join(job, "tmp")}
        now = current.read(self._paths.lease)
        if now is not None:
            roots.update({path: host for host, path in now.spec.binds if host.startswith(home + "/")})
        if not os.path.isdir(home):
            raise ContainerError(NOT_RUNNING)
        return roots


def _guard(paths: LeasePaths, now: current.Current) -> int | None:
    """The guard of a container, if it lives."""
    guard = Process.read(paths.guard(now.guard))
    return guard.pid if guard is not None and guard.alive else None
