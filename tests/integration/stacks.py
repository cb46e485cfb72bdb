"""A running one-machine stack as tests see it: addresses, users, processes to strike, the real client."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg2

from airflow_prominence.standalone import control, secretfiles, settings
from airflow_prominence.standalone.keeper import end_all, recorded
from airflow_prominence.standalone.parts import processes
from airflow_prominence.standalone.places import Places
from airflow_prominence.standalone.processes import ProcessId
from airflow_prominence.standalone.progress import Progress
from airflow_prominence.standalone.records import read_json, write_json

T = TypeVar("T")


def until(ask: Callable[[], T], seconds: float = 30, every: float = 0.1, what: str = "") -> T:
    """Ask until the answer is true; the answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or ask}; the last answer was {answer!r}")
        time.sleep(every)


@dataclass(frozen=True)
class Ended:
    """How a command of the real client ended."""

    code: int
    stdout: str
    stderr: str


class Stack:
    """One stack, with its home in a folder of the tests'."""

    def __init__(self, home: Path, overrides: Mapping[str, str] | None = None) -> None:
        self.places = Places.of(home)
        self.places.make()
        lines = [f"{name}={value}\n" for name, value in (overrides or {}).items()]
        self.places.overrides.write_text("".join(lines), encoding="utf-8")
        if not self.places.ports.exists():
            # Far from the usual ones and from those of a stack that another test run has just chosen.
            base = random.randrange(20000, 30000, 20)
            names = ("api", "database", "worker log", "trigger log")
            write_json(self.places.ports, {name: base + offset for offset, name in enumerate(names)})

    # -- life ---------------------------------------------------------------------------------------------------

    def up(self) -> None:
        control.up(self.places, Progress())

    def stop(self) -> None:
        control.stop(self.places, Progress())
        end_all(self.places)

    def leader(self, part: str) -> ProcessId:
        """The process of a part that the supervisor has started."""
        return recorded(self.places)[part]

    def pids(self, part: str) -> list[int]:
        """All processes of a part, its leader first."""
        leader = self.leader(part)
        others = [process.pid for process in processes(self.places, part, leader) if process != leader]
        return [*([leader.pid] if leader.alive() else []), *others]

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> ProcessId:
        """Strike a part's leader; the supervisor starts it again. Returns the process that was struck."""
        leader = self.leader(part)
        os.kill(leader.pid, number)
        return leader

    def restart(self, part: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Strike a part and wait until it serves again."""
        struck = self.kill(part, number)
        until(lambda: self.leader(part) != struck and self.leader(part).alive(), 60, what=f"{part} is started again")
        if part in {"api-server", "postgres"}:
            until(self.answers, 60, what="the API answers")

    def steady(self, seconds: float = 6) -> dict[str, ProcessId]:
        """Wait until no part has ended for so long; the leaders then.

        Parts of Airflow end by themselves some seconds after PostgreSQL was struck, and are started again.
        """

        def same() -> dict[str, ProcessId] | None:
            before = recorded(self.places)
            time.sleep(seconds)
            after = recorded(self.places)
            return after if after == before and all(leader.alive() for leader in after.values()) else None

        found = until(same, 90, what="no part ends any more")
        assert found is not None
        return found

    @contextlib.contextmanager
    def paused(self, part: str) -> Iterator[None]:
        """SIGSTOP a part's processes, and wake them at the end."""
        stopped = self.pids(part)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/schemas", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    # -- addresses and users ------------------------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """What `.demo/env` of a user's own stack has."""
        return control.read_env(self.places.env_file)

    @property
    def url(self) -> str:
        """The first public prefix."""
        return self.env["PROMINENCE_URL"]

    @property
    def airflow_url(self) -> str:
        return self.env["AIRFLOW_URL"]

    @property
    def internal_url(self) -> str:
        return self.airflow_url + "/prominence/internal/v1"

    @property
    def token(self) -> str:
        """Of the user `demo`."""
        return self.env["PROMINENCE_TOKEN"]

    @property
    def other_token(self) -> str:
        """Of the user `demo2`."""
        return self.env["PROMINENCE_TOKEN2"]

    @property
    def image(self) -> str:
        return self.env["PROMINENCE_DEMO_IMAGE"]

    @property
    def secrets(self) -> secretfiles.Secrets:
        return secretfiles.load(self.places.secrets)

    @property
    def ports(self) -> dict[str, int]:
        chosen: dict[str, int] = read_json(self.places.ports)
        return chosen

    @property
    def environ(self) -> dict[str, str]:
        """The environment that the stack's Airflow processes have: for `airflow` commands of a test."""
        base = settings.own_environment(os.environ)
        return base | settings.airflow_settings(self.places, self.ports, self.secrets)

    def client(self, token: str | None = None, **options: Any) -> httpx.Client:
        """A client of the public routes, by default as `demo`."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, **{"timeout": 30, **options})

    def airflow_client(self, user: str = secretfiles.ADMIN) -> httpx.Client:
        """A client of Airflow's own API as one of the stack's users."""
        login = {"username": user, "password": self.secrets.passwords[user]}
        answer = httpx.post(f"{self.airflow_url}/auth/token", json=login, timeout=30, trust_env=False)
        answer.raise_for_status()
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        return httpx.Client(base_url=self.airflow_url, headers=headers, timeout=30, trust_env=False)

    def run_cli(self, *arguments: str, token: str | None = None, cwd: Path | None = None, **env: str) -> Ended:
        """Run the real `prominence` client as a user would."""
        program = Path(sys.executable).with_name("prominence")
        environ = {**settings.own_environment(os.environ), **self.env, **env}
        if token is not None:
            environ["PROMINENCE_TOKEN"] = token
        done = subprocess.run(
            [str(program), *arguments],
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def run_airflow(self, *arguments: str) -> Ended:
        """Run an `airflow` command as the stack's admin."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    # -- jobs ---------------------------------------------------------------------------------------------------

    def submit(self, document: Mapping[str, Any], token: str | None = None) -> int:
        """POST a job; its id."""
        with self.client(token) as client:
            answer = client.post("/jobs", json=document)
        assert answer.status_code == 201, (answer.status_code, answer.text)
        return int(answer.json()["id"])

    def describe(self, job: int, token: str | None = None) -> dict[str, Any]:
        with self.client(token) as client:
            answer = client.get(f"/jobs/{job}")
        assert answer.status_code == 200, (answer.status_code, answer.text)
        body = answer.json()
        described: dict[str, Any] = body[0] if isinstance(body, list) else body
        return described

    def wait(self, job: int, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until a job has one of the statuses (an end, if none is named); what it is then."""
        wanted = statuses or ("completed", "failed", "killed", "deleted")

        def ask() -> dict[str, Any] | None:
            described = self.describe(job)
            return described if described["status"] in wanted else None

        return until(ask, seconds, 0.2, f"job {job} is {' or '.join(wanted)}: {json.dumps(self.describe(job))}")  # type: ignore[return-value]

    def stdout(self, job: int, token: str | None = None, stream: str = "stdout") -> bytes:
        with self.client(token) as client:
            answer = client.get(f"/jobs/{job}/{stream}")
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.content

    # -- the database -------------------------------------------------------------------------------------------

    def psql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement on the stack's database; the rows, if it has any."""
        connection = psycopg2.connect(settings.database_url(self.ports, self.secrets, "postgresql"))
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()
