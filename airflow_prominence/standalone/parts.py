"""The stack's parts: what each one is started with."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from airflow_prominence.standalone.database import Database
from airflow_prominence.standalone.node import Node, environment
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.processes import (
    Account,
    ProcessId,
    marked,
    of_session,
    with_descendants,
    working_in,
)
from airflow_prominence.standalone.settings import DAGS_BUNDLE, DOCUMENTS_BUNDLE

MARK = "PROMINENCE_STACK"
"""Every process of a stack is started with this variable, which names the stack's home and the part."""

POSTGRES = "postgres"
NODE = "node"
API = "api-server"
AIRFLOW = (API, "scheduler", "dag-processor", "triggerer")
ALL = (NODE, *AIRFLOW, POSTGRES)
"""In the order in which they may be ended: PostgreSQL last, since the others still write while they end."""

STOP_SIGNALS = {POSTGRES: signal.SIGINT}
"""Where it is not SIGTERM; PostgreSQL's "fast shutdown" ends sessions and writes everything down."""


@dataclass(frozen=True)
class Part:
    """One process of the stack and all that it starts."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    account: Account | None = None
    before: Callable[[], None] | None = None
    """What is to be done before each start."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever a running process of this part is not what would be started now."""
        # Not by the rest of the environment, which tells of the terminal that the stack was started from.
        ours = sorted((name, value) for name, value in self.env.items() if name.startswith(("AIRFLOW", MARK)))
        told = json.dumps([self.argv, ours])
        return hashlib.sha256(told.encode()).hexdigest()


def processes(places: Places, name: str, leader: ProcessId | None) -> list[ProcessId]:
    """All living processes of a part, the orphans of a dead leader too."""
    found = of_session(leader) if leader else []
    if name == POSTGRES:
        # Each backend makes a session of its own, and writes over its environment.
        found += working_in(places.database)
    else:
        found += marked(MARK, _mark(places, name)[MARK])
    return list(dict.fromkeys(with_descendants(found)))


def _mark(places: Places, name: str) -> dict[str, str]:
    return {MARK: f"{places.home}:{name}"}


def database_part(places: Places, database: Database, environ: Mapping[str, str]) -> Part:
    return Part(
        name=POSTGRES,
        argv=tuple(database.argv),
        env={"PATH": environ["PATH"], "LANG": "C", **_mark(places, POSTGRES)},
        cwd=database.data,
        log=places.logs / "postgres.log",
        account=database.account,
        before=database.forget_dead_server,
    )


def airflow_parts(places: Places, environ: Mapping[str, str]) -> list[Part]:
    """Airflow's four components."""
    # -B: the processor must never parse the bundle of DAGs that the API has made, or it marks them stale.
    options = {"dag-processor": ("-B", DAGS_BUNDLE, "-B", DOCUMENTS_BUNDLE)}
    return [
        Part(
            name=name,
            argv=(sys.executable, "-m", "airflow", name, *options.get(name, ())),
            env={**environ, **_mark(places, name)},
            cwd=places.airflow_home,
            log=places.logs / f"{name}.log",
        )
        for name in AIRFLOW
    ]


def node_part(places: Places, node: Node, environ: Mapping[str, str]) -> Part:
    return Part(
        name=NODE,
        argv=tuple(node.argv),
        env={**environment(environ), **_mark(places, NODE)},
        cwd=node.state,
        log=places.logs / "node.log",
    )
