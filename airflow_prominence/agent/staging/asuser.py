"""Doing something as the job's user, who can read and write what the job can and nothing else."""

from __future__ import annotations

import codecs
import json
import os
import resource
import signal
from typing import Any, Callable, Dict, Iterable

from .. import forks, linux
from ..users import User
from ..wire import encode

#: What an archive that is made to need memory gets, in bytes of address space.
_MOST_MEMORY = 4 << 30

# What zip archives and host names may need is loaded when it is first used, which a job's user may not be able to: our
# Python may lie where only we can go.
for _name in ("cp437", "idna"):
    codecs.lookup(_name)

Message = Dict[str, Any]


class ChildDied(Exception):
    """The work ended without an answer."""


def become(user: User) -> None:
    """Be the job's user from now on, without a way back, and leave no core."""
    parent = os.getppid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:
        linux.become(user.uid, user.gid)
    # after the change of user, which clears it
    if not linux.die_with_parent(signal.SIGKILL, parent):
        os._exit(137)


def as_user(user: User, work: Callable[[], Message], keep: Iterable[int]) -> Message:
    """Do the work in a child that is the job's user and has no descriptors but `keep`; its answer is small JSON."""
    out, into = os.pipe()

    def child() -> int:
        become(user)
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
        os.write(into, encode(work()) + b"\n")
        return 0

    pid = forks.fork(child, keep=[into, *keep])
    os.close(into)
    said = b""
    while True:
        data = os.read(out, 65536)
        if not data:
            break
        said += data
    os.close(out)
    _, status = os.waitpid(pid, 0)
    if not said.endswith(b"\n"):
        raise ChildDied(f"it ended with {linux.exit_code(status)}")
    answer: Message = json.loads(said)
    return answer
