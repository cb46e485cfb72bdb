"""Docker held to the same table, by a daemon of our own."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.agent import selftest
from airflow_prominence.agent.runtimes import RuntimeUnavailable, load
from tests.runtimes import conformance, volumes

pytestmark = [pytest.mark.deploy]


@pytest.fixture(scope="module")
def daemon(place: Path, engine_dir: str, install: Callable[[str], None]) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.fail("a docker daemon needs root")
    install("docker")
    folder = place / "docker"
    folder.mkdir()
    address = f"unix://{folder}/socket"
    before = os.environ.get("DOCKER_HOST")
    with open(folder / "log", "wb") as log:
        argv = [
            "/usr/sbin/dockerd",
            "--host",
            address,
            "--data-root",
            f"{folder}/data",
            "--exec-root",
            f"{folder}/exec",
        ]
        argv += ["--pidfile", f"{folder}/pid", "--bridge=none", "--iptables=false", "--ip-masq=false"]
        argv += ["--storage-driver=vfs", "--default-ulimit", "nofile=4096:4096"]
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    os.environ["DOCKER_HOST"] = address
    try:
        end = time.monotonic() + 60
        while True:
            try:
                load("docker", engine_dir).probe()
                break
            except RuntimeUnavailable as error:
                if time.monotonic() > end or process.poll() is not None:
                    pytest.fail(f"{error}: {(folder / 'log').read_text()[-2000:]}")
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(60)
        subprocess.run(["umount", f"{folder}/exec/netns/default"], check=False)  # the daemon leaves it
        os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before


@pytest.fixture(scope="module")
def observed(place: Path, engine_dir: str, daemon: None) -> Callable[[str], dict[str, Any]]:
    images = str(place / "images-docker")
    conformance.write_images(images)
    known: dict[str, dict[str, Any]] = {}

    def look(promise: str) -> dict[str, Any]:
        if promise not in known:
            folder = str(place / f"docker-{promise}")
            known[promise] = conformance.observe("docker", engine_dir, images, folder, promise == "writable")
        return known[promise]

    return look


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.name.replace(" ", "-"))
@pytest.mark.parametrize("promise", ["readonly", "writable"])
def test_docker(promise: str, check: conformance.Check, observed: Callable[[str], dict[str, Any]]) -> None:
    assert observed(promise)[check.name] == _expected(check)


def _expected(check: conformance.Check) -> Any:
    """What the table says; a daemon before 25 answers 126 to a command beside the task that is not there, too."""
    if check.name != "exit codes inside":
        return check.expected
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    version = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    return [126 if code == 127 and int(version.partition(".")[0]) < 25 else code for code in check.expected]


def test_docker_is_admitted_only_by_name(place: Path, engine_dir: str, daemon: None) -> None:
    state = place / "state-docker"
    state.mkdir()
    table, _ = selftest.choose(str(state), engine_dir, "singularity=docker,udocker=docker")
    assert table == {"singularity": "docker", "udocker": "docker"}
    assert "docker" not in [name for names in selftest.ORDER.values() for name in names]


def test_a_container_works_on_a_volume(place: Path, engine_dir: str, images: str, daemon: None) -> None:
    volumes.check(load("docker", engine_dir), images, place / "volume-docker", "/data", writable=False)
