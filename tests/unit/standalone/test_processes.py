"""Processes are known by pid and start time, found with all they started, and ended."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_prominence.standalone.processes import (
    ProcessId,
    kill,
    marked,
    of_session,
    spawn,
    wait_gone,
    with_descendants,
    working_in,
)

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = spawn(SLEEPER, env={**os.environ, "TEST_MARK": str(tmp_path)}, cwd=tmp_path, log=tmp_path / "log")
    yield child
    child.kill()
    child.wait()


def test_is_found_by_session_mark_and_folder(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    process = ProcessId.of(sleeper.pid)
    assert process
    assert of_session(process) == [process]
    assert marked("TEST_MARK", str(tmp_path)) == [process]
    assert working_in(tmp_path) == [process]


def test_a_pid_given_out_anew_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(sleeper.pid)
    assert process
    earlier = dataclasses.replace(process, started=process.started - 1)
    other_boot = dataclasses.replace(process, boot="another")
    assert not earlier.alive()
    assert not other_boot.alive()
    assert of_session(earlier) == []
    assert of_session(other_boot) == []
    kill([earlier, other_boot])
    assert process.alive()


def test_a_zombie_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(sleeper.pid)
    assert process
    os.kill(sleeper.pid, 9)
    assert wait_gone([process], 10) == []
    assert Path(f"/proc/{sleeper.pid}").exists()
    assert ProcessId.of(sleeper.pid) is None


def test_orphans_of_a_dead_leader_are_found_and_ended(tmp_path: Path) -> None:
    script = "import subprocess, sys; subprocess.Popen(['sleep', '60']); sys.stdout.flush()"
    parent = spawn([sys.executable, "-c", script], env=os.environ, cwd=tmp_path, log=tmp_path / "log")
    leader = ProcessId.of(parent.pid)
    assert leader
    parent.wait()
    assert not leader.alive()
    orphans = of_session(leader)
    assert len(orphans) == 1
    kill(orphans)
    assert of_session(leader) == []


def test_descendants_are_found_though_they_made_their_own_sessions(tmp_path: Path) -> None:
    script = "import subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    parent = spawn([sys.executable, "-c", script], env=os.environ, cwd=tmp_path, log=tmp_path / "log")
    leader = ProcessId.of(parent.pid)
    assert leader
    deadline = time.monotonic() + 10
    while len(with_descendants([leader])) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    found = with_descendants([leader])
    assert len(found) == 2
    kill(found)
    parent.wait()


def test_record_and_back(sleeper: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(sleeper.pid)
    assert process
    assert ProcessId.from_record(process.record()) == process
    assert ProcessId.from_record(None) is None
    assert ProcessId.from_record({"pid": 1}) is None
