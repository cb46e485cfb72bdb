"""A share of a factory's jobs: begun together, watched together, one end for all."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from airflow_prominence import tokens
from airflow_prominence.driver import InternalClient, JobWatch
from airflow_prominence.driver.process import DriverProcess
from airflow_prominence.driver.sharewatch import ShareWatch
from airflow_prominence.triggers import array
from airflow_prominence.triggers.array import ArrayTrigger
from tests.fakes.internal_api import BASE_URL, SECRET, FakeInternalApi

DAG, RUN, TASK = "workflow-1.sweep", "workflow-1", "process"


@dataclass
class _TaskInstance:
    map_index: int = 0
    run_id: str = RUN
    task_id: str = TASK
    dag_id: str = DAG
    try_number: int = 1
    id: uuid.UUID = field(default_factory=uuid.uuid4)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeInternalApi:
    fake = FakeInternalApi()
    made: list[DriverProcess] = []

    def process() -> DriverProcess:
        if not made:
            client = InternalClient(
                BASE_URL,
                lambda ttl: tokens.mint(tokens.DRIVER, {"sub": "h"}, ttl, SECRET),
                transport=fake,
                first_pause_s=0.02,
            )
            shares = ShareWatch(client, first_pause_s=0.02, longest_pause_s=0.05)
            made.append(DriverProcess("h", client, JobWatch(client, "h", poll_s=5), shares))
        return made[0]

    monkeypatch.setattr(array, "this_process", process)
    monkeypatch.setattr(array, "_LAST_LINES_S", 0.01)
    return fake


def sweep(api: FakeInternalApi, jobs: int, chunks: int) -> None:
    api.chunks = chunks
    for slot in range(jobs):
        api.add(100 + slot, dag_id=DAG, run_id=RUN, group_id=TASK, slot=slot, name=f"sweep/process/{slot}")


def trigger(index: int = 0) -> ArrayTrigger:
    made = ArrayTrigger()
    made.task_instance = _TaskInstance(index)  # type: ignore[assignment]
    return made


async def event(of: ArrayTrigger) -> TriggerEvent:
    events = [event async for event in of.run()]
    assert len(events) == 1
    return events[0]


async def waiting(api: FakeInternalApi, times: int = 1) -> None:
    before = api.calls["progress_of_shares"]
    while api.calls["progress_of_shares"] < before + times:
        await asyncio.sleep(0.01)


def result(of: TriggerEvent) -> dict[str, Any]:
    assert isinstance(of, TaskSuccessEvent | TaskFailedEvent)
    assert of.xcoms is not None
    return dict(of.xcoms["return_value"])


async def test_each_share_ends_with_its_own_last_job(api: FakeInternalApi) -> None:
    sweep(api, jobs=5, chunks=2)
    even, odd = (asyncio.create_task(event(trigger(index))) for index in (0, 1))
    await waiting(api, 2)
    assert all(job.claims == ["share"] for job in api.jobs.values())
    for job in (101, 103):
        api.end(job)
    done = await asyncio.wait_for(odd, 5)
    assert isinstance(done, TaskSuccessEvent)
    assert result(done) == {"jobs": 2, "done": 2, "failed": 0, "message": "All 2 jobs ended well."}
    await waiting(api)
    assert not even.done()
    for job in (100, 102, 104):
        api.end(job)
    assert result(await asyncio.wait_for(even, 5))["jobs"] == 3


async def test_a_failure_waits_for_the_others_and_says_what_failed(
    api: FakeInternalApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ArrayTrigger, "log", logging.getLogger("tests.trigger"))
    sweep(api, jobs=3, chunks=1)
    api.most_failures = 1
    task = asyncio.create_task(event(trigger()))
    await waiting(api)
    api.end(100, code=3)
    await waiting(api, 2)
    assert not task.done()
    api.end(101, outcome="failed", reason="Container image pull failed")
    api.end(102)
    ended = await asyncio.wait_for(task, 5)
    assert isinstance(ended, TaskFailedEvent)
    assert result(ended) == {"jobs": 3, "done": 1, "failed": 2, "message": "2 of 3 jobs did not end well."}
    assert "Job 100 (sweep/process/0) is completed: exit code 3" in caplog.messages
    assert "… and 1 more" in caplog.messages


async def test_many_shares_are_one_question(api: FakeInternalApi) -> None:
    sweep(api, jobs=40, chunks=40)
    tasks = [asyncio.create_task(event(trigger(index))) for index in range(40)]
    await waiting(api, 3)
    asked = api.calls["progress_of_shares"]
    await asyncio.sleep(0.2)
    # 40 waiters at 20 ms to 50 ms would be hundreds
    assert api.calls["progress_of_shares"] - asked <= 15
    for job in api.jobs:
        api.end(job)
    assert all(isinstance(done, TaskSuccessEvent) for done in await asyncio.wait_for(asyncio.gather(*tasks), 5))


async def test_an_outage_fails_nothing(api: FakeInternalApi) -> None:
    sweep(api, jobs=1, chunks=1)
    api.down_requests = 3
    task = asyncio.create_task(event(trigger()))
    await waiting(api)
    api.down_for(0.2)
    api.errors_5xx = 2
    api.end(100)
    assert isinstance(await asyncio.wait_for(task, 5), TaskSuccessEvent)


async def test_what_is_refused_fails_with_its_sentence(api: FakeInternalApi) -> None:
    api.refuse_runs[RUN] = "jobs[0].name: is missing"
    refused = await asyncio.wait_for(event(trigger()), 5)
    assert isinstance(refused, TaskFailedEvent)
    assert result(refused) == {"message": "jobs[0].name: is missing"}


async def test_on_kill_tells_and_ends_nothing(api: FakeInternalApi) -> None:
    sweep(api, jobs=2, chunks=2)
    running = trigger(1)
    await trigger(0).on_kill()
    task = asyncio.create_task(event(running))
    await waiting(api)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await running.on_kill()
    [told] = api.cancelled
    assert told["share"] == {"dag_id": DAG, "run_id": RUN, "task_id": TASK, "map_index": 1, "chunks": 2}
    assert told["ti_id"] == str(running.task_instance.id)
    assert api.jobs[101].phase == "queued"
