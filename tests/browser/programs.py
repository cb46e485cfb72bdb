"""The browser of these tests, and the npm packages that drive it and that play the issuer."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


class Missing(Exception):
    """A program that these tests need is not on this machine."""


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def packages() -> Path:
    """The folder with the npm packages of the lock file; installed once for each lock file on a machine."""
    npm, lock = program("npm"), (HERE / "package-lock.json").read_bytes()
    major = int(
        subprocess.run([program("node"), "--version"], capture_output=True, check=True).stdout[1:].split(b".")[0]
    )
    if major < 20:
        raise Missing(f"node is version {major}, and 20 or later is needed")
    place = Path(tempfile.gettempdir()) / f"prominence-browser-{os.geteuid()}-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not place.exists():
        making = Path(tempfile.mkdtemp(prefix="prominence-browser-"))
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, making)
        subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=making,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=240,
        )
        making.rename(place)
    for script in HERE.glob("*.mjs"):
        # Node looks for packages beside the script.
        shutil.copy(script, place)
    return place
