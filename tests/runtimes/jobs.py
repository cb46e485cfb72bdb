"""Jobs' folders and containers for tests of runtimes: what the runner does around a runtime, in few lines.

Standard library and the agent only, as the agent: a test starts this as another user with another Python, too.
"""

import os
import time
from dataclasses import dataclass
from typing import Any

from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.images.model import Wanted
from airflow_prominence.agent.runtimes import ContainerSpec, Runtime
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
        pulled, _ = self.runtime.pull(Wanted(image), self.cache, lambda line: None)
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
