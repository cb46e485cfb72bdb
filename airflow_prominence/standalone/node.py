"""This machine's node service: its folders, its token and its command line."""

from __future__ import annotations

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
        """Make the folders, which jobs' users must be able to walk through, and write a fresh token."""
        for folder in (self.state, self.images, self.engines):
            if not folder.is_dir():
                folder.mkdir(parents=True)
                folder.chmod(0o755)
        claims = {"sub": self.name, "site": self.site}
        write_text(self.token_file, tokens.mint(tokens.NODE, claims, _TOKEN_DAYS * 86400, secret) + "\n")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The node's environment: nothing of Airflow's settings, which hold the database's password."""
    return {name: value for name, value in environ.items() if not name.startswith("AIRFLOW")}
