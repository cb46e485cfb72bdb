"""Containers by apptainer (or its older name singularity), run on our root file systems as the job's own user."""

import os
import shutil
from typing import Dict, List, Optional

from ..images.tree import make_mountpoint, remove_tree, resolve_in_root
from . import writable
from .base import HOME, TMP, ContainerSpec, Launch, Runtime, RuntimeUnavailable
from .entering import entered
from .files import CLEAN, SHELL, job_file, last_line, make_folder, refused, run, run_as
from .rootfs import identity, make_workdir, mounts, refusal

_GET = "install apptainer from its own packages (they are not in Debian 12 or Ubuntu)"
# apptainer refuses a user that the host does not know; a job's user is known in this process's own view of the host.
_START = 'mount --bind "$1" /etc/passwd && mount --bind "$2" /etc/group && shift 2 && exec "$@"'
_CARRIED = "p_carried_"
# In an image that has the folder, apptainer sets a task's variables after this script of it, or never.
_SCRIPTS, _BASE = "/.singularity.d/env", "99-base.sh"


class Apptainer(Runtime):
    name = "apptainer"

    def probe(self) -> str:
        done = run([self._binary(), "--version"])
        if done.returncode != 0:
            raise RuntimeUnavailable(f"apptainer does not start ({last_line(done)}); {_GET}")
        return done.stdout.decode().split()[-1]

    def binaries(self) -> List[str]:
        return [self._binary()]

    def prepare(self, spec: ContainerSpec) -> None:
        run_as(spec)
        make_folder(spec.scratch, mode=0o711)
        root = None
        if spec.writable:
            fresh = writable.copied(spec) is None
            root = writable.make_copy(spec)
            if fresh:
                # Later the job could have put links in the way. A writable root gets no mount points from apptainer.
                make_mountpoint(root, "/etc/localtime", False)
                if _lacks_base(root):
                    make_mountpoint(root, f"{_SCRIPTS}/{_BASE}", False)
                for _, path in mounts(spec):
                    if not path.startswith((HOME + "/", TMP + "/")):
                        make_mountpoint(root, path, True)
        make_workdir(spec, root)

    def launch(self, spec: ContainerSpec) -> Launch:
        user = run_as(spec)
        root = (writable.copied(spec) if spec.writable else None) or spec.image.path
        no = refusal(spec, [root])
        if no is not None:
            return refused(*no, user)
        environment = dict(CLEAN, HOME=spec.home, APPTAINER_CACHEDIR=spec.scratch, APPTAINER_TMPDIR=spec.scratch)
        # HOME comes from --home; given as a variable it makes apptainer warn on the job's stderr.
        start = "SINGULARITYENV_" if os.path.basename(self._binary()) == "singularity" else "APPTAINERENV_"
        environment.update({start + key: value for key, value in spec.environment().items() if key != "HOME"})
        argv = [self._binary(), "--quiet", "exec"]
        argv += ["--contain", "--cleanenv", "--no-eval", "--pid", "--ipc", "--no-umask", "--userns"]
        argv += ["--home", f"{spec.home}:{HOME}", "--pwd", spec.workdir, "--bind", f"{spec.tmp}:{TMP}"]
        for host, path in mounts(spec):
            if path not in (HOME, TMP):
                argv += ["--bind", f"{host}:{path}"]
        if spec.writable:
            argv.append("--writable")
        if not spec.writable and _lacks_base(root):
            argv += ["--bind", f"{job_file(spec, _BASE, b'', 0o644)}:{_SCRIPTS}/{_BASE}:ro"]
        if user is None and not spec.writable:
            # The job's user has its own name there, not the one that the agent's account has on the host.
            for path, data in zip(("/etc/passwd", "/etc/group"), identity(spec, root)):
                argv += ["--bind", f"{job_file(spec, os.path.basename(path), data, 0o644)}:{path}:ro"]
        if spec.has_scripts:
            # apptainer lets the image's scripts change the variables, also those that the task has set.
            environment.update({start + _CARRIED + key: value for key, value in spec.environment().items()})
        argv += [root, *spec.command(_CARRIED)]
        if user is None:
            return Launch(argv, environment, None)
        passwd, group = identity(spec, "/")
        files = [job_file(spec, name, data, 0o644) for name, data in (("passwd", passwd), ("group", group))]
        become = ["setpriv", f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups", "--no-new-privs"]
        outer = ["unshare", "--mount", "--propagation=private", SHELL, "-c", _START, "sh", *files]
        return Launch([*outer, *become, *argv], environment, None)

    def inside(self, spec: ContainerSpec, argv: List[str], more: Dict[str, str], guard: int) -> Optional[Launch]:
        # as root we start it in a file system of its own already
        return entered(spec, argv, more, guard, ("mnt", "pid"))

    def cleanup(self, spec: ContainerSpec) -> None:
        for kind in ("passwd", "group", _BASE):
            remove_tree(os.path.join(spec.scratch, f"{spec.name}.{kind}"))

    def _binary(self) -> str:
        placed = os.path.join(self.engine_dir, "apptainer")
        if os.access(placed, os.X_OK):
            return placed
        found = shutil.which("apptainer", path=CLEAN["PATH"]) or shutil.which("singularity", path=CLEAN["PATH"])
        if found is None:
            raise RuntimeUnavailable(f"apptainer is not installed; {_GET}")
        return found


def _lacks_base(root: str) -> bool:
    """Whether an image has scripts for its environment, but not that one: what has built it is not of our time."""
    scripts = resolve_in_root(root, _SCRIPTS)
    return os.path.isdir(scripts) and not os.path.isfile(resolve_in_root(root, f"{_SCRIPTS}/{_BASE}"))


RUNTIME = Apptainer
