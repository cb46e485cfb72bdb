"""Process trees, marks and groups, on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_prominence.agent import linux
from airflow_prominence.agent.cgroup import Cgroup
from airflow_prominence.agent.limits import MemoryWatch

# this run's alone: processes are told apart by it on the whole machine
LEASE = f"unit-test-{os.getpid()}-lease"


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    environment = dict(os.environ, PROMINENCE_LEASE=LEASE)
    process = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], env=environment)
    while len(linux.descendants(process.pid)) < 2:
        time.sleep(0.01)
    yield process
    linux.kill_branded(linux.Brand("PROMINENCE_LEASE=" + LEASE))
    process.wait()


def test_descendants_and_marks(tree: subprocess.Popen[bytes]) -> None:
    children = {found.pid for found in linux.descendants(tree.pid)}
    brand = linux.Brand("PROMINENCE_LEASE=" + LEASE)
    assert set(brand.find()) == children | {tree.pid}
    assert linux.kill_branded(brand) == []
    assert tree.wait() == -9


def test_another_lease_is_left_alone(tree: subprocess.Popen[bytes]) -> None:
    assert linux.kill_branded(linux.Brand(f"PROMINENCE_LEASE=unit-test-{os.getpid()}")) == []
    assert tree.poll() is None


def eater() -> subprocess.Popen[bytes]:
    script = 'python3 -c "import time; x = bytearray(60 << 20); print(1, flush=True); time.sleep(60)"; :'
    environment = dict(os.environ, PROMINENCE_LEASE=LEASE)
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def test_memory_of_trees() -> None:
    trees = [eater(), eater()]
    roots = [process.pid for process in trees]
    watch = MemoryWatch(40)
    assert watch.exceeded(roots[:1])
    assert 60 * 1024 < watch.peak_kb < 110 * 1024
    assert not MemoryWatch(1000).exceeded(roots)
    both = MemoryWatch(110)
    assert not both.exceeded(roots[:1])
    assert both.exceeded(roots)
    assert both.peak_kb > 120 * 1024
    assert MemoryWatch(110).exceeded(roots[:1], apart_kb=60 * 1024)
    linux.kill_branded(linux.Brand("PROMINENCE_LEASE=" + LEASE))
    for process in trees:
        process.wait()


def test_a_part_of_a_group_is_killed_alone_and_counts_with_the_whole() -> None:
    group = Cgroup.create(f"prominence-unit-part-{os.getpid()}", 64, 1)
    parts = [group.part("one"), group.part("two")]
    if not parts[0].folders:
        group.remove()
        return  # this user may make none, and the agent does without
    try:
        processes = [subprocess.Popen(["sleep", "60"], preexec_fn=part.join) for part in parts]  # noqa: PLW1509
        pids = [process.pid for process in processes]
        assert [part.members() for part in parts] == [[pid] for pid in pids]
        assert group.members() == sorted(pids)
        parts[0].kill()
        assert processes[0].wait(5) == -signal.SIGKILL
        assert processes[1].poll() is None
        parts[0].remove()
        # as a guard leaves it that dies in the middle of a kill
        for path in (os.path.join(folder, "freezer.state") for folder in parts[1].folders.values()):
            if os.path.exists(path):
                Path(path).write_text("FROZEN")
        group.kill()
        assert processes[1].wait(5) == -signal.SIGKILL
    finally:
        group.kill()
        group.remove()
    assert not any(os.path.exists(folder) for folder in (*group.folders.values(), *parts[1].folders.values()))


def test_group_keeps_together_and_kills() -> None:
    group = Cgroup.create(f"prominence-unit-{os.getpid()}", 64, 1)
    if not group.folders:
        return  # this user may make none, and the agent does without
    try:
        process = subprocess.Popen(["sh", "-c", "setsid sleep 60 & sleep 60"], preexec_fn=group.join)  # noqa: PLW1509
        while len(group.members()) < 3:
            time.sleep(0.01)
        assert Cgroup.find(f"prominence-unit-{os.getpid()}") == group
        group.kill()
        assert process.wait() == -9
        assert group.members() == []
    finally:
        group.kill()
        group.remove()
    assert not any(os.path.isdir(folder) for folder in group.folders.values())
