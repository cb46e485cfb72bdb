"""Containers by a docker daemon. Its socket is as good as root, so it serves only where a site's table names it.

Images come from our own cache all the same: they are handed to the daemon as one layer each. Where a job may write to
its root, what a task has left there becomes the image of the next, and goes when the job's folder has gone.
"""

import hashlib
import json
import os
import shutil
import subprocess
from typing import Dict, List, Optional, Tuple

from ..images.tree import remove_tree
from .base import ContainerError, ContainerSpec, Launch, Runtime, RuntimeUnavailable, Usage
from .clientside import client_environment, exec_options, mount_option
from .files import CLEAN, job_file, last_line, make_folder, refused, run, run_as
from .rootfs import identity, make_workdir, mounts, refusal

_GET = "install docker and give this user its socket (Debian, Ubuntu: apt install docker.io)"
_LABEL = "prominence.scratch"
_IMAGE = "prominence-image"
_ROOT = "prominence-root"


class Docker(Runtime):
    name = "docker"
    regroups = True

    def probe(self) -> str:
        done = run([self._docker(), "version", "--format", "{{.Server.Version}}"], env=self._clean())
        if done.returncode != 0:
            raise RuntimeUnavailable(f"docker has no daemon for this user ({last_line(done)}); {_GET}")
        self._sweep()
        return done.stdout.decode().strip()

    def binaries(self) -> List[str]:
        return [self._docker()]

    def prepare(self, spec: ContainerSpec) -> None:
        run_as(spec)
        make_folder(spec.scratch, mode=0o711)
        make_workdir(spec, None)
        if not self._exists(self._image(spec)):
            if spec.writable:
                self._sweep()
            self._import(spec)

    def launch(self, spec: ContainerSpec) -> Launch:
        # What earlier tasks have written to the root is in the daemon, so only a read-only root can be looked into.
        no = None if spec.writable else refusal(spec, [spec.image.path])
        if not spec.command():
            no = refusal(spec, [spec.image.path], creates_workdir=True)
        if no is not None:
            return refused(*no, run_as(spec))
        options, environment = client_environment(spec, self._clean())
        argv = [self._docker(), "run", "--name", spec.name, "--pull=never", "--init", "--network=host"]
        argv += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--log-driver=none", "--ipc=private"]
        argv += [f"--user={spec.uid}:{spec.gid}", f"--workdir={spec.workdir}", f"--shm-size={spec.memory_mb}m"]
        argv += [f"--memory={spec.memory_mb}m", f"--memory-swap={spec.memory_mb}m", *options]
        argv += [mount_option(host, path, "rw") for host, path in mounts(spec)]
        if not spec.writable:
            argv.append("--read-only")
        for path, data in zip(("/etc/passwd", "/etc/group"), identity(spec, spec.image.path)):
            argv.append(mount_option(job_file(spec, os.path.basename(path), data, 0o644), path, "ro"))
        return Launch([*argv, self._image(spec), *spec.command()], environment, None)

    def inside(self, spec: ContainerSpec, argv: List[str], more: Dict[str, str], guard: int) -> Optional[Launch]:  # noqa: ARG002
        asked = run([self._docker(), "inspect", "--format", "{{.State.Running}}", spec.name], env=self._clean())
        if asked.stdout.strip() != b"true":
            return None
        command = [*exec_options(spec, more), spec.name, *spec.beside(argv, more).command()]
        return Launch([self._docker(), *command], self._clean(), None)

    def kill(self, name: str) -> None:
        run([self._docker(), "kill", name], env=self._clean())

    def usage(self, name: str) -> Optional[Usage]:
        done = run([self._docker(), "inspect", "--format", "{{.State.Pid}}", name], env=self._clean())
        pid = done.stdout.decode().strip()
        if done.returncode != 0 or pid in ("", "0"):
            return Usage(0.0, 0)
        return _cgroup_usage(pid)

    def oom_killed(self, spec: ContainerSpec) -> bool:
        done = run([self._docker(), "inspect", "--format", "{{.State.OOMKilled}}", spec.name], env=self._clean())
        return done.stdout.strip() == b"true"

    def cleanup(self, spec: ContainerSpec) -> None:
        if spec.writable:
            run([self._docker(), "commit", spec.name, self._image(spec)], env=self._clean(), timeout=600.0)
        run([self._docker(), "rm", "--force", "--volumes", spec.name], env=self._clean())
        for kind in ("env", "passwd", "group"):
            remove_tree(os.path.join(spec.scratch, f"{spec.name}.{kind}"))

    def _docker(self) -> str:
        found = shutil.which("docker", path=CLEAN["PATH"])
        if found is None:
            raise RuntimeUnavailable(f"docker is not installed; {_GET}")
        return found

    def _clean(self) -> Dict[str, str]:
        host = os.environ.get("DOCKER_HOST")
        return dict(CLEAN, HOME=self.engine_dir, **({"DOCKER_HOST": host} if host else {}))

    def _image(self, spec: ContainerSpec) -> str:
        digest = spec.image.sha256 or ""
        if not spec.writable:
            return f"{_IMAGE}:{digest[:40]}"
        return f"{_ROOT}:{hashlib.sha256((spec.scratch + digest).encode()).hexdigest()[:40]}"

    def _exists(self, image: str) -> bool:
        return run([self._docker(), "image", "inspect", image], env=self._clean()).returncode == 0

    def _import(self, spec: ContainerSpec) -> None:
        """Hand our root file system to the daemon; for a writable root its files belong to the job's user."""
        owner = ["--owner", str(spec.uid), "--group", str(spec.gid)] if spec.writable else []
        tar = ["tar", "--numeric-owner", *owner, "-C", spec.image.path, "-c", "."]
        change = ["--change", f"LABEL {_LABEL}={json.dumps(spec.scratch)}"] if spec.writable else []
        argv = [self._docker(), "import", *change, "-", self._image(spec)]
        with subprocess.Popen(tar, stdout=subprocess.PIPE, env=dict(CLEAN)) as packing:
            done = subprocess.run(argv, stdin=packing.stdout, capture_output=True, check=False, env=self._clean())
        if done.returncode != 0 or packing.returncode != 0:
            raise ContainerError(f"docker did not take the image ({last_line(done)})")

    def _sweep(self) -> None:
        """Remove the roots of jobs whose folder is gone."""
        form = "{{.ID}}"
        listed = run([self._docker(), "images", "--filter", "label=" + _LABEL, "--format", form], env=self._clean())
        for image in set(listed.stdout.decode().split()):
            asked = run(
                [self._docker(), "image", "inspect", "--format", f'{{{{index .Config.Labels "{_LABEL}"}}}}', image],
                env=self._clean(),
            )
            if asked.returncode == 0 and not os.path.isdir(asked.stdout.decode().strip()):
                run([self._docker(), "rmi", "--force", image], env=self._clean())


