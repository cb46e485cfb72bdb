"""A Docker daemon of the tests' own, with images made on this machine: no registry of images is needed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

BASE = "prominence-test/base:latest"
_SUITE = "bookworm"
_PACKAGES = "python3,python3-venv,ca-certificates,procps,rclone,fuse3,postgresql-15"


class Daemon:
    """Started as a child, ended with all that it runs; its folders are its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))}
        return {**kept, "DOCKER_HOST": f"unix://{self.root}/docker.sock", "DOCKER_BUILDKIT": "0"}

    def start(self) -> None:
        program = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        assert program, "dockerd is missing: apt-get install docker.io docker-compose debootstrap"
        with (self.root / "dockerd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    *("--host", self.environ["DOCKER_HOST"]),
                    *("--data-root", str(self.root / "data"), "--exec-root", str(self.root / "exec")),
                    *("--pidfile", str(self.root / "docker.pid")),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "version"], env=self.environ, capture_output=True).returncode:
            assert self._process.poll() is None, (self.root / "dockerd.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the Docker daemon does not answer within a minute"
            time.sleep(0.5)

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # The daemon leaves the host's network namespace mounted, and a mounted file can't be removed.
        for mounted in (self.root / "exec" / "netns").glob("*"):
            subprocess.run(["umount", str(mounted)], capture_output=True)

    def run(
        self, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 900
    ) -> str:
        done = subprocess.run(
            command,
            env={**self.environ, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def make_base(self) -> None:
        """Debian with Python and PostgreSQL, from Debian's packages, as an image."""
        tree = self.root / "base"
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        named: list[str] = []
        if sources.exists():
            named = [line.split()[1] for line in sources.read_text().splitlines() if line.startswith("URIs:")]
        # Without a mirror named here, debootstrap takes its own default.
        self.run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(tree), *named[:1])
        # Whom this machine trusts and where it gets Python's packages from holds for the builds as well.
        shutil.copyfile("/etc/ssl/certs/ca-certificates.crt", tree / "etc/ssl/certs/ca-certificates.crt")
        if Path("/etc/pip.conf").exists():
            shutil.copyfile("/etc/pip.conf", tree / "etc/pip.conf")
        packed = subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE)
        done = subprocess.run(
            ["docker", "import", "-", BASE], env=self.environ, stdin=packed.stdout, capture_output=True
        )
        assert packed.stdout
        packed.stdout.close()
        assert packed.wait() == 0
        assert done.returncode == 0, done.stderr.decode()
        shutil.rmtree(tree)
