"""A stack whose users are those of a real issuer."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.airflow_ui import AirflowUi
from tests.browser.issuers import Issuer
from tests.browser.programs import Missing
from tests.integration.airflows import Airflow
from tests.integration.conftest import keep_logs
from tests.integration.stacks import Stack

_IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    try:
        running = Issuer()
    except Missing as missing:
        (pytest.fail if _IN_CI else pytest.skip)(f"{missing} (make test-browser installs it as root)")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, issuer: Issuer) -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="prominence-browser-stack-"))
    home.chmod(0o755)
    running = Stack(home, issuer.settings())
    try:
        running.up()
        yield running
    finally:
        running.stop()
        if request.session.testsfailed:
            keep_logs(running)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> Iterator[Airflow]:
    """Airflow's own REST interface as its admin."""
    with stack.airflow_client() as http:
        yield Airflow(http)


@pytest.fixture(scope="session")
def ui(stack: Stack) -> Iterator[AirflowUi]:
    """Airflow's pages, its admin signed in."""
    env = stack.env
    with contextlib.closing(AirflowUi(env["AIRFLOW_URL"], env["AIRFLOW_USER"], env["AIRFLOW_PASSWORD"])) as running:
        yield running
