"""A node's agent as real processes against an API in memory; every test ends with nothing left of either."""

from __future__ import annotations

import json
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

from airflow_prominence.agent.images.demo import build_demo_image

from .apiserver import Api

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# nodes have other Pythons than we do: name one here to run these tests with it
PYTHON = os.environ.get("PROMINENCE_TEST_AGENT_PYTHON", sys.executable)


def alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def eventually(check: Any, timeout: float = 15.0, what: str = "") -> Any:
    end = time.monotonic() + timeout
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"never happened: {what or check}"
        time.sleep(0.02)


class Agent:
    """One node: a state folder and the service on it."""

    def __init__(self, api: Api, folder: Path, launcher: list[str], extra: list[str]) -> None:
        self.api = api
        self.state = folder / "state"
        self.token = folder / "token"
        self.token.write_text("node-token\n")
        self.log = folder / "serve.log"
        self._launcher = launcher
        self._extra = extra
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [*self._launcher, "serve", "--url", self.api.url, "--token-file", str(self.token), "--name", "node1"]
        argv += ["--site", "local", "--state", str(self.state), *self._extra]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)

    def kill(self, signum: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(10)

    def record(self, lease: str) -> Path:
        return self.state / "leases" / lease

    def pid(self, lease: str, who: str) -> int:
        """The pid of a lease's runner or guard."""
        path = self.record(lease) / f"{who}.pid"
        eventually(path.exists, what=str(path))
        return int(json.loads(path.read_text())["pid"])

    def processes(self) -> list[int]:
        """All processes of this node: the agent's, and those that carry the mark of one of its leases."""
        marks = [f"PROMINENCE_LEASE={name}".encode() for name in self.api.leases]
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid() or not alive(int(entry)):
                continue
            try:
                environ = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                log = os.readlink(f"/proc/{entry}/fd/2")
            except OSError:
                continue
            if any(mark in environ for mark in marks) or log.startswith(str(self.state)) or log == str(self.log):
                found.append(int(entry))
        return found

    def close(self) -> list[int]:
        """End everything; the processes that should not have been there."""
        if self.process is not None and self.process.poll() is None:
            self.kill(signal.SIGTERM)
        # a runner whose end has just been acknowledged still has its record to close
        end = time.monotonic() + 5
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.02)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return left

    def forget(self, *leases: str) -> None:
        """Have the API forget, and see that nothing stays on the node."""
        for lease in leases:
            with self.api.lock:
                self.api.leases[lease].forget = True
                self.api.lock.notify_all()
        for lease in leases:
            eventually(lambda lease=lease: not self.record(lease).exists(), 30, f"{lease} forgotten")
            assert not (self.state / "jobs" / lease).exists()


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    # not pytest's tmp_path, which no other user may enter: jobs have users of their own
    made = Path(tempfile.mkdtemp(prefix="agent-test-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def agent(api: Api, folder: Path) -> Iterator[Agent]:
    made = Agent(api, folder, [PYTHON, str(HERE / "hostserve.py")], [])
    made.start()
    yield made
    leases = list(api.leases)
    left = made.close()
    log = made.log.read_text() if made.log.exists() else ""
    for record in [*made.state.glob("leases/*/runner.log"), *made.state.glob("leases/*/commands/*/log")]:
        log += f"--- {record.parent.name}\n{record.read_text()}"
    print(log)
    assert not left, f"processes left behind of {leases}: {left}\n{log}"
    assert "Traceback" not in log, log


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of image archives with the demo image, which needs no registry."""
    folder = tmp_path_factory.mktemp("images")
    build_demo_image(str(folder / "demo.tar"))
    return folder


@pytest.fixture
def node(api: Api, folder: Path, images: Path) -> Iterator[Agent]:
    """The same with a real container runtime."""
    runtimes = ["--runtimes", "singularity=bubblewrap,udocker=bubblewrap"]
    extra = [*runtimes, "--images-dir", str(images), "--engine-dir", str(folder / "engine")]
    made = Agent(api, folder, [sys.executable, "-m", "airflow_prominence.agent"], extra)
    made.start()
    yield made
    left = made.close()
    print(made.log.read_text())
    assert not left
