"""What mounting takes on any Linux: the device, the helper of ordinary users, and mount points that go away again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

from .. import linux
from ..runtimes.files import CLEAN
from .model import Unmountable

_DEVICE = "/dev/fuse"
_OCTAL = re.compile(r"\\([0-7]{3})")
_TIMEOUT_S = 10.0


def find(program: str) -> str | None:
    """The program's path: on the system, or beside the Python that runs the agent, where PyPI's wheels put theirs."""
    return shutil.which(program, path=CLEAN["PATH"] + os.pathsep + os.path.dirname(sys.executable))


def check() -> None:
    """Raise Unmountable if nothing can be mounted on this node."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        sentence = f"{_DEVICE} can't be opened on this node ({error.strerror}); it needs the kernel's module fuse"
        raise Unmountable(sentence, final=True) from None
    if find("fusermount3") is None and find("fusermount") is None:
        raise Unmountable("fusermount3 is not installed on this node (Debian, Ubuntu: apt install fuse3)", final=True)


def everybody() -> bool:
    """Whether we may mount for other users too, as those that container daemons and user namespaces make of ours."""
    if os.geteuid() == 0:
        return True
    try:
        with open("/etc/fuse.conf", encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def points(below: str) -> list[str]:
    """Mount points at and below a folder, inner ones first; one that is mounted twice is there twice."""
    # the kernel lists real paths; the folder itself may be a mount that does not answer
    parent, name = os.path.split(below)
    below = os.path.join(os.path.realpath(parent), name)
    found: list[str] = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split()[4])
            if point == below or point.startswith(below + "/"):
                found.append(point)
    return sorted(found, reverse=True)


def unmount(folder: str) -> bool:
    """Unmount all at and below `folder` at once, in use or not, its server there or not; False if that failed."""
    for point in points(folder):
        if os.geteuid() == 0:
            linux.detach_mount(point)
        else:
            _helper(point)
    return not points(folder)


def _helper(point: str) -> None:
    helper = find("fusermount3") or find("fusermount")
    if helper is None:
        print(f"{point}: there is no fusermount3 to unmount it")
        return
    try:
        done = subprocess.run(
            [helper, "-u", "-z", point],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=dict(CLEAN),
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        print(f"{point}: fusermount3 does not end")
        return
    if done.returncode != 0:
        print(f"{point}: {done.stderr.decode('utf-8', 'replace').strip()}")
