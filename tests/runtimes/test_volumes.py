"""A job's volume in the containers of each runtime."""

from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_prominence.agent.runtimes import load
from tests.runtimes import volumes


@pytest.mark.parametrize("mountpoint", ["/data", "/home/user/deep/data"])
@pytest.mark.parametrize("runtime", ["bubblewrap", "podman", "udocker"])
def test_a_container_works_on_a_volume(
    runtime: str, mountpoint: str, place: Path, engine_dir: str, images: str, usable: Callable[[str], str]
) -> None:
    usable(runtime)
    folder = place / f"volume-{runtime}-{mountpoint.count('/')}"
    volumes.check(load(runtime, engine_dir), images, folder, mountpoint, writable=runtime == "udocker")
