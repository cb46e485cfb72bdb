"""A stack whose users are those of a real issuer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import keep_logs
from tests.integration.stacks import Stack
from tests.login.issuers import Issuer, Missing

_IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    try:
        running = Issuer()
    except Missing as missing:
        (pytest.fail if _IN_CI else pytest.skip)(f"{missing} (make test-login installs it as root)")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, issuer: Issuer) -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="prominence-login-stack-"))
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
