"""Containers by podman, on our own root file systems: no image store, and nothing mixed with the admin's containers."""

import hashlib
import json
import os
import resource
import shutil
import stat
from typing import Dict, List, Optional

from ..images.cache import write_text
from ..images.tree import remove_tree
from . import writable
from .base import ContainerSpec, Launch, Runtime, RuntimeUnavailable
from .clientside import client_environment, exec_options, mount_option
from .files import CLEAN, SHELL, job_file, last_line, make_folder, refused, run, run_as
from .rootfs import identity, make_workdir, mounts, refusal

_GET = "install podman (Debian, Ubuntu: apt install podman runc catatonit; for an ordinary user also uidmap)"
_INITS = ("catatonit", "tini-static", "docker-init", "tini")
_INIT_FOLDERS = "/usr/libexec/podman:/usr/local/libexec/podman:/usr/lib/podman:/usr/local/lib/podman"


class Podman(Runtime):
    name = "podman"
    regroups = True

    def probe(self) -> str:
        podman = self._podman()
        done = run([podman, "--version"])
        if done.returncode != 0:
            raise RuntimeUnavailable(f"podman does not start ({last_line(done)}); {_GET}")
        if os.geteuid() != 0 and not (shutil.which("newuidmap") and shutil.which("newgidmap")):
            raise RuntimeUnavailable("podman as an ordinary user needs newuidmap (Debian, Ubuntu: apt install uidmap)")
        self._init()
        return done.stdout.decode().split()[-1]

    def binaries(self) -> List[str]:
        runc = shutil.which("runc", path=CLEAN["PATH"])
        return [self._podman(), self._init(), *([runc] if runc else [])]

    def prepare(self, spec: ContainerSpec) -> None:
        run_as(spec)
        make_folder(spec.scratch, mode=0o711)
        make_workdir(spec, writable.make_copy(spec) if spec.writable else None)

    def launch(self, spec: ContainerSpec) -> Launch:
        run_as(spec)
        root = writable.copied(spec) if spec.writable else None
        no = refusal(spec, [root or spec.image.path])
        if no is not None:
            return refused(*no, run_as(spec))
        options, environment = client_environment(spec, self._clean())
        # podman's helper makes a file "oom" in the folder where it is started
        folder = make_folder(self._told(spec), mode=0o711)
        argv = [
            *(SHELL, "-c", 'cd "$0" && exec "$@"', folder),
            *self._command(),
            "run",
            "--rm",
            "--name",
            spec.name,
            "--pull=never",
            "--log-driver=passthrough",
            "--init",
        ]
        argv += ["--network=host", "--ipc=private", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        argv += [f"--user={spec.uid}:{spec.gid}", f"--workdir={spec.workdir}", "--passwd=false", "--http-proxy=false"]
        argv += ["--pids-limit=-1", f"--shm-size={spec.memory_mb}m", "--stop-timeout=1", *options]
        if os.geteuid() == 0:
            argv += [f"--memory={spec.memory_mb}m", f"--memory-swap={spec.memory_mb}m"]
        else:
            argv.append("--userns=keep-id")
        for host, path in mounts(spec):
            argv.append(mount_option(host, path, "rw"))
        if root is None:
            for path, data in zip(("/etc/passwd", "/etc/group"), identity(spec, spec.image.path)):
                argv.append(mount_option(job_file(spec, os.path.basename(path), data, 0o644), path, "ro"))
            # The overlay takes the mount points that the image, which all jobs share, does not have.
            argv += ["--read-only", "--read-only-tmpfs=false", "--rootfs", spec.image.path + ":O"]
        else:
            argv += ["--rootfs", root]
        return Launch([*argv, *spec.command()], environment, None)

    def inside(self, spec: ContainerSpec, argv: List[str], more: Dict[str, str], guard: int) -> Optional[Launch]:  # noqa: ARG002
        ask = [*self._command(), "container", "inspect", "--format", "{{.State.Running}}", spec.name]
        if run(ask, env=self._clean()).stdout.strip() != b"true":
            return None
        command = [*exec_options(spec, more), spec.name, *spec.beside(argv, more).command()]
        return Launch([*self._command(), *command], self._clean(), None)

    def kill(self, name: str) -> None:
        run([*self._command(), "rm", "--force", "--ignore", "--time=0", name], env=self._clean())

    def oom_killed(self, spec: ContainerSpec) -> bool:
        return os.path.exists(os.path.join(self._told(spec), "oom"))

    def _told(self, spec: ContainerSpec) -> str:
        return os.path.join(spec.scratch, f"{spec.name}.told")

    def cleanup(self, spec: ContainerSpec) -> None:
        if self._left(spec.name):
            self.kill(spec.name)
        for kind in ("env", "passwd", "group", "told"):
            remove_tree(os.path.join(spec.scratch, f"{spec.name}.{kind}"))

    def _left(self, name: str) -> bool:
        """Whether podman still knows the container, told without the 50 ms that asking podman takes."""
        try:
            with open(
                os.path.join(self._folder(), "root", "vfs-containers", "containers.json"), encoding="utf-8"
            ) as file:
                return any(name in (entry.get("names") or ()) for entry in json.load(file))
        except FileNotFoundError:
            return False
        except (ValueError, AttributeError):
            return True

    def _podman(self) -> str:
        found = shutil.which("podman", path=CLEAN["PATH"])
        if found is None:
            raise RuntimeUnavailable(f"podman is not installed; {_GET}")
        return found

    def _init(self) -> str:
        """A first process for containers: the kernel spares process 1 most signals, also those that it sends itself."""
        path = f"{_INIT_FOLDERS}:{CLEAN['PATH']}"
        found = next(filter(None, (shutil.which(name, path=path) for name in _INITS)), None)
        if found is None:
            raise RuntimeUnavailable(
                "podman needs a first process for containers (Debian, Ubuntu: apt install catatonit)"
            )
        return found

    def _folder(self) -> str:
        """All of podman's state; one a boot, since it takes containers of an earlier boot for running."""
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return os.path.join(self.engine_dir, "podman", file.read(8))

    def forget(self) -> None:
        """Remove all of podman's state here; no container may be running."""
        for path in (self._short(), os.path.join(self.engine_dir, "podman")):
            remove_tree(path)

    def _short(self) -> str:
        """podman wants a runroot of at most 50 characters, so it cannot be in the engine folder."""
        base = "/run"
        if os.geteuid() != 0:
            session = f"/run/user/{os.geteuid()}"
            base = session if os.access(session, os.W_OK) else "/tmp"
        key = hashlib.sha256(self._folder().encode()).hexdigest()[:10]
        path = make_folder(f"{base}/prominence-{key}", mode=0o700)
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise RuntimeUnavailable(f"{path} is needed for podman but belongs to somebody else")
        return path

    def _command(self) -> List[str]:
        folder = self._folder()
        return [
            self._podman(),
            "--root=" + os.path.join(folder, "root"),
            "--runroot=" + self._short(),
            "--tmpdir=" + os.path.join(folder, "tmp"),
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
        ]

    def _clean(self) -> Dict[str, str]:
        """podman's own environment, with a configuration for hosts where its defaults fail."""
        folder = self._folder()
        path = os.path.join(folder, "containers.conf")
        if not os.path.exists(path):
            make_folder(folder, mode=0o700)
            with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
                most = int(file.read())
            limits = [_limit("nofile", resource.RLIMIT_NOFILE, 1 << 20), _limit("nproc", resource.RLIMIT_NPROC, most)]
            lines = ["[containers]", f"default_ulimits = [{', '.join(limits)}]"]
            lines += [f'init_path = "{self._init()}"', "[engine]"]
            # crun refuses hosts with both versions of cgroups mounted.
            lines += ['runtime = "runc"'] if shutil.which("runc", path=CLEAN["PATH"]) else []
            write_text(path, "\n".join(lines) + "\n")
        environment = dict(CLEAN, CONTAINERS_CONF=path, HOME=folder)
        if os.geteuid() != 0:
            environment["XDG_RUNTIME_DIR"] = make_folder(os.path.join(folder, "xdg"), mode=0o700)
        return environment


def _limit(name: str, which: int, most: int) -> str:
    """podman's own defaults are above what a root without CAP_SYS_RESOURCE may set."""
    hard = resource.getrlimit(which)[1]
    number = most if hard == resource.RLIM_INFINITY else min(hard, most)
    return f'"{name}={number}:{number}"'


RUNTIME = Podman
