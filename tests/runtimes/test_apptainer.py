"""Apptainer held to the same table, in a root of the Debian that has it: the agent and Python run in there, too."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtimes import conformance

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
