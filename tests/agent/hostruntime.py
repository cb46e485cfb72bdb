"""A container runtime without a container: it runs the task's argv on this machine as the job's user.

Only the tests' own launcher (hostserve.py) can put it in place, so that the agent's process handling is tested on any
machine. Paths are the host's: /home/user and /tmp in argv are what the caller makes of HOME_DIR and TMP_DIR, and a
volume at /data is at BIND_data.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from airflow_prominence.agent.images.model import Image, PullError, Wanted
from airflow_prominence.agent.runtimes.base import ContainerSpec, Launch, Runtime


class HostRuntime(Runtime):
    name = "host"

    def probe(self) -> str:
        return "1"

    def pull(self, wanted: Wanted, cache: Any, log: Callable[[str], None]) -> tuple[Image, str]:
        if wanted.name == "missing":
            raise PullError("image: missing does not exist")
        return Image(wanted.name, "/", None, {}), "completed"

    def prepare(self, spec: ContainerSpec) -> None:
        return None

    def launch(self, spec: ContainerSpec) -> Launch:
        env = dict(spec.environment(), HOME_DIR=spec.home, TMP_DIR=spec.tmp, PATH=os.environ["PATH"])
        env.update({"BIND" + path.replace("/", "_"): host for host, path in spec.binds})
        if spec.image.name == "broken-runtime":
            return Launch(["/nonexistent/runtime"], env, (spec.uid, spec.gid))
        run_as = (spec.uid, spec.gid) if os.geteuid() == 0 else None
        return Launch(["/bin/sh", "-c", 'cd "$HOME_DIR" && exec "$@"', "sh", *spec.command()], env, run_as)

    def inside(self, spec: ContainerSpec, argv: list[str], more: dict[str, str], guard: int) -> Launch | None:
        return self.launch(dataclasses.replace(spec, argv=argv, env={**spec.env, **more}))
