"""Where the one-machine stack keeps what."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

# For a stack of root's whose home lies where no other user can go: PostgreSQL and jobs never run as root.
_SYSTEM_STATE = Path("/var/lib/prominence")


def reachable_by_others(path: Path) -> bool:
    """Whether a user who owns nothing here may walk down to ``path`` (only what exists already can forbid it)."""
    existing = (place for place in (path, *path.parents) if place.exists())
    return all(place.stat().st_mode & stat.S_IXOTH for place in existing)


@dataclass(frozen=True)
class Places:
    """Every path of one stack, from its home folder."""

    home: Path
    shared: Path
    """Where PostgreSQL's data and the node's state are: ``home``, unless the users that they run as can't go there."""

    @classmethod
    def of(cls, home: Path) -> Places:
        home = home.expanduser().resolve()
        if os.geteuid() != 0 or reachable_by_others(home):
            return cls(home, home)
        return cls(home, _SYSTEM_STATE / hashlib.sha256(str(home).encode()).hexdigest()[:12])

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def secrets(self) -> Path:
        return self.home / "secrets"

    @property
    def airflow_home(self) -> Path:
        return self.home / "airflow"

    @property
    def dags(self) -> Path:
        return self.home / "dags"

    @property
    def documents(self) -> Path:
        """Where JSON and YAML files become DAGs."""
        return self.home / "workflows"

    @property
    def objects(self) -> Path:
        """Uploads, outputs and snapshots; only the API server goes there."""
        return self.home / "objects"

    @property
    def programs(self) -> Path:
        """What a shell that sources ``env`` finds on its path."""
        return self.home / "bin"

    @property
    def env_file(self) -> Path:
        return self.home / "env"

    @property
    def overrides(self) -> Path:
        """``AIRFLOW__SECTION__OPTION=value`` lines that go before the stack's own settings."""
        return self.home / "settings.env"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    @property
    def status(self) -> Path:
        return self.run / "status.json"

    @property
    def supervisor(self) -> Path:
        return self.run / "supervisor.json"

    @property
    def parts(self) -> Path:
        return self.run / "parts.json"

    @property
    def ports(self) -> Path:
        return self.home / "ports.json"

    @property
    def database(self) -> Path:
        return self.shared / "postgres"

    @property
    def node(self) -> Path:
        return self.shared / "node"

    @property
    def engines(self) -> Path:
        return self.shared / "engines"

    @property
    def images(self) -> Path:
        return self.node / "images"

    def make(self) -> None:
        """Make the folders; those with secrets are their owner's alone."""
        # Execute-only for others is what lets a job's user reach its own folder below.
        for path, mode in (
            (self.home, 0o755),
            (self.shared, 0o755),
            (self.run, 0o700),
            (self.logs, 0o700),
            (self.secrets, 0o700),
            (self.airflow_home, 0o700),
            (self.objects, 0o700),
            (self.dags, 0o755),
            (self.documents, 0o755),
            (self.programs, 0o755),
            (self.node, 0o755),
            (self.images, 0o755),
            (self.engines, 0o755),
        ):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)
