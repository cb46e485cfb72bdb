"""The stack that the integration tests share: the same code that `make up` runs, with a home and ports of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.stacks import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack; whatever a test strikes it must have whole again at its end."""
    # Not pytest's own folder: that is closed to others, and neither PostgreSQL nor a job runs as root.
    home = Path(tempfile.mkdtemp(prefix="prominence-stack-"))
    home.chmod(0o755)
    running = Stack(home)
    try:
        running.up()
        yield running
    finally:
        running.stop()
        shutil.rmtree(home, ignore_errors=True)


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
