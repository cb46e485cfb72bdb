from __future__ import annotations

import asyncio

import pytest

from airflow_prominence import tokens
from airflow_prominence.driver import process
from airflow_prominence.driver.process import internal_secret, internal_url, this_process


@pytest.fixture(autouse=True)
def _empty_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("PROMINENCE__INTERNAL_URL", "PROMINENCE__INTERNAL_SECRET", "API__BASE_URL"):
        monkeypatch.setenv(f"AIRFLOW__{option}", "")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "")
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "the secret of airflow, long enough to be one")


def test_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert internal_url() == "http://localhost:8080/prominence/internal/v1"
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "http://api-server:8080/airflow/execution/")
    assert internal_url() == "http://api-server:8080/airflow/prominence/internal/v1"
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org/airflow/")
    assert internal_url() == "https://airflow.example.org/airflow/prominence/internal/v1"
    monkeypatch.setenv("AIRFLOW__PROMINENCE__INTERNAL_URL", "http://api:1/prominence/internal/v1/")
    assert internal_url() == "http://api:1/prominence/internal/v1"


def test_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    assert internal_secret() == "the secret of airflow, long enough to be one"
    monkeypatch.setenv("AIRFLOW__PROMINENCE__INTERNAL_SECRET", "our own secret, which is long enough to be one")
    assert internal_secret() == "our own secret, which is long enough to be one"


async def test_a_process_has_one_of_each() -> None:
    mine = this_process()
    assert this_process() is mine
    assert mine.watch.holder == mine.holder
    bearer = process._Minting(mine.holder)(60)
    claims = tokens.check(bearer, tokens.DRIVER, internal_secret())
    assert claims["sub"] == mine.holder
    assert claims["exp"] - claims["iat"] == 60
    await mine.client.close()


def test_another_event_loop_is_another_process() -> None:
    async def holder() -> str:
        mine = this_process()
        await mine.client.close()
        return mine.holder

    assert asyncio.run(holder()) != asyncio.run(holder())
