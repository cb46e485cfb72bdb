from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from airflow_prominence.driver import InternalClient, JobView, JobWatch, drive
from airflow_prominence.driver.drive import UNTIL
from tests.fakes.internal_api import FakeInternalApi

Drive = Callable[[int, str], "asyncio.Task[JobView]"]


@pytest.fixture
async def driving(client: InternalClient, watch: JobWatch) -> Drive:
    def begin(job_id: int, until: str) -> asyncio.Task[JobView]:
        return asyncio.create_task(from_now(job_id, until))

    async def from_now(job_id: int, until: str) -> JobView:
        return await drive(client, watch, await client.job(job_id), until, lambda job: None)

    return begin


async def _soon(task: asyncio.Task[JobView]) -> JobView:
    return await asyncio.wait_for(task, 5)


async def _still(task: asyncio.Task[JobView]) -> None:
    await asyncio.sleep(0.15)
    assert not task.done()


async def test_a_job_through_all_its_phases(api: FakeInternalApi, driving: Drive) -> None:
    api.add(1)
    assert (await _soon(driving(1, "provision"))).phase == "ready"
    stage_in = driving(1, "stage_in")
    await _still(stage_in)
    api.advance(1, "staging_in")
    await _still(stage_in)
    api.advance(1, "running")
    assert (await _soon(stage_in)).phase == "running"
    run = driving(1, "run")
    await _still(run)
    api.change(1, phase="staging_out", tasks_success=True, event=("stage_out", "Staging out"))
    assert (await _soon(run)).phase == "staging_out"
    stage_out = driving(1, "stage_out")
    await _still(stage_out)
    api.end(1, released=False)
    assert (await _soon(stage_out)).phase == "done"
    release = driving(1, "release")
    await _still(release)
    api.change(1, released=True)
    assert (await _soon(release)).released


async def test_a_finished_job_answers_every_phase_at_once_and_nothing_is_done(
    api: FakeInternalApi, driving: Drive
) -> None:
    api.add(1)
    api.place(1)
    api.end(1)
    version = api.jobs[1].version
    for phase in UNTIL:
        assert (await _soon(driving(1, phase))).ended
    assert api.jobs[1].version == version
    assert api.calls["claim"] == 0
    assert api.calls["watch"] == 0


async def test_the_tasks_end_is_the_jobs_end_where_the_api_does_not_tell(api: FakeInternalApi, driving: Drive) -> None:
    api.add(1)
    api.place(1)
    run = driving(1, "run")
    api.advance(1, "staging_out")
    await _still(run)
    api.end(1)
    assert (await _soon(run)).ended


async def test_a_waiting_job_is_claimed_and_then_placed_by_the_api(api: FakeInternalApi, driving: Drive) -> None:
    api.has_room = False
    api.add(1)
    provision = driving(1, "provision")
    await _still(provision)
    assert api.jobs[1].claims == ["holder-1"]
    api.place(1)
    assert (await _soon(provision)).phase == "ready"
    assert api.jobs[1].claims == ["holder-1"]


async def test_a_waiting_job_that_is_told_to_try_again_claims_again(api: FakeInternalApi, driving: Drive) -> None:
    api.has_room = False
    api.add(1)
    provision = driving(1, "provision")
    await _still(provision)
    api.has_room = True
    api.change(1, reason="look again")
    assert (await _soon(provision)).phase == "ready"


async def test_two_drivers_of_one_waiting_job_do_not_claim_in_a_circle(
    api: FakeInternalApi, client: InternalClient, watch: JobWatch
) -> None:
    api.has_room = False
    api.add(1)
    # This API changes the job with every claim: each driver's claim wakes the other.
    original = api._claim

    def claim(job_id: str, body: dict[str, str]) -> object:
        api.change(int(job_id))
        return original(job_id, body)

    api._claim = claim  # type: ignore[method-assign, assignment]
    other = JobWatch(client, "holder-2", poll_s=5)
    drivers = [
        asyncio.create_task(drive(client, each, await client.job(1), "provision", lambda job: None))
        for each in (watch, other)
    ]
    await asyncio.sleep(2.5)
    assert len(api.jobs[1].claims) <= 8
    api.place(1)
    assert {(await _soon(each)).phase for each in drivers} == {"ready"}


@pytest.mark.parametrize("until", ["provision", "stage_in", "run", "stage_out", "release", "job"])
async def test_whoever_drives_drives_on_when_an_attempt_is_tried_again(
    api: FakeInternalApi, driving: Drive, until: str
) -> None:
    api.add(1, max_attempts=2)
    if until not in ("provision", "stage_in"):
        api.place(1)
        api.advance(1, "running")
    api.has_room = False
    driven = driving(1, until)
    await asyncio.sleep(0.1)
    api.again(1)
    await asyncio.sleep(0.05)
    api.has_room = True
    api.change(1)
    if until != "provision":
        for phase in ("staging_in", "running"):
            await asyncio.sleep(0.05)
            deadline = time.monotonic() + 5
            while api.jobs[1].phase == "queued":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            api.advance(1, phase)
    if until not in ("provision", "stage_in"):
        api.end(1)
    job = await _soon(driven)
    assert job.attempt == 2
    assert set(api.jobs[1].claims) == {"holder-1"}


