from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from airflow_prominence import tokens
from airflow_prominence.driver import ApiRefused, InternalClient
from tests.fakes.internal_api import BASE_URL, SECRET, FakeInternalApi


async def test_a_job_is_read_as_it_is(api: FakeInternalApi, client: InternalClient) -> None:
    api.add(7, name="calculate pi", max_attempts=3)
    api.place(7, site="cloud-a", node="n1")
    job = await client.job(7)
    assert (job.id, job.name, job.phase, job.site, job.nodes, job.max_attempts) == (
        7,
        "calculate pi",
        "ready",
        "cloud-a",
        ("n1",),
        3,
    )
    assert job.events[0].message == "Placed at cloud-a on n1"


async def test_an_outage_is_waited_out(api: FakeInternalApi, client: InternalClient) -> None:
    api.add(1)
    api.down_requests = 3
    assert (await client.job(1)).id == 1
    api.errors_5xx = 2
    assert (await client.claim(1, "h")).phase == "ready"
    # A proxy's own 404 while the server is restarted is no answer of ours.
    api.proxy_pages = 2
    assert (await client.job(1)).id == 1


async def test_an_outage_of_seconds_is_waited_out(api: FakeInternalApi, client: InternalClient) -> None:
    api.add(1)
    api.down_for(3)
    began = time.monotonic()
    assert (await asyncio.wait_for(client.job(1), 15)).id == 1
    assert time.monotonic() - began >= 2.9


async def test_an_answer_that_is_lost_is_asked_for_again(api: FakeInternalApi, client: InternalClient) -> None:
    api.add(1)
    api.drops_after_acting = 1
    job = await client.claim(1, "h")
    assert job.phase == "ready"
    assert api.jobs[1].claims == ["h", "h"]
    assert [event.kind for event in job.events] == ["placed"]


async def test_a_refusal_is_a_sentence(api: FakeInternalApi, client: InternalClient) -> None:
    with pytest.raises(ApiRefused) as refused:
        await client.job(99)
    assert refused.value.status == 400
    assert refused.value.sentence == "no such job"


async def test_a_wrong_secret_is_an_outage_at_first_and_a_refusal_when_it_lasts(
    api: FakeInternalApi, client: InternalClient
) -> None:
    api.add(1)
    api.secret = "another-secret-of-thirty-two-bytes-or-more"
    with pytest.raises(ApiRefused, match="the token of this triggerer is refused"):
        await asyncio.wait_for(client.job(1), 10)
    asking = asyncio.create_task(client.job(1))
    await asyncio.sleep(0.1)
    api.secret = SECRET
    assert (await asyncio.wait_for(asking, 10)).id == 1


async def test_an_unreadable_answer_is_an_outage(api: FakeInternalApi, client: InternalClient) -> None:
    job = api.add(1, phase="levitating")
    asking = asyncio.create_task(client.job(1))
    await asyncio.sleep(0.1)
    assert not asking.done()
    job.phase = "queued"
    assert (await asyncio.wait_for(asking, 10)).phase == "queued"


async def test_a_token_is_used_again_for_a_while(api: FakeInternalApi) -> None:
    minted: list[int] = []

    def mint(ttl: int) -> str:
        minted.append(ttl)
        return tokens.mint(tokens.DRIVER, {"sub": "h"}, ttl, SECRET)

    client = InternalClient(BASE_URL, mint, transport=api)
    api.add(1)
    for _ in range(5):
        await client.job(1)
    assert minted == [60]
    await client.close()


async def test_run_ids_cannot_leave_their_place_in_the_path(api: FakeInternalApi, client: InternalClient) -> None:
    asked: list[str] = []

    class Recording(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.raw_path.decode())
            return httpx.Response(400, json={"error": "no"})

    odd = InternalClient(BASE_URL, lambda ttl: "t", transport=Recording())
    with pytest.raises(ApiRefused):
        await odd.job_of_run("dag", "manual__2026-01-01T00:00:00+00:00/../x?y#z")
    assert asked == ["/prominence/internal/v1/runs/dag/manual__2026-01-01T00%3A00%3A00%2B00%3A00%2F..%2Fx%3Fy%23z/job"]
    await odd.close()


async def test_the_rest_of_the_routes(api: FakeInternalApi, client: InternalClient) -> None:
    api.add(1, run_id="job-1")
    outcome = await client.outcome("prominence_job", "job-1")
    assert (outcome.success, outcome.pending) == (False, True)
    assert await client.maintenance() == {"evicted": 0, "woken": 2}
    assert not await client.task_cancelled(1, "some-uuid", 1, dag_id="d", run_id="r", task_id="t", map_index=-1)
    assert api.cancelled == [
        {"job": 1, "ti_id": "some-uuid", "try_number": 1, "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    ]
