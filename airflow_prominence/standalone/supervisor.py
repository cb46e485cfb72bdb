"""The stack's daemon: brings the parts up in order, then keeps them running until it is told to stop.

It may be killed at any moment: what it does is on disk, and the next one takes the running parts over.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg2

from airflow_prominence.agent.images.demo import DEMO_NAME, build_demo_image
from airflow_prominence.agent.images.model import PullError
from airflow_prominence.dags.names import SHIPPED_DAGS
from airflow_prominence.standalone import database, envfile, node, ports, readiness, secretfiles, settings
from airflow_prominence.standalone.errors import StackError
from airflow_prominence.standalone.keeper import Keeper, end_all
from airflow_prominence.standalone.parts import API, NODE, POSTGRES, airflow_parts, database_part, node_part
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.processes import ProcessId
from airflow_prominence.standalone.records import read_json, write_json, write_text
from airflow_prominence.standalone.users import user_tokens

_WANTED_PORTS = {"api": 8080, "database": 5433, "worker log": 8793, "trigger log": 8794}
_START_SECONDS = 180
_LOOK_SECONDS = 0.3
_NO_RUNTIME = 2
"""The node service's exit code when this machine cannot run containers; its last line says why and what to install."""


class Supervisor:
    """One run of the daemon."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._keeper = Keeper(places)
        self._stop = threading.Event()
        self._migrated = places.run / "migrated"
        self._claims: list[socket.socket] = []

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            self._bring_up()
            while not self._stop.wait(_LOOK_SECONDS):
                if not self._places.run.exists():  # someone has removed the stack's folder from under it
                    end_all(self._places)
                    return 1
                for line in self._keeper.look():
                    self._log(line)
        except StackError as problem:
            self._tell("failed", error=str(problem))
            end_all(self._places)
            return 1
        return 0

    # -- what others read ---------------------------------------------------------------------------------------

    def _tell(self, step: str, *, ready: bool = False, error: str | None = None) -> None:
        self._log(error or step)
        write_json(self._places.status, {"step": step, "ready": ready, "error": error, "pid": os.getpid()})

    @staticmethod
    def _log(line: str) -> None:
        print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, flush=True)

    # -- the way up ---------------------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        places = self._places
        self._tell("looking for free ports")
        secrets = secretfiles.load(places.secrets)
        write_text(places.secrets / "passwords.json", secrets.passwords_json)
        chosen = self._choose_ports()
        environ = settings.own_environment(os.environ)

        server = database.prepare(places, chosen["database"], secrets.database_password)
        if server.initialised() and not server.knows_password():
            end_all(places)
            aside = server.set_aside()
            self._tell(f"setting aside the database of a stack whose secrets are gone, as {aside}")
        if not server.initialised():
            self._tell("making the database")
            server.initialise()
            self._migrated.unlink(missing_ok=True)
        self._tell("starting PostgreSQL")
        self._keeper.start(database_part(places, server, environ))
        server.wait_ready(lambda: self._keeper.alive(POSTGRES))

        environ |= settings.airflow_settings(places, chosen, secrets)
        self._migrate(environ)

        self._tell("starting Airflow")
        for part in airflow_parts(places, environ):
            self._keeper.start(part)
        self._start_node(chosen, secrets, environ)
        self._write_env(chosen, secrets, environ)
        self._await(server, chosen)
        self._tell("ready", ready=True)

    def _start_node(self, chosen: dict[str, int], secrets: secretfiles.Secrets, environ: dict[str, str]) -> None:
        """This machine's node service, with an image that its jobs can use without any registry."""
        places = self._places
        archive = places.images / "demo.tar"
        if not archive.exists():
            self._tell("making a small container image")
            try:
                build_demo_image(str(archive))
            except PullError as problem:
                raise StackError(f"{problem}.") from None
        service = node.Node(
            name=node.host_name(),
            site=node.host_name(),
            url=settings.internal_url(chosen),
            state=places.node,
            images=places.images,
            engines=places.engines,
            # The one-machine stack is one person's, whose jobs may read what that person can.
            extra=("--trusted-users-only",),
        )
        service.prepare(secrets.internal_secret)
        self._keeper.start(node_part(places, service, environ))

    def _choose_ports(self) -> dict[str, int]:
        """The ports of last time where they are free or still our own, else the next free ones."""
        kept: dict[str, int] = read_json(self._places.ports) or {}
        ours = self._keeper.running_names()
        owner = {"api": "api-server", "database": POSTGRES, "worker log": "scheduler", "trigger log": "triggerer"}
        held = {name: port for name, port in kept.items() if owner.get(name) in ours}
        wanted = {name: kept.get(name, port) for name, port in _WANTED_PORTS.items() if name not in held}
        self._claims += [claimed for claimed in map(ports.claim, held.values()) if claimed]
        chosen = {**held, **ports.choose(wanted, self._claims)}
        if chosen != kept:
            write_json(self._places.ports, chosen)
        return chosen

    def _migrate(self, environ: dict[str, str]) -> None:
        """``airflow db migrate``, unless it has been done for exactly these versions."""
        stamp = self._migrated
        wanted = _schema_version()
        if stamp.exists() and stamp.read_text().strip() == wanted:
            return
        self._tell("making the database's tables")
        self._run([sys.executable, "-m", "airflow", "db", "migrate"], environ, "migrate", "airflow db migrate failed")
        write_text(stamp, wanted + "\n")

    def _run(self, command: list[str], environ: dict[str, str], log_name: str, failed: str) -> None:
        log = self._places.logs / f"{log_name}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                command,
                env=environ,
                cwd=self._places.airflow_home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            while child.poll() is None:
                if self._stop.wait(0.1):
                    child.terminate()
                    child.wait()
                    raise StackError("stopped while it was starting.")
        if child.returncode:
            raise StackError(f"{failed}: see {log}.")

    def _write_env(self, chosen: dict[str, int], secrets: secretfiles.Secrets, environ: dict[str, str]) -> None:
        self._tell("making the users' tokens")
        tokens = user_tokens(self._places, environ)
        values = {
            "PROMINENCE_URL": settings.public_url(chosen),
            **tokens,
            "AIRFLOW_URL": settings.base_url(chosen),
            "AIRFLOW_USER": secretfiles.ADMIN,
            "AIRFLOW_PASSWORD": secrets.passwords[secretfiles.ADMIN],
            "PROMINENCE_DEMO_IMAGE": DEMO_NAME,
        }
        write_text(self._places.env_file, envfile.text(values, envfile.link_client(self._places)))

    def _await(self, server: database.Database, chosen: dict[str, int]) -> None:
        base = settings.base_url(chosen)
        checks: list[tuple[str, Callable[[], bool]]] = [
            ("waiting for the API server", lambda: readiness.answers(base + "/api/v2/version")),
            ("waiting for the PROMINENCE API", lambda: readiness.answers(settings.public_url(chosen) + "/schemas")),
            (
                "waiting for scheduler, dag-processor and triggerer",
                lambda: readiness.healthy(base),
            ),
            ("waiting for the job DAG", lambda: self._job_dag_known(server)),
            ("waiting for this machine's node service", lambda: self._node_known(server)),
        ]
        deadline = time.monotonic() + _START_SECONDS
        for step, check in checks:
            self._tell(step)
            while not check():
                if self._stop.wait(0.2):
                    raise StackError("stopped while it was starting.")
                for line in self._keeper.look():
                    self._log(line)
                if self._keeper.code(NODE) == _NO_RUNTIME:
                    raise StackError(_last_line(self._places.logs / "node.log"))
                if not self._keeper.alive(API) and not ports.is_free(chosen["api"]):
                    raise StackError(
                        f"another program has taken port {chosen['api']} meanwhile: start the stack again."
                    )
                if time.monotonic() > deadline:
                    raise StackError(f"gave up {step} after {_START_SECONDS} s: see the logs in {self._places.logs}.")

    def _job_dag_known(self, server: database.Database) -> bool:
        query = "SELECT count(*) FROM dag WHERE NOT is_stale AND dag_id = ANY(%s)"
        return _count(server, query, list(SHIPPED_DAGS)) == len(SHIPPED_DAGS)

    def _node_known(self, server: database.Database) -> bool:
        """Whether the node has registered: before, a first job would be told that nothing has room for it."""
        started = self._keeper.started(NODE)
        return (
            started is None
            or _count(
                server,
                "SELECT count(*) FROM prominence_node WHERE name = %s AND last_seen >= %s",
                node.host_name(),
                started,
            )
            > 0
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next(
        (line.strip() for line in reversed(lines) if line.strip()), f"the node service does not start: see {log}."
    )


def _count(server: database.Database, query: str, *values: object) -> int:
    try:
        connection = server.connect()
    except psycopg2.OperationalError:
        return 0
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            row = cursor.fetchone()
            return int(row[0]) if row else 0
    finally:
        connection.close()


def _schema_version() -> str:
    """What ``airflow db migrate`` depends on: Airflow's version, and the names of our migrations."""
    migrations = Path(__file__).parents[1] / "store" / "migrations" / "versions"
    names = sorted(path.name for path in migrations.glob("*.py"))
    told = [importlib.metadata.version("apache-airflow-core"), *names]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def main(home: Path) -> int:
    """Body of the daemon's process: at most one a home, its identity on disk."""
    places = Places.of(home)
    places.make()
    me = ProcessId.of(os.getpid())
    other = ProcessId.from_record(read_json(places.supervisor))
    if other and other.alive() and other != me:
        return 0
    if me is not None:
        write_json(places.supervisor, me.record())
    return Supervisor(places).run()