@pytest.mark.parametrize("moment", ["queued", "ready", "staging_in", "running", "staging_out", "done"])
async def test_a_driver_that_is_killed_at_any_moment_and_begun_again_does_nothing_twice(
    api: FakeInternalApi, driving: Drive, moment: str
) -> None:
    api.has_room = moment != "queued"
    api.add(1)
    first = driving(1, "job")
    await asyncio.sleep(0.1)
    for phase in ("staging_in", "running", "staging_out"):
        if moment in ("queued", "ready"):
            break
        api.advance(1, phase)
        await asyncio.sleep(0.05)
        if moment == phase:
            break
    if moment == "done":
        api.end(1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = driving(1, "job")
    await asyncio.sleep(0.1)
    if moment == "queued":
        api.has_room = True
        api.change(1)
        await asyncio.sleep(1.2)
    if moment != "done":
        api.end(1)
    assert (await _soon(second)).ended
    placed = [event for event in api.jobs[1].events if event["kind"] == "placed"]
    assert len(placed) == 1


@pytest.mark.parametrize("outcome", ["failed", "killed", "deleted"])
@pytest.mark.parametrize("until", UNTIL)
async def test_a_job_that_ends_early_ends_every_phase(
    api: FakeInternalApi, driving: Drive, outcome: str, until: str
) -> None:
    api.has_room = False
    api.add(1)
    driven = driving(1, until)
    await asyncio.sleep(0.05)
    api.end(1, outcome, "for a reason")
    job = await _soon(driven)
    assert (job.status, job.reason) == (outcome, "for a reason")


async def test_an_outage_in_the_middle_changes_nothing(api: FakeInternalApi, driving: Drive) -> None:
    api.add(1)
    driven = driving(1, "job")
    await asyncio.sleep(0.1)
    api.down_for(1)
    api.advance(1, "running")
    api.end(1)
    assert (await _soon(driven)).status == "completed"


async def test_a_job_already_gone_from_waiting_is_not_claimed(api: FakeInternalApi, driving: Drive) -> None:
    api.add(1)
    api.place(1)
    api.advance(1, "running")
    driven = driving(1, "provision")
    await _soon(driven)
    assert api.calls["claim"] == 0


async def test_an_unknown_phase_is_refused(api: FakeInternalApi, driving: Drive) -> None:
    api.add(1)
    with pytest.raises(ValueError, match="unknown phase 'levitate'"):
        await _soon(driving(1, "levitate"))


async def test_each_phase_lets_a_job_go_on_that_holds(
    api: FakeInternalApi, client: InternalClient, watch: JobWatch
) -> None:
    api.add(1, allowed="ready")

    def begin(until: str) -> asyncio.Task[JobView]:
        async def work() -> JobView:
            return await drive(client, watch, await client.job(1), until, lambda job: None, f"ti-{until}")

        return asyncio.create_task(work())

    assert (await _soon(begin("provision"))).phase == "ready"
    assert api.jobs[1].let == []
    api.change(1, holding="staging_in")
    stage_in = begin("stage_in")
    await _still(stage_in)
    assert api.jobs[1].allowed == "staging_in"
    api.change(1, phase="staging_in", holding="running")
    assert (await _soon(stage_in)).has_its_input
    run = begin("run")
    await _still(run)
    api.change(1, phase="running", holding="")
    await _still(run)
    # Held after its tasks: how they ended is known, and nothing of the job's end.
    api.change(1, holding="staging_out", tasks_success=True)
    assert (await _soon(run)).phase == "running"
    stage_out = begin("stage_out")
    await _still(stage_out)
    api.end(1)
    assert (await _soon(stage_out)).ended
    assert (await _soon(begin("release"))).released
    assert api.jobs[1].let == [("stage_in", "ti-stage_in"), ("run", "ti-run"), ("stage_out", "ti-stage_out")]


async def test_bad_tasks_of_an_attempt_that_is_followed_by_another_end_no_run(
    api: FakeInternalApi, driving: Drive
) -> None:
    api.add(1, phase="running", allowed="running", tasks_success=False, will_retry=True)
    run = driving(1, "run")
    await _still(run)
    api.change(1, will_retry=False)
    assert (await _soon(run)).tasks_success is False


async def test_a_release_asks_for_the_end_of_what_still_holds(api: FakeInternalApi, driving: Drive) -> None:
    api.add(1, phase="queued", allowed="ready")
    assert (await _soon(driving(1, "release"))).released
    assert api.jobs[1].claims == []
