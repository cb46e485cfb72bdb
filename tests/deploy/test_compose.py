"""docker-compose.yaml comes up on a real Docker daemon and runs a job of the real client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.standalone import ports
from tests.deploy.dockerd import BASE, Daemon

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(1800)]


class Compose:
    """The stack of docker-compose.yaml on the tests' daemon."""

    def __init__(self, daemon: Daemon, project: Path) -> None:
        self.daemon = daemon
        self.project = project
        self.port = ports.choose({"api": 28080})["api"]
        secrets = subprocess.run(
            [str(ROOT / "deploy" / "secrets.sh")], capture_output=True, text=True, check=True
        ).stdout
        self._env = {
            **dict(line.split("=", 1) for line in secrets.splitlines()),
            "BASE_IMAGE": BASE,
            "BUILD_NETWORK": "host",
            "POSTGRES_IMAGE": "prominence-test/postgres:latest",
            "API_BIND": f"127.0.0.1:{self.port}",
            "COMPOSE_PROJECT_NAME": "prominence-test",
        }

    def __call__(self, *arguments: str, timeout: float = 900) -> str:
        command = ("docker-compose", "-f", str(ROOT / "docker-compose.yaml"), *arguments)
        return self.daemon.run(*command, cwd=self.project, env=self._env, timeout=timeout)

    def client(self, *arguments: str, token: str) -> str:
        environ = {**os.environ, "PROMINENCE_URL": f"http://127.0.0.1:{self.port}/api/v1", "PROMINENCE_TOKEN": token}
        program = str(Path(sys.executable).with_name("prominence"))
        done = subprocess.run([program, *arguments], env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done
        return done.stdout


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    root = Path(tempfile.mkdtemp(prefix="prominence-docker-"))
    daemon = Daemon(root)
    try:
        daemon.start()
        daemon.make_base()
        postgres = str(ROOT / "tests" / "deploy" / "postgres")
        daemon.run("docker", "build", "-t", "prominence-test/postgres", "--build-arg", f"BASE={BASE}", postgres)
        stack = Compose(daemon, root)
        stack("build", "migrate")
        try:
            stack("up", "-d", "--no-build")
            yield stack
        finally:
            stack("down", "--volumes", "--timeout", "10")
    finally:
        daemon.stop()
        shutil.rmtree(root, ignore_errors=True)


def test_a_job_of_the_real_client_runs(compose: Compose) -> None:
    token = compose("run", "--rm", "-T", "api-server", "prominence", "token", "demo").strip().splitlines()[-1]
    command = "sh -c 'echo hello from $(id -u)'"
    created = compose.client("create", "--name", "hello", "prominence/demo:latest", command, token=token)
    job = "".join(letter for letter in created if letter.isdigit())
    deadline = time.monotonic() + 180
    described: dict[str, Any] = {}
    while time.monotonic() < deadline and described.get("status") not in {"completed", "failed", "killed"}:
        time.sleep(1)
        answer = json.loads(compose.client("describe", job, token=token))
        described = answer[0] if isinstance(answer, list) else answer
    assert described["status"] == "completed", (described, compose("logs", "--tail", "50", "node"))
    said = compose.client("stdout", job, token=token)
    assert "hello from" in said
    assert "hello from 0" not in said


def test_jobs_are_kept_from_metadata_addresses(compose: Compose) -> None:
    assert "jobs are kept from metadata addresses" in compose("logs", "node")
