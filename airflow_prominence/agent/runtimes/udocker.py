"""Containers by udocker: a process tracer plays the container, for hosts where nothing else may be had.

It isolates nothing: a job reads what its user can read.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from typing import Dict, List, Optional

from ..images.cache import write_text
from ..images.tree import remove_tree, resolve_in_root
from . import writable
from .base import ContainerError, ContainerSpec, Launch, Runtime, RuntimeUnavailable
from .files import CLEAN, job_file, last_line, make_folder, refused, run, run_as, settle
from .rootfs import make_workdir, mounts, refusal

_GET = "install it (pip install udocker)"
# proot makes 255 of any signal; a shell beside the command knows which it was. (The message that some shells print
# about it is theirs alone, so it goes nowhere.)
_WAIT = 'exec 3>&2 2>/dev/null; "$@" 2>&3 3>&- & wait "$!"'
# udocker strips variables given to it as options, shows them to all users of the host, and drops empty arguments. This
# starts udocker's own `run` with what a file of the job says: the exact arguments and environment.
_LAUNCHER = """
import ctypes, json, os, sys
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "package"))
from udocker.engine.base import ExecutionEngineCommon
from udocker.umain import UMain
with open(sys.argv[1], encoding="utf-8", errors="surrogateescape") as file:
    job = json.load(file)
def exact(engine):
    os.environ.clear()
    engine.opt["env"].env = dict(job["env"], PROOT_NO_SECCOMP="1")
    engine.opt["cmd"] = job["command"]
