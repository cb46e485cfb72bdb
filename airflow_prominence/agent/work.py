"""What a guard can guard: a function such as a pull, or one try of one task in its container."""

from __future__ import annotations

import errno
import os
import resource
import signal
from typing import Any, Callable, Dict

from . import linux
from .cgroup import NO_GROUP, Cgroup
from .resident import Resident
from .runtimes.base import ContainerSpec, Launch, Runtime, Usage
from .wire import encode

Message = Dict[str, Any]


class Work:
    """What a guard can guard. `begin` runs in the guard and returns what its child is to do."""

    #: Processes that belong to this work whatever they have become.
    group: Cgroup = NO_GROUP
    #: Other work stands on this one (as containers on a mount), so when all must end it ends last.
    carries = False
    #: Its processes leave the lease's group for one of their own, where its limits don't hold them.
    regroups = False
    #: Where the memory of its processes is told from that of what starts them.
    resident: Resident | None = None
    #: Where its standard output goes beside the job's own.
    copy_to: int | None = None

    def begin(self) -> Callable[[int], None]:
        """A function for the forked child; it gets a descriptor to write one line of JSON to, and must not return."""
        raise NotImplementedError

    def usage(self) -> Usage | None:
        """What it has used so far where the guard's children do not show it."""
        return None

    def settled(self, child: int) -> bool:  # noqa: ARG002 - for those that override it
        """Whether its end may be asked for now; looked at again and again while there is time. `child` is its pid."""
        return True

    def ran_out(self, code: int, rss_kb: int) -> bool:  # noqa: ARG002 - for those that override it
        """Whether it ended for want of memory though the lease's group can't tell; asked after `end`."""
        return False

    def kill(self) -> None:
        """End what is not below the guard."""

    def end(self) -> None:
        """Everything of the work is dead."""


class Call(Work):
    """A Python function, such as a pull, whose answer is small JSON."""

    def __init__(self, function: Callable[[], Message], marker: str) -> None:
        self._function = function
        self._marker = marker

    def begin(self) -> Callable[[int], None]:
        def child(out: int) -> None:
            name, _, value = self._marker.partition("=")
            os.environ[name] = value
            os.write(out, encode(self._function()) + b"\n")
            os._exit(0)

        return child


class Container(Work):
    """One try of one task. `group` is this container's own part of the job's.

    `copy_to` is a descriptor that its standard output goes to as well; it is closed with the guard.
    """

    def __init__(
        self, runtime: Runtime, spec: ContainerSpec, group: Cgroup, marker: str, copy_to: int | None = None
    ) -> None:
        self.runtime = runtime
        self.spec = spec
        self.group = group
        self.regroups = runtime.regroups
        self._marker = marker
        self.copy_to = copy_to
        self._oom = False

    def begin(self) -> Callable[[int], None]:
        self.runtime.prepare(self.spec)
        launch = self.runtime.launch(self.spec)
        group = None if self.regroups else self.group
        resident = self.resident = Resident(self.runtime.binaries(), self.runtime.isolates, group)

        def child(out: int) -> None:
            try:
                execute(launch, self.group, self._marker, resident.mark)
            except OSError as error:
                sentence = f"{launch.argv[0]}: {os.strerror(error.errno or errno.ENOEXEC)}"
                os.write(out, encode({"error": sentence}) + b"\n")
            os._exit(127)

        return child

    def usage(self) -> Usage | None:
        return self.runtime.usage(self.spec.name)

    def kill(self) -> None:
        self.runtime.kill(self.spec.name)

    def ran_out(self, code: int, rss_kb: int) -> bool:
        # podman's helper may be too late to see it: killed by nobody of ours, with as much memory as it might have
        full = rss_kb * 10 > self.spec.memory_mb * 1024 * 9
        return self._oom or (self.regroups and code == 128 + signal.SIGKILL and full)

    def end(self) -> None:
        self._oom = self.runtime.oom_killed(self.spec)
        self.runtime.cleanup(self.spec)
        self.group.remove()


def execute(launch: Launch, group: Cgroup, marker: str, last: Callable[[], None] = lambda: None) -> None:
    """Become what `launch` says, in `group` and marked as the lease's; raises OSError where that can't be.

    `last` is done when nothing else is left to do.
    """
    name, _, value = marker.partition("=")
    environment = dict(launch.env)
    environment[name] = value
    group.join()
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = os.getppid()
    if launch.run_as is not None:
        linux.become(*launch.run_as)
    # after the change of user, which clears it
    if not linux.die_with_parent(signal.SIGKILL, parent):
        os._exit(137)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    last()
    os.execvpe(launch.argv[0], launch.argv, environment)  # noqa: S606 - no shell is what we want
