"""One table of checks, one image, identical results in every runtime."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtimes import conformance

_ROOT = os.geteuid() == 0
_USER = 64322
# (runtime, as whom the agent runs, which of the two promises)
CASES = [
    ("bubblewrap", "self", "readonly"),
    ("bubblewrap", "self", "writable"),
    ("podman", "self", "readonly"),
    ("podman", "self", "writable"),
    ("udocker", "self", "writable"),
    *([("bubblewrap", "user", "readonly"), ("bubblewrap", "user", "writable")] if _ROOT else []),
    *([("udocker", "user", "writable")] if _ROOT else []),
]


@pytest.fixture(scope="session")
def observed(
    place: Path, engine_dir: str, images: str, code: Path, usable: Callable[[str], str]
) -> Callable[..., dict[str, Any]]:
    known: dict[tuple[str, str, str], dict[str, Any]] = {}

    def look(runtime: str, who: str, promise: str) -> dict[str, Any]:
        case = (runtime, who, promise)
        if case not in known:
            usable(runtime)
            folder = place / "-".join(case)
            if who == "self":
                known[case] = conformance.observe(runtime, engine_dir, images, str(folder), promise == "writable")
            else:
                known[case] = _as_user(runtime, engine_dir, images, code, folder, promise)
        return known[case]

    return look


def _as_user(runtime: str, engine_dir: str, images: str, code: Path, folder: Path, promise: str) -> dict[str, Any]:
    """The same by an ordinary user's agent, with the system's Python, as on a node."""
    folder.mkdir()
    os.chown(folder, _USER, _USER)
    own_engines = folder / "engine"
    shutil.copytree(engine_dir, own_engines, symlinks=True)
    subprocess.run(["chown", "-R", f"{_USER}:{_USER}", str(folder)], check=True)
    argv = ["/usr/bin/python3", str(code / "conformance.py"), runtime, str(own_engines), images, str(folder), promise]
    done = subprocess.run(
        argv,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(code), "HOST_SECRET": "x", "HOME": str(folder)},
        user=_USER,
        group=_USER,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.name.replace(" ", "-"))
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_conformance(
    case: tuple[str, str, str], check: conformance.Check, observed: Callable[..., dict[str, Any]]
) -> None:
    assert observed(*case)[check.name] == check.expected
