from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Mapping

import pytest

from airflow_prominence.driver import InternalClient, JobView, JobWatch
from tests.fakes.internal_api import FakeInternalApi


async def _until(condition: object, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def test_150_waits_are_one_open_request(api: FakeInternalApi, watch: JobWatch) -> None:
    for job in range(150):
        api.add(job)
    waits = [asyncio.create_task(watch.changed(job, 1)) for job in range(150)]
    await _until(lambda: api.watched and len(api.watched[-1]) == 150)
    await asyncio.sleep(0.1)
    assert api.open_watches == 1
    assert api.most_open_watches == 1
    assert watch.waiting == 150
    for job in range(150):
        api.change(job, reason="x")
    told = await asyncio.wait_for(asyncio.gather(*waits), 5)
    assert [job.id for job in told] == list(range(150))
    assert {job.version for job in told} == {2}
    assert api.most_open_watches == 1
    assert api.calls["watch"] <= 5


async def test_only_those_whose_job_changed_are_woken(api: FakeInternalApi, watch: JobWatch) -> None:
    api.add(1)
    api.add(2)
    first, second = (asyncio.create_task(watch.changed(job, 1)) for job in (1, 2))
    await _until(lambda: api.open_watches)
    api.change(1, reason="x")
    assert (await asyncio.wait_for(first, 5)).reason == "x"
    assert not second.done()
    api.change(2, reason="y")
    assert (await asyncio.wait_for(second, 5)).reason == "y"


async def test_a_change_before_the_wait_is_not_lost(api: FakeInternalApi, watch: JobWatch) -> None:
    api.add(1)
    api.change(1, reason="x")
    assert (await asyncio.wait_for(watch.changed(1, 1), 5)).version == 2


async def test_two_waits_for_one_job_with_different_knowledge(api: FakeInternalApi, watch: JobWatch) -> None:
    api.add(1)
    api.change(1, reason="x")
    behind = asyncio.create_task(watch.changed(1, 1))
    ahead = asyncio.create_task(watch.changed(1, 2))
    assert (await asyncio.wait_for(behind, 5)).version == 2
    await asyncio.sleep(0.1)
    assert not ahead.done()
    api.change(1, reason="y")
    assert (await asyncio.wait_for(ahead, 5)).version == 3


async def test_a_newcomer_is_watched_at_once(api: FakeInternalApi, watch: JobWatch) -> None:
    api.add(1)
    api.add(2)
    first = asyncio.create_task(watch.changed(1, 1))
    await _until(lambda: api.open_watches)
    second = asyncio.create_task(watch.changed(2, 1))
    await _until(lambda: api.watched[-1] == {"1": 1, "2": 1})
    assert api.open_watches == 1
    api.change(2, reason="x")
    await asyncio.wait_for(second, 5)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_the_last_waiter_ends_the_request_and_the_next_begins_it_anew(
    api: FakeInternalApi, watch: JobWatch
) -> None:
    api.add(1)
    api.add(2)
    waits = [asyncio.create_task(watch.changed(job, 1)) for job in (1, 2)]
    await _until(lambda: api.open_watches)
    waits[0].cancel()
    await asyncio.sleep(0.1)
    assert api.open_watches == 1
    waits[1].cancel()
    await _until(lambda: not api.open_watches and not watch.polling)
    assert watch.waiting == 0
    wait = asyncio.create_task(watch.changed(1, 1))
    await _until(lambda: api.open_watches)
    api.change(1, reason="x")
    assert (await asyncio.wait_for(wait, 5)).version == 2


async def test_the_poll_outlives_the_trigger_that_began_it(api: FakeInternalApi, watch: JobWatch) -> None:
    api.add(1)
    api.add(2)
    first = asyncio.create_task(watch.changed(1, 1))
    await _until(lambda: api.open_watches)
    second = asyncio.create_task(watch.changed(2, 1))
    first.cancel()
    api.change(2, reason="x")
    assert (await asyncio.wait_for(second, 5)).version == 2


async def test_the_api_is_down_for_three_seconds(api: FakeInternalApi, watch: JobWatch) -> None:
    for job in range(20):
        api.add(job)
    waits = [asyncio.create_task(watch.changed(job, 1)) for job in range(20)]
    await _until(lambda: api.open_watches)
    api.down_for(3)
    for job in range(20):
        api.change(job, reason="while you were away")
    told = await asyncio.wait_for(asyncio.gather(*waits), 20)
    assert {job.reason for job in told} == {"while you were away"}
    assert len(api.watched[-1]) == 20


async def test_an_idle_poll_is_renewed(api: FakeInternalApi, client: InternalClient) -> None:
    watch = JobWatch(client, "h", poll_s=0.1)
    api.add(1)
    wait = asyncio.create_task(watch.changed(1, 1))
    await _until(lambda: api.calls["watch"] >= 3)
    api.change(1, reason="x")
    assert (await asyncio.wait_for(wait, 5)).version == 2


async def test_the_poll_does_not_write_into_the_log_of_the_first_trigger() -> None:
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody")
    seen: list[str] = []

    class Client:
        async def watch(self, holder: str, versions: Mapping[int, int], timeout_s: float) -> list[JobView]:
            seen.append(whose.get())
            await asyncio.sleep(timeout_s)
            return []

    watch = JobWatch(Client(), "h", poll_s=5)
    whose.set("trigger 1")
    wait = asyncio.create_task(watch.changed(1, 1))
    await _until(lambda: seen)
    assert seen == ["nobody"]
    wait.cancel()
    await asyncio.gather(wait, return_exceptions=True)
    await _until(lambda: not watch.polling)


async def test_a_fault_of_the_poll_reaches_the_waiters() -> None:
    class Client:
        async def watch(self, holder: str, versions: Mapping[int, int], timeout_s: float) -> list[JobView]:
            raise ZeroDivisionError("a bug")

    watch = JobWatch(Client(), "h", poll_s=5)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(watch.changed(1, 1), 5)
