"""The stack that the integration tests share: the same code that `make up` runs, with a home and ports of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.airflows import Airflow
from tests.integration.rows import CPUS, Rows
from tests.integration.stacks import Stack
from tests.webdav import WebDav


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDav]:
    """The Nextcloud that the stack takes for B2DROP; not started, but its address is known when the stack starts."""
    server = WebDav(tmp_path_factory.mktemp("cloud"), "/remote.php/webdav")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, cloud: WebDav) -> Iterator[Stack]:
    """A running stack; whatever a test strikes it must have whole again at its end."""
    # Not pytest's own folder: that is closed to others, and neither PostgreSQL nor a job runs as root.
    home = Path(tempfile.mkdtemp(prefix="prominence-stack-"))
    home.chmod(0o755)
    running = Stack(home, {"AIRFLOW__PROMINENCE__B2DROP_URL": cloud.url})
    try:
        running.up()
        yield running
    finally:
        running.stop()
        if request.session.testsfailed:
            keep_logs(running)
        shutil.rmtree(home, ignore_errors=True)


def keep_logs(stack: Stack) -> None:
    """What the parts said is often the only witness of why a test failed."""
    kept = Path(tempfile.gettempdir()) / f"{stack.places.home.name}-logs"
    shutil.copytree(stack.places.logs, kept, dirs_exist_ok=True)
    print(f"The stack's logs are kept in {kept}.")


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx.Client]:
    """The public routes as the user `demo`."""
    with stack.client() as session:
        yield session


@pytest.fixture
def other_client(stack: Stack) -> Iterator[httpx.Client]:
    """The public routes as the user `demo2`."""
    with stack.client(stack.other_token) as session:
        yield session


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> Iterator[Airflow]:
    """Airflow's own REST interface as its admin."""
    with stack.airflow_client() as http:
        yield Airflow(http)


@pytest.fixture(scope="session")
def rows(stack: Stack, airflow: Airflow) -> Rows:
    """Jobs that go every way a job can go, all at once."""
    [(node, *own)] = stack.psql("SELECT id, cpus, memory_mb FROM prominence_node WHERE state = 'up'")
    size = "UPDATE prominence_node SET cpus = %s, memory_mb = %s WHERE id = %s"
    # They only sleep: what this machine has must not make one wait for another.
    stack.psql(size, CPUS, CPUS * 1024, node)
    try:
        playing = Rows(stack, airflow)
        playing.end()
    finally:
        stack.psql(size, *own, node)
    return playing
