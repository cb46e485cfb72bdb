"""Process trees, marks and groups, on real processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from airflow_prominence.agent import linux
from airflow_prominence.agent.cgroup import Cgroup
from airflow_prominence.agent.limits import MemoryWatch


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    environment = dict(os.environ, PROMINENCE_LEASE="unit-test-lease")
    process = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], env=environment)
    while len(linux.descendants(process.pid)) < 2:
        time.sleep(0.01)
    yield process
    linux.kill_branded(linux.Brand("PROMINENCE_LEASE=unit-test-lease"))
    process.wait()


def test_descendants_and_marks(tree: subprocess.Popen[bytes]) -> None:
    children = {found.pid for found in linux.descendants(tree.pid)}
    brand = linux.Brand("PROMINENCE_LEASE=unit-test-lease")
    assert set(brand.find()) == children | {tree.pid}
    assert linux.kill_branded(brand) == []
    assert tree.wait() == -9


def test_another_lease_is_left_alone(tree: subprocess.Popen[bytes]) -> None:
    assert linux.kill_branded(linux.Brand("PROMINENCE_LEASE=unit-test")) == []
    assert tree.poll() is None


def test_memory_of_a_tree() -> None:
    script = 'python3 -c "import time; x = bytearray(60 << 20); print(1, flush=True); time.sleep(60)"; :'
    environment = dict(os.environ, PROMINENCE_LEASE="unit-test-lease")
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    watch = MemoryWatch(40)
    assert watch.exceeded(process.pid)
    assert watch.peak_kb > 60 * 1024
    assert not MemoryWatch(1000).exceeded(process.pid)
    linux.kill_branded(linux.Brand("PROMINENCE_LEASE=unit-test-lease"))
    process.wait()
    process.stdout.close()


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
