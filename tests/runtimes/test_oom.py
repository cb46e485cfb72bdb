"""A container that the kernel took a process from for want of memory, where its limits are in a group of its own."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.runtimes import load
from airflow_prominence.agent.runtimes.files import run
from tests.runtimes import conformance

from jobs import Job  # isort: skip  (the folder is on the path)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's podman sets no limit")
@pytest.mark.parametrize(("size", "killed"), [("200M", True), ("20M", False)])
def test_podman_tells_of_a_process_killed_for_want_of_memory(
    place: Path, engine_dir: str, images: str, usable: Callable[[str], str], size: str, killed: bool
) -> None:
    usable("podman")
    cache = ImageCache(str(place / f"oom-cache-{size}"), images)
    job = Job(load("podman", engine_dir), cache, str(place / f"oom-{size}"), False)
    script = f"dd if=/dev/zero of=/dev/null bs={size} count=20; sleep 0.5; echo end"
    spec = job.spec(conformance.IMAGE, ["sh", "-c", script], memory_mb=64)
    try:
        job.runtime.prepare(spec)
        launch = job.runtime.launch(spec)
        done = run(launch.argv, launch.run_as, launch.env, timeout=60.0)
        assert (done.returncode, done.stdout) == (0, b"end\n")
        assert job.runtime.oom_killed(spec) is killed
    finally:
        job.runtime.cleanup(spec)
        cache.close()
    assert not list(Path(spec.scratch).glob(spec.name + "*"))
    assert not Path("oom").exists()
