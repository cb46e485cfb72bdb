"""Apptainer held to the same table, in a root of the Debian that has it: the agent and Python run in there, too."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.runtimes import load
from tests.runtimes import conformance
from tests.runtimes.jobs import Job

pytestmark = [pytest.mark.sites]

_USER = 64322  # whom install.sh makes known in the root
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def inside(
    place: Path, engine_dir: str, code: Path, install: Callable[[str], None]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs the agent's Python in the root, as a user, in a folder made for it."""
    install("apptainer")
    root = Path(engine_dir, "apptainer-root")

    def run(who: str, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
        uid = 0 if who == "root" else _USER
        folder.mkdir()
        os.chown(folder, uid, uid)
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return subprocess.run(
            ["bash", str(HERE / "in-root.sh"), str(root), str(place), *become, "python3", *argv],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(code), "HOST_SECRET": "x", "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def observed(
    place: Path, code: Path, images: str, inside: Callable[..., subprocess.CompletedProcess[str]]
) -> Callable[[str, str], dict[str, Any]]:
    known: dict[tuple[str, str], dict[str, Any]] = {}

    def look(who: str, promise: str) -> dict[str, Any]:
        if (who, promise) not in known:
            folder = place / f"apptainer-{who}-{promise}"
            argv = [str(code / "conformance.py"), "apptainer", str(folder / "engine"), images, str(folder), promise]
            done = inside(who, folder, *argv)
            assert done.returncode == 0, done.stderr
            known[who, promise] = json.loads(done.stdout)
        return known[who, promise]

    return look


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.name.replace(" ", "-"))
@pytest.mark.parametrize("promise", ["readonly", "writable"])
@pytest.mark.parametrize("who", ["root", "user"])
def test_apptainer(
    who: str, promise: str, check: conformance.Check, observed: Callable[[str, str], dict[str, Any]]
) -> None:
    assert observed(who, promise)[check.name] == check.expected


@pytest.mark.parametrize("who", ["root", "user"])
def test_apptainer_passes_the_self_test(
    who: str, place: Path, inside: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = place / f"state-apptainer-{who}"
    argv = ["-m", "airflow_prominence.agent", "selftest", "--json", "--state", str(folder)]
    done = inside(who, folder, *argv, "--engine-dir", str(folder / "engine"))
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)["apptainer"]
    assert verdict["version"]
    assert (verdict["serves"], verdict["isolates"]) == (["singularity", "udocker"], True), verdict["detail"]


# What a definition file would say; building from one needs more privileges than a container gives.
_BUILD = """
cd "$1"
apptainer -q build --sandbox box docker-archive:"$2"
cd box
{ echo '#!/bin/sh'; echo 'export FROM_SIF="sif value" BOTH=sif'; } >.singularity.d/env/90-environment.sh
{ echo '#!/bin/sh'; echo 'echo run "$@" "$FROM_SIF"'; } >.singularity.d/runscript
mkdir -p scif/apps/tool/scif scif/apps/tool/bin
{ echo '#!/bin/sh'; echo 'echo app "$@"; name'; } >scif/apps/tool/scif/runscript
{ echo '#!/bin/sh'; echo 'echo $SINGULARITY_APPNAME $SCIF_APPROOT'; } >scif/apps/tool/bin/name
chmod -R 755 scif/apps
cd ..
apptainer -q build tool.sif box
"""


@pytest.mark.parametrize("runtime", ["bubblewrap", "podman"])
def test_what_apptainer_builds_runs_without_it(
    runtime: str,
    place: Path,
    images: str,
    engine_dir: str,
    usable: Callable[[str], str],
    inside: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    usable(runtime)
    folder = place / f"sif-{runtime}"
    argv = ["sh", "-euc", _BUILD, "sh", str(folder), f"{images}/one.tar"]
    done = inside("root", folder, "-c", f"import subprocess; subprocess.run({argv!r}, check=True)")
    assert done.returncode == 0, done.stderr
    cache = ImageCache(str(folder / "cache"), str(folder))
    job = Job(load(runtime, engine_dir), cache, str(folder / "job"), writable=False)
    sif = "/tool.sif"
    assert job.run(sif).text == "run sif value\n"
    assert job.run(sif, ["hello"]).text == "hello from /opt/bin/hello\n"
    assert job.run(sif, ["sh", "-c", "echo $FROM_IMAGE $BOTH"], env={"BOTH": "task"}).text == "image value task\n"
    assert job.run(sif, ["a b"], app="tool").text == "app a b\ntool /scif/apps/tool\n"
    cache.close()


def test_nothing_is_left_of_it(engine_dir: str, observed: Callable[[str, str], dict[str, Any]]) -> None:
    for who in ("root", "user"):
        observed(who, "readonly")
    mark = f"{engine_dir}/apptainer-root"
    left = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "mountinfo").read_text() or os.readlink(path / "root").startswith(mark):
                left.append((path / "cmdline").read_bytes())
        except OSError:
            continue  # it ended meanwhile
    assert left == []
