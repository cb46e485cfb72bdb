"""Jobs' folders and containers for tests of runtimes: what the runner does around a runtime, in few lines.

Standard library and the agent only, as the agent: a test starts this as another user with another Python, too.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from airflow_prominence.agent import enter
from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.images.model import Stored, Wanted
from airflow_prominence.agent.linux import become
from airflow_prominence.agent.runtimes import ContainerSpec, Launch, Runtime
from airflow_prominence.agent.runtimes.files import make_folder, run

POOL_UID = 64321


def job_user() -> tuple[int, int]:
    """A uid that is not root, on the host either."""
    return (POOL_UID, POOL_UID) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


@dataclass(frozen=True)
class Result:
    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode()


class Job:
    """One job on one runtime: its tasks share folders, and a writable root if that is promised."""

    def __init__(self, runtime: Runtime, cache: ImageCache, folder: str, writable: bool) -> None:
        self.runtime = runtime
        self.cache = cache
        self.folder = make_folder(folder)
        self.writable = writable
        self.home = make_folder(os.path.join(folder, "home"), job_user())
        self.tmp = make_folder(os.path.join(folder, "tmp"), job_user())

    def spec(self, image: str, argv: list[str] | None, **changes: Any) -> ContainerSpec:
        # A name with a path is that of a file beside the archives.
        stored = Stored(f"{self.cache.images_dir}{image}", None, "") if image.startswith("/") else None
        pulled, _ = self.runtime.pull(Wanted(image, stored=stored), self.cache, lambda line: None)
        uid, gid = job_user()
        fields: dict[str, Any] = {
            "name": f"ptest{os.getpid()}-{time.monotonic_ns()}",
            "image": pulled,
            "argv": argv,
            "env": {},
            "workdir": "/home/user",
            "home": self.home,
            "tmp": self.tmp,
            "binds": [],
            "uid": uid,
            "gid": gid,
            "memory_mb": 512,
            "cpus": 1,
            "writable": self.writable,
            "scratch": os.path.join(self.folder, "scratch"),
        }
        return ContainerSpec(**{**fields, **changes})

    def run(self, image: str, argv: list[str] | None = None, **changes: Any) -> Result:
        spec = self.spec(image, argv, **changes)
        try:
            self.runtime.prepare(spec)
            launch = self.runtime.launch(spec)
            done = run(launch.argv, launch.run_as, launch.env, timeout=120.0)
        finally:
            self.runtime.kill(spec.name)
            self.runtime.cleanup(spec)
        return Result(done.returncode, done.stdout, done.stderr)

    def inside(self, task: str, *argvs: "list[str]", image: str, **changes: Any) -> "list[Result]":
        """What commands do beside a running task, which is a shell's script followed by a long wait."""
        script = f"{task}\necho up; sleep 120"
        spec = self.spec(image, ["sh", "-c", script], **changes)
        try:
            self.runtime.prepare(spec)
            launch = self.runtime.launch(spec)
            user = launch.run_as
            with subprocess.Popen(
                launch.argv,
                env=launch.env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                preexec_fn=None if user is None else lambda: become(*user),  # noqa: PLW1509 - as the agent does
                start_new_session=True,
            ) as running:
                assert running.stdout is not None
                assert running.stdout.readline() == b"up\n", "the task did not come up"
                done = [self._beside(spec, argv) for argv in argvs]
                self.runtime.kill(spec.name)
                os.killpg(running.pid, signal.SIGKILL)
        finally:
            self.runtime.kill(spec.name)
            self.runtime.cleanup(spec)
        return done

    def _beside(self, spec: ContainerSpec, argv: "list[str]") -> Result:
        launch = self.runtime.inside(spec, argv, {"MORE": "of it"}, os.getpid())
        assert launch is not None, "the container is up, and not found"
        if launch.enters is None:
            done = run(launch.argv, launch.run_as, launch.env, timeout=60.0)
            return Result(done.returncode, done.stdout, done.stderr)
        return _entered(launch)


def _entered(launch: Launch) -> Result:
    """What a guard's child does with a launch that enters a container, its output mixed."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (into, 1), (into, 2)):
                os.dup2(source, target)
            assert launch.enters is not None
            enter.run(launch.enters, launch.run_as, launch.argv, launch.env, "/home/user")
        finally:
            os._exit(99)
    os.close(into)
    with os.fdopen(out, "rb") as reader:
        said = reader.read()
    return Result(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said, b"")
