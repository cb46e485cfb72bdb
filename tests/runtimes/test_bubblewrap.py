"""What only bubblewrap has to be told: the bounds of what lies in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.runtimes import load
from tests.runtimes import conformance
from tests.runtimes.jobs import Job

SCRIPT = """
dd if=/dev/zero of=/dev/shm/file bs=1M count=40 2>/dev/null; wc -c < /dev/shm/file
dd if=/dev/zero of=/dev/file bs=1M count=40 2>/dev/null; test -e /dev/file && echo in /dev
echo ok > /dev/null && echo null
"""


@pytest.mark.parametrize("writable", [False, True])
def test_files_in_memory_have_a_bound(
    place: Path, engine_dir: str, usable: Callable[[str], str], writable: bool
) -> None:
    usable("bubblewrap")
    images = str(place / "bounds-images")
    if not os.path.exists(images):
        conformance.write_images(images)
    cache = ImageCache(str(place / "bounds-cache"), images)
    job = Job(load("bubblewrap", engine_dir), cache, str(place / f"bounds-{writable}"), writable)
    done = job.run(conformance.IMAGE, ["sh", "-c", SCRIPT], memory_mb=16)
    assert done.text.splitlines() == [str(16 << 20), "null"]
