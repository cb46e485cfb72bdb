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
from tests.s3 import S3Server
from tests.webdav import WebDav

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
        self._settings = project / ".env"
        self._settings.write_text(secrets)
        self._env = {
            "BASE_IMAGE": BASE,
            "BUILD_NETWORK": "host",
            "POSTGRES_IMAGE": "prominence-test/postgres:latest",
            "API_BIND": f"127.0.0.1:{self.port}",
            "COMPOSE_PROJECT_NAME": "prominence-test",
            "PRIVATE_NETWORK_SITES": "*",
        }

    def __call__(self, *arguments: str, timeout: float = 900) -> str:
        files = ("-f", str(ROOT / "docker-compose.yaml"), "--env-file", str(self._settings))
        command = ("docker-compose", *files, *arguments)
        return self.daemon.run(*command, cwd=self.project, env=self._env, timeout=timeout)

    def configure(self, values: dict[str, str]) -> None:
        """Add lines to `.env`, start what they change anew, and wait until the API serves."""
        with self._settings.open("a") as file:
            file.writelines(f"{name}='{value}'\n" for name, value in values.items())
        self("up", "-d", "--no-build")
        deadline = time.monotonic() + 180
        while "(healthy)" not in self.daemon.run("docker", "ps", "--filter", "name=api-server"):
            assert time.monotonic() < deadline, self("logs", "--tail", "50", "api-server")
            time.sleep(1)

    def client(self, *arguments: str, token: str, cwd: Path | None = None) -> str:
        environ = {**os.environ, "PROMINENCE_URL": f"http://127.0.0.1:{self.port}/api/v1", "PROMINENCE_TOKEN": token}
        program = str(Path(sys.executable).with_name("prominence"))
        done = subprocess.run([program, *arguments], env=environ, cwd=cwd, capture_output=True, text=True, timeout=120)
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


@pytest.fixture(scope="module")
def token(compose: Compose) -> str:
    return compose("run", "--rm", "-T", "api-server", "prominence", "token", "demo").strip().splitlines()[-1]


@pytest.fixture(scope="module")
def gateway(compose: Compose) -> str:
    """This machine's address in the stack's network, which the daemon has made."""
    shown = compose.daemon.run("docker", "network", "inspect", "prominence-test_default")
    address: str = json.loads(shown)[0]["IPAM"]["Config"][0]["Gateway"]
    return address


def ended(compose: Compose, created: str, token: str) -> dict[str, Any]:
    """The job that the client has just made, once it is over."""
    job = "".join(letter for letter in created if letter.isdigit())
    deadline = time.monotonic() + 180
    described: dict[str, Any] = {}
    while time.monotonic() < deadline and described.get("status") not in {"completed", "failed", "killed"}:
        time.sleep(1)
        answer = json.loads(compose.client("describe", job, token=token))
        described = answer[0] if isinstance(answer, list) else answer
    assert described["status"] == "completed", (described, compose("logs", "--tail", "50", "node"))
    return described


def test_a_job_of_the_real_client_runs(compose: Compose, token: str) -> None:
    command = "sh -c 'echo hello from $(id -u)'"
    created = compose.client("create", "--name", "hello", "prominence/demo:latest", command, token=token)
    described = ended(compose, created, token)
    said = compose.client("stdout", str(described["id"]), token=token)
    assert "hello from" in said
    assert "hello from 0" not in said


def test_jobs_are_kept_from_metadata_addresses(compose: Compose) -> None:
    assert "jobs are kept from metadata addresses" in compose("logs", "node")


def test_a_jobs_storage_is_mounted(compose: Compose, token: str, gateway: str, tmp_path: Path) -> None:
    """A WebDAV server in a private network, which the admin has allowed; its volume holds the outputs, too."""
    dav = WebDav(tmp_path / "dav", address=gateway)
    dav.start()
    try:
        (dav.data / "given").write_text("from outside\n")
        command = "sh -c 'cat /data/given; echo inside >/data/made; echo out >result'"
        document = {
            "resources": {"cpus": 1, "memory": 1, "disk": 1},
            "tasks": [{"image": "prominence/demo:latest", "runtime": "singularity", "cmd": command}],
            "storage": {**dav.storage(), "default": True, "directory": "runs"},
            "outputFiles": ["result"],
        }
        (tmp_path / "job.json").write_text(json.dumps(document))
        described = ended(compose, compose.client("run", str(tmp_path / "job.json"), token=token), token)
        assert compose.client("stdout", str(described["id"]), token=token).strip() == "from outside"
        assert (dav.data / "made").read_text() == "inside\n"
        assert (dav.data / "runs" / "result").read_text() == "out\n"
        assert "fuse.rclone" not in compose("exec", "-T", "node", "cat", "/proc/mounts")
    finally:
        dav.kill()


def test_objects_are_kept_in_a_bucket_by_two_lines_of_the_settings(
    compose: Compose, token: str, gateway: str, tmp_path: Path
) -> None:
    s3 = S3Server(gateway)
    try:
        s3.start()
        s3.make_bucket("prominence")
        access = {
            "OBJECT_STORAGE": "s3://object_store@prominence/batch",
            "AIRFLOW_CONN_OBJECT_STORE": json.dumps(s3.connection()),
        }
        compose.configure(access)
        assert "object_storage" not in compose("exec", "-T", "api-server", "airflow", "prominence", "check-config")
        (tmp_path / "data").write_text("in the bucket\n")
        compose.client("upload", "--name", "data", "--filename", str(tmp_path / "data"), token=token)
        assert s3.read("prominence", "batch/uploads/demo/data") == b"in the bucket\n"
        created = compose.client(
            *("create", "--artifact", "data", "--output", "copy", "prominence/demo:latest", "cp data copy"), token=token
        )
        described = ended(compose, created, token)
        [output] = described["outputFiles"]
        assert output["url"].startswith(f"{s3.endpoint}/prominence/batch/scratch/")
        compose.client("download", str(described["id"]), token=token, cwd=tmp_path)
        assert (tmp_path / "copy").read_text() == "in the bucket\n"
        for part in ("scheduler", "triggerer", "node"):
            assert "AIRFLOW_CONN_OBJECT_STORE" not in compose("exec", "-T", part, "env"), part
    finally:
        s3.remove()
