from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from airflow_prominence import tokens
from airflow_prominence.driver import InternalClient, JobWatch
from tests.fakes.internal_api import BASE_URL, SECRET, FakeInternalApi


@pytest.fixture
async def api() -> FakeInternalApi:
    return FakeInternalApi()


@pytest.fixture
async def client(api: FakeInternalApi) -> AsyncIterator[InternalClient]:
    made = InternalClient(
        BASE_URL,
        lambda ttl: tokens.mint(tokens.DRIVER, {"sub": "holder-1"}, ttl, SECRET),
        transport=api,
        first_pause_s=0.02,
        unauthorized_for_s=0.3,
    )
    yield made
    await made.close()


@pytest.fixture
async def watch(client: InternalClient) -> JobWatch:
    return JobWatch(client, "holder-1", poll_s=5)