def _cgroup_usage(pid: str) -> Usage:
    """What the container's control group has counted, version 1 or 2."""
    groups: Dict[str, str] = {}
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                groups.update(dict.fromkeys(controllers.split(","), path))
    except OSError:
        return Usage(0.0, 0)
    unified = "/sys/fs/cgroup" + groups.get("", "")
    stat = _read(f"{unified}/cpu.stat")
    if "usage_usec" in stat:
        cpu = int(stat.split("usage_usec")[1].split()[0]) / 1e6
        now = _memory(f"{unified}/memory.stat", ("anon", "shmem"))
        peak = _read(f"{unified}/memory.peak") or _read(f"{unified}/memory.current")
    else:
        cpu = int(_read(f"/sys/fs/cgroup/cpuacct{groups.get('cpuacct', '')}/cpuacct.usage") or 0) / 1e9
        memory = f"/sys/fs/cgroup/memory{groups.get('memory', '')}"
        now = _memory(f"{memory}/memory.stat", ("total_rss", "total_shmem"))
        peak = _read(f"{memory}/memory.max_usage_in_bytes")
    return Usage(cpu, int(peak or 0) // 1024, now // 1024)


def _memory(path: str, kinds: Tuple[str, ...]) -> int:
    """Bytes that can't be dropped as a file's cache can."""
    lines = [line.split() for line in _read(path).splitlines()]
    return sum(int(number) for kind, number in lines if kind in kinds)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


RUNTIME = Docker
