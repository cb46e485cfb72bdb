"""A job POSTed at the API runs in each container runtime, on nodes of the same stack: `airflow prominence node`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.agent.images.tree import remove_tree
from airflow_prominence.agent.runtimes import load
from tests.deploy.dockerd import Daemon
from tests.integration.stacks import Stack, until

INSTALL = Path(__file__).parents[1] / "runtimes" / "install.sh"
# What serves the words singularity and udocker on a node whose admin has only this one.
WORDS = {
    "podman": ("singularity", "udocker"),
    "udocker": ("udocker",),
    "docker": ("singularity",),  # on its usual storage the root of a container belongs to root
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="installs runtimes, for which it must be root")


class Node:
    """One more node of a stack's site, with one container runtime."""

    def __init__(self, stack: Stack, runtime: str, folder: Path) -> None:
        self.stack, self.runtime, self.folder = stack, runtime, folder
        self.name = f"with-{runtime}"
        self._engines = folder / "engines"
        self._log = folder.with_name(folder.name + ".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = ["bash", str(INSTALL), self.runtime, str(self._engines)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        runtimes = ",".join(f"{word}={self.runtime}" for word in WORDS[self.runtime])
        [(site,)] = self.stack.psql("SELECT name FROM prominence_site")
        command = [sys.executable, "-m", "airflow", "prominence", "node", "--name", self.name, "--site", site]
        command += ["--state", str(self.folder), "--images-dir", str(self.stack.places.images), "--cpus", "4"]
        command += ["--runtimes", runtimes, "--trusted-users-only"]
        env = self.stack.environ | {name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        up = "SELECT 1 FROM prominence_node WHERE name = %s AND state = 'up'"
        try:
            until(lambda: self.stack.psql(up, self.name), 120, what=f"a node with {self.runtime}")
        finally:
            print(self._log.read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)
        if self.runtime == "podman":
            load("podman", str(self._engines)).forget()
        remove_tree(str(self.folder))
        self._log.unlink(missing_ok=True)

    def job(self, *cmds: str, runtime: str, **changes: Any) -> dict[str, Any]:
        tasks = [{"image": self.stack.image, "runtime": runtime, "cmd": cmd} for cmd in cmds]
        document = {
            "name": "runtime",
            "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
            "tasks": tasks,
        }
        return {**document, **changes}


def _at_sites(runtime: str) -> Any:
    return pytest.param(runtime, marks=pytest.mark.sites)


@pytest.fixture(
    scope="module", params=[_at_sites("podman"), _at_sites("udocker"), pytest.param("docker", marks=pytest.mark.deploy)]
)
def node(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Node]:
    folder = Path(tempfile.mkdtemp(prefix="prominence-node-", dir="/var/tmp"))
    folder.chmod(0o755)
    daemon = _daemon() if request.param == "docker" else None
    made = Node(stack, request.param, folder / "state")
    # Meanwhile the stack's own node gets no job.
    stack.psql("UPDATE prominence_node SET state = 'draining' WHERE state = 'up'")
    try:
        made.start()
        yield made
    finally:
        made.stop()
        stack.psql("UPDATE prominence_node SET state = 'lost' WHERE name = %s", made.name)
        stack.psql("UPDATE prominence_node SET state = 'up' WHERE state = 'draining'")
        if daemon is not None:
            os.environ.pop("DOCKER_HOST")
            daemon.stop()
            shutil.rmtree(daemon.root, ignore_errors=True)
        shutil.rmtree(folder)


def _daemon() -> Daemon:
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="prominence-docker-")))
    daemon.start()
    os.environ["DOCKER_HOST"] = daemon.environ["DOCKER_HOST"]
    return daemon


@pytest.fixture(params=["singularity", "udocker"])
def word(request: pytest.FixtureRequest, node: Node) -> str:
    """A runtime as a document names it; udocker's engine has no read-only root, so it serves one of the words only."""
    found: str = request.param
    return found if found in WORDS[node.runtime] else WORDS[node.runtime][0]


def test_a_job_runs_and_is_told_of(stack: Stack, node: Node, word: str) -> None:
    first = "sh -c 'echo $HOME $PROMINENCE_CONTAINER_RUNTIME $PROMINENCE_CPUS; id -u; echo kept > f; echo err >&2'"
    job = stack.submit(node.job(first, "sh -c 'cat f; sleep 2; exit 4'", runtime=word))
    described = stack.wait(job, seconds=120)
    assert described["status"] == "completed", described
    where, uid, kept = stack.stdout(job).decode().splitlines()
    assert (where, kept) == (f"/home/user {word} 1", "kept")
    assert int(uid) > 0
    assert stack.stdout(job, stream="stderr") == b"err\n"
    execution = described["execution"]
    assert execution["runtimeVersion"][word].split()[0] == node.runtime
    one, two = execution["tasks"]
    assert (one["exitCode"], two["exitCode"]) == (0, 4)
    assert two["wallTimeUsage"] >= 2
    # Neither the agent's memory nor that of the client that starts the container; docker's daemon counts what starts
    # it and the files that it has read as well.
    assert 0 < two["maxResidentSetSizeKB"] < (100_000 if node.runtime == "docker" else 15_000)


def test_too_much_memory(stack: Stack, node: Node, word: str) -> None:
    resources = {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1}
    eater = "dd if=/dev/zero of=/dev/null bs=1300M count=200"
    job = stack.submit(node.job(eater, runtime=word, resources=resources))
    described = stack.wait(job, seconds=120)
    assert (described["status"], described["statusReason"]) == ("killed", "Job used too much memory"), described


def test_deleted_while_it_runs(stack: Stack, node: Node, word: str) -> None:
    script = 'trap \\"\\" TERM; echo up; while :; do sleep 1; done'
    job = stack.submit(node.job(f'sh -c "{script}"', runtime=word))
    until(lambda: stack.stdout(job) == b"up\n", 120, what="the container runs")
    [(lease,)] = stack.psql("SELECT id FROM prominence_lease WHERE job_id = %s", job)
    assert _running(lease)
    began = time.monotonic()
    assert stack.run_cli("delete", str(job)).stdout.strip() == "Success"
    until(lambda: not _running(lease), 5, 0.1, "the container is gone")
    assert time.monotonic() - began < 8
    assert stack.describe(job)["status"] == "deleted"


def test_of_finished_jobs_nothing_is_left(stack: Stack, node: Node) -> None:
    job = stack.submit(node.job("echo done", runtime=WORDS[node.runtime][0]))
    stack.wait(job, seconds=120)
    until(lambda: not list((node.folder / "jobs").iterdir()), 30, what="no job's folder is left")
    leases = stack.psql("SELECT id FROM prominence_lease")
    until(lambda: not [lease for (lease,) in leases if _running(lease)], 30, what="no job's process is left")


def _running(lease: str) -> list[int]:
    """Processes that carry a lease's mark: the job's own, in whatever container."""
    mark = f"PROMINENCE_LEASE={lease}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended
    return found