ExecutionEngineCommon._run_env_set = exact
ExecutionEngineCommon._run_env_cleanup_dict = exact
os.chdir(job["cwd"])
code = UMain(["udocker"] + job["argv"]).execute()
sys.exit(code if code >= 0 else 128 - code)
"""


class Udocker(Runtime):
    name = "udocker"
    # proot translates paths; what it runs can leave it, and read and end whatever its user can.
    isolates = False

    def probe(self) -> str:
        self._install()
        self._engine()
        done = run(
            [
                self._python(),
                "-I",
                "-c",
                f"import sys; sys.path.insert(0, {self._package()!r}); import udocker; print(udocker.__version__)",
            ],
            self._nobody(),
        )
        if done.returncode != 0:
            raise RuntimeUnavailable(f"udocker does not start ({last_line(done)}); {_GET}")
        return done.stdout.decode().strip()

    def binaries(self) -> List[str]:
        return [os.path.join(self._package(), "udocker", "__init__.py"), *self._engine()]

    def prepare(self, spec: ContainerSpec) -> None:
        run_as(spec)
        if not spec.writable:
            raise ContainerError("udocker has no read-only root; it can serve the runtime udocker only")
        make_folder(spec.scratch, mode=0o711)
        make_workdir(spec, writable.make_copy(spec))

    def launch(self, spec: ContainerSpec) -> Launch:
        root = writable.copied(spec)
        if root is None:
            raise ContainerError("the container has not been prepared")
        no = refusal(spec, [root])
        if no is not None:
            return refused(*no, run_as(spec))
        argv = ["-q", f"--repo={self._home()}", "run", f"--location={root}", "--nobanner", "--containerauth"]
        argv += [f"--user={_user_name(root, spec.uid)}", f"--workdir={spec.workdir}"]
        for host, path in mounts(spec):
            if ":" in host or ":" in path:
                raise ContainerError(f"udocker cannot bind {path!r}: it takes no colon in a path")
            argv.append(f"--volume={host}:{path}")
        if os.path.exists("/etc/hosts"):
            argv.append("--volume=/etc/hosts:/etc/hosts")
        # The name of an image or folder must be there; --location makes udocker pass over it.
        cwd = make_folder(os.path.join(spec.scratch, "udocker"), (spec.uid, spec.gid))
        command = spec.command()
        if os.path.exists(resolve_in_root(root, "/bin/sh")):
            command = ["/bin/sh", "-c", _WAIT, "sh", *command]
        job = {"argv": [*argv, "job", command[0]], "command": command, "env": spec.environment(), "cwd": cwd}
        path = job_file(spec, "udocker", os.fsencode(json.dumps(job, ensure_ascii=False)))
        launcher = os.path.join(self._home(), "launch.py")
        return Launch([self._python(), "-I", launcher, path], dict(CLEAN, UDOCKER_DIR=self._home()), run_as(spec))

    def inside(self, spec: ContainerSpec, argv: List[str], more: Dict[str, str], guard: int) -> Optional[Launch]:  # noqa: ARG002
        # The same root and folders once more: there are no walls that the processes could be on different sides of.
        mark = hashlib.sha256(repr(sorted(more.items())).encode()).hexdigest()
        name = f"{spec.name}-{mark[:16]}"
        return self.launch(dataclasses.replace(spec.beside(argv, more), name=name))

    def cleanup(self, spec: ContainerSpec) -> None:
        remove_tree(os.path.join(spec.scratch, f"{spec.name}.udocker"))

    def _home(self) -> str:
        return os.path.join(self.engine_dir, "udocker")

    def _package(self) -> str:
        return os.path.join(self._home(), "package")

    def _nobody(self) -> "Optional[tuple[int, int]]":
        return (65534, 65534) if os.geteuid() == 0 else None

    def _install(self) -> None:
        """udocker where every user can reach it: a virtual environment may lie where a job's user cannot."""
        if not os.path.isdir(self._package()):
            site = next((path for path in sys.path if os.path.isfile(os.path.join(path, "udocker", "umain.py"))), None)
            if site is None:
                raise RuntimeUnavailable(f"udocker is not installed; {_GET}")
            for folder in ("bin", "lib", "containers", "repos", "layers"):
                make_folder(os.path.join(self._home(), folder))
            partial = f"{self._package()}.{os.getpid()}.tmp"
            shutil.copytree(
                os.path.join(site, "udocker"),
                os.path.join(partial, "udocker"),
                ignore=shutil.ignore_patterns("__pycache__"),
            )
            for folder, _, files in os.walk(partial):
                os.chmod(folder, 0o755)
                for name in files:
                    os.chmod(os.path.join(folder, name), 0o644)
            settle(partial, self._package())
        launcher = os.path.join(self._home(), "launch.py")
        write_text(launcher, _LAUNCHER)
        os.chmod(launcher, 0o644)

    def _engine(self) -> List[str]:
        folder = os.path.join(self._home(), "bin")
        found = sorted(name for name in os.listdir(folder) if "proot" in name) if os.path.isdir(folder) else []
        if not found:
            raise RuntimeUnavailable(
                f"udocker has no engine; run `UDOCKER_DIR={self._home()} udocker --allow-root install`"
            )
        return [os.path.join(folder, name) for name in found]

    def _python(self) -> str:
        """A Python that a job's user can start; found out once, as trying takes longer than all else here."""
        record = os.path.join(self._home(), "python")
        try:
            with open(record, encoding="utf-8") as file:
                known = file.read()
            if os.access(known, os.X_OK):
                return known
        except FileNotFoundError:
            pass
        for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
            if python and os.access(python, os.X_OK) and run([python, "-I", "-c", ""], self._nobody()).returncode == 0:
                write_text(record, python)
                return python
        raise RuntimeUnavailable(
            "udocker needs a Python that every user can start (Debian, Ubuntu: apt install python3)"
        )


def _user_name(root: str, uid: int) -> str:
    with open(os.path.join(root, "etc", "passwd"), "rb") as file:
        for line in file:
            fields = line.split(b":")
            if len(fields) > 2 and fields[2] == str(uid).encode():
                return os.fsdecode(fields[0])
    raise ContainerError("the job's user is not in the image's /etc/passwd")


RUNTIME = Udocker
