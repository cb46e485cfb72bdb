"""Small files and processes that runtimes need on the host."""

import os
import subprocess
import sys
from typing import Any, Dict, List, Optional, Tuple

from .. import linux
from ..images.tree import remove_tree
from .base import ContainerError, ContainerSpec, Launch

CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
SHELL = "/bin/sh"
_REFUSE = 'printf "%s\\n" "$2" >&2; exit "$1"'


def refused(code: int, sentence: str, run_as: Optional[Tuple[int, int]]) -> Launch:
    """A launch that says why nothing is started, on the job's own stderr."""
    return Launch([SHELL, "-c", _REFUSE, "sh", str(code), sentence], dict(CLEAN), run_as)


def job_file(spec: ContainerSpec, kind: str, data: bytes, mode: int = 0o600) -> str:
    """Write a file of this container to the job's scratch folder, for the job's user alone unless `mode` says more."""
    try:
        os.makedirs(spec.scratch, mode=0o711, exist_ok=True)
        path = os.path.join(spec.scratch, f"{spec.name}.{kind}")
        if os.path.lexists(path):
            os.unlink(path)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), spec.uid, spec.gid)
    except OSError as error:
        raise ContainerError(f"the job's folder cannot be written ({error})") from error
    return path


def run_as(spec: ContainerSpec) -> Optional[Tuple[int, int]]:
    """Who the launched command shall be: the job's user, which only root can choose."""
    if spec.uid == 0 or spec.gid == 0:
        raise ContainerError("a job's user must not be root")
    if os.geteuid() == 0:
        return spec.uid, spec.gid
    if spec.uid != os.geteuid():
        raise ContainerError("only root can run a job as another user")
    return None


def run_quietly(
    argv: List[str],
    user: Optional[Tuple[int, int]] = None,
    env: Optional[Dict[str, str]] = None,
    timeout: float = 60.0,
) -> Optional[str]:
    """A command's standard output, None if it failed."""
    done = run(argv, user, env, timeout)
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def run(
    argv: List[str],
    user: Optional[Tuple[int, int]] = None,
    env: Optional[Dict[str, str]] = None,
    timeout: float = 60.0,
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command with a clean environment, as another user if root says so; one that hangs or is missing fails."""
    more: Dict[str, Any] = {}
    if user is not None:
        if sys.version_info >= (3, 9):
            more = {"user": user[0], "group": user[1], "extra_groups": []}
        else:
            more = {"preexec_fn": lambda: linux.become(*user)}
    environment = dict(CLEAN if env is None else env)
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=environment,
            timeout=timeout,
            cwd="/",
            **more,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 125, b"", str(error).encode())


def last_line(done: "subprocess.CompletedProcess[bytes]") -> str:
    lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def settle(partial: str, target: str) -> None:
    """Put a finished folder in its place; whoever was first has won."""
    try:
        os.rename(partial, target)
    except OSError:
        if not os.path.isdir(target):
            raise
        remove_tree(partial)


def make_folder(path: str, owner: Optional[Tuple[int, int]] = None, mode: int = 0o755) -> str:
    """A folder with exactly this mode whatever the umask, its missing parents being passable for all."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        make_folder(parent)
    if not os.path.isdir(path):
        os.mkdir(path)
        os.chmod(path, mode)
        if owner is not None and os.geteuid() == 0:
            os.chown(path, *owner)
    return path
