from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from airflow_prominence import tokens
from airflow_prominence.driver import InternalClient, JobWatch
from airflow_prominence.driver.process import DriverProcess
from airflow_prominence.driver.sharewatch import ShareWatch
from airflow_prominence.triggers import look, maintenance, phase
from airflow_prominence.triggers.look import LookTrigger
from airflow_prominence.triggers.maintenance import MaintenanceTrigger
from airflow_prominence.triggers.phase import PhaseTrigger
from tests.fakes.internal_api import BASE_URL, SECRET, FakeInternalApi


@dataclass
class _TaskInstance:
    run_id: str
    task_id: str = "run"
    dag_id: str = "prominence_job"
    map_index: int | None = None
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
            made.append(DriverProcess("h", client, JobWatch(client, "h", poll_s=5), ShareWatch(client)))
        return made[0]

    monkeypatch.setattr(phase, "this_process", process)
    monkeypatch.setattr(maintenance, "this_process", process)
    monkeypatch.setattr(look, "this_process", process)
    monkeypatch.setattr(phase, "_LAST_LINES_S", 0.05)
    return fake


def _trigger(name: str, run_id: str) -> PhaseTrigger:
    trigger = PhaseTrigger(phase=name)
    trigger.task_instance = _TaskInstance(run_id, name)  # type: ignore[assignment]
    return trigger


async def _event(trigger: PhaseTrigger | MaintenanceTrigger | LookTrigger) -> TriggerEvent:
    async def only() -> TriggerEvent:
        events = [event async for event in trigger.run()]
        assert len(events) == 1
        return events[0]

    return await asyncio.wait_for(only(), 10)


def _result(event: TriggerEvent) -> dict[str, Any]:
    assert isinstance(event, TaskSuccessEvent | TaskFailedEvent | TaskSkippedEvent)
    assert event.xcoms is not None
    result = event.xcoms["return_value"]
    assert isinstance(result, dict)
    return result


async def test_the_job_is_found_by_its_run(api: FakeInternalApi) -> None:
    api.add(12, run_id="manual__1")
    event = await _event(_trigger("provision", "manual__1"))
    assert isinstance(event, TaskSuccessEvent)
    assert _result(event) == {
        "phase": "provision",
        "message": "Job 12 (calc) has its place at local (node-1).",
        "job": 12,
        "name": "calc",
        "status": "pending",
        "attempt": 1,
        "site": "local",
        "nodes": ["node-1"],
        "node_success": None,
        "exit_codes": [],
    }


async def test_every_phase_of_a_good_job_succeeds(api: FakeInternalApi) -> None:
    api.add(1)
    assert isinstance(await _event(_trigger("provision", "job-1")), TaskSuccessEvent)
    for name in ("staging_in", "running", "staging_out"):
        api.advance(1, name)
    api.end(1)
    for name in ("stage_in", "run", "stage_out", "release", "outcome"):
        assert isinstance(await _event(_trigger(name, "job-1")), TaskSuccessEvent), name
    assert _result(await _event(_trigger("run", "job-1")))["exit_codes"] == [0]


async def test_exit_1_fails_run_and_outcome_alone(api: FakeInternalApi) -> None:
    api.add(1)
    await _event(_trigger("provision", "job-1"))
    for name in ("staging_in", "running", "staging_out"):
        api.advance(1, name)
    api.end(1, code=1)
    ends = {name: type(await _event(_trigger(name, "job-1"))) for name in _PHASES}
    assert ends == {
        "provision": TaskSuccessEvent,
        "stage_in": TaskSuccessEvent,
        "run": TaskFailedEvent,
        "stage_out": TaskSuccessEvent,
        "release": TaskSuccessEvent,
        "outcome": TaskFailedEvent,
    }


_PHASES = ("provision", "stage_in", "run", "stage_out", "release", "outcome")


async def test_a_job_that_never_ran(api: FakeInternalApi) -> None:
    api.add(1)
    api.end(1, "failed", "Maximum time queued was exceeded")
    ends = {name: type(await _event(_trigger(name, "job-1"))) for name in _PHASES}
    assert ends == {
        "provision": TaskFailedEvent,
        "stage_in": TaskFailedEvent,
        "run": TaskFailedEvent,
        "stage_out": TaskSkippedEvent,
        "release": TaskSuccessEvent,
        "outcome": TaskFailedEvent,
    }


async def test_a_run_whose_document_is_refused(api: FakeInternalApi) -> None:
    api.refuse_runs["manual__1"] = "job.tasks: must not be empty"
    event = await _event(_trigger("provision", "manual__1"))
    assert isinstance(event, TaskFailedEvent)
    assert _result(event)["message"] == "job.tasks: must not be empty"
    assert isinstance(await _event(_trigger("stage_out", "manual__1")), TaskSkippedEvent)
    assert isinstance(await _event(_trigger("release", "manual__1")), TaskSuccessEvent)
    assert isinstance(await _event(_trigger("outcome", "manual__1")), TaskFailedEvent)


async def test_outcome_waits_while_the_job_is_being_ended(api: FakeInternalApi) -> None:
    api.outcomes["job-1"] = {"success": False, "pending": True, "reason": ""}
    waiting = asyncio.create_task(_event(_trigger("outcome", "job-1")))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    api.outcomes["job-1"] = {"success": True, "pending": False, "reason": ""}
    assert isinstance(await waiting, TaskSuccessEvent)


async def test_an_unforeseen_fault_is_an_event_and_no_exception(
    api: FakeInternalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase, "verdict", lambda job, name: 1 // 0)
    api.add(1)
    event = await _event(_trigger("provision", "job-1"))
    assert isinstance(event, TaskFailedEvent)
    assert _result(event)["message"].startswith("The phase provision could not be driven: ZeroDivisionError")


async def test_an_outage_does_not_fail_a_task(api: FakeInternalApi) -> None:
    api.add(1)
    api.down_for(1)
    assert isinstance(await _event(_trigger("provision", "job-1")), TaskSuccessEvent)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the triggers wrote into their tasks' logs."""
    caplog.set_level(logging.INFO)
    log = logging.getLogger("tests.trigger")
    for trigger in (PhaseTrigger, MaintenanceTrigger):
        monkeypatch.setattr(trigger, "log", log)
    return lambda: [record.getMessage() for record in caplog.records if record.name == log.name]


def _done(api: FakeInternalApi, **changes: Any) -> None:
    """A job that ran and ended well, whose stage_out has been cleared since."""
    api.add(1, stage_out_ti=str(uuid.uuid4()), **changes)
    api.place(1)
    for name in ("staging_in", "running", "staging_out"):
        api.advance(1, name)
    api.end(1)


async def _until(check: Callable[[], bool]) -> None:
    async def ask() -> None:
        while not check():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(ask(), 10)


@pytest.mark.parametrize(
    ("error", "end", "sentence"),
    [
        (None, TaskSuccessEvent, "The output of job 1 (calc) was uploaded again."),
        ("it is gone", TaskFailedEvent, "The output of job 1 (calc) was not uploaded again: it is gone."),
    ],
)
async def test_a_cleared_stage_out_uploads_again(
    api: FakeInternalApi, lines: Callable[[], list[str]], error: str | None, end: type, sentence: str
) -> None:
    _done(api)
    api.change(1, event=("upload", "An upload of another day"))
    await asyncio.sleep(0.01)
    trigger = _trigger("stage_out", "job-1")
    ti_id = str(trigger.task_instance.id)
    uploading = asyncio.create_task(_event(trigger))
    await _until(lambda: ti_id in api.jobs[1].uploads)
    api.change(1, event=("upload", "Output a.txt: 3 bytes stored as a.txt"))
    await asyncio.sleep(0.1)
    # its triggerer is replaced: the next one joins in, and tells all of it
    uploading.cancel()
    await asyncio.gather(uploading, return_exceptions=True)
    other = _trigger("stage_out", "job-1")
    other.task_instance = trigger.task_instance
    uploading = asyncio.create_task(_event(other))
    await asyncio.sleep(0.2)
    assert not uploading.done()
    assert list(api.jobs[1].uploads) == [ti_id]
    api.uploaded(1, ti_id, error)
    event = await uploading
    assert isinstance(event, end)
    assert _result(event)["message"] == sentence
    assert lines()[-4:] == [
        "Uploading output again, from node node-1",
        "Output a.txt: 3 bytes stored as a.txt",
        error or "Output was uploaded again",
        sentence,
    ]
    assert "An upload of another day" not in lines()


async def test_a_cleared_stage_out_with_nothing_to_upload_answers_what_is_true(api: FakeInternalApi) -> None:
    _done(api)
    api.nothing_to_upload = True
    event = await _event(_trigger("stage_out", "job-1"))
    assert isinstance(event, TaskSuccessEvent)
    assert _result(event)["message"] == "The output of job 1 (calc) is where it belongs."


async def test_only_stage_out_uploads_again(api: FakeInternalApi, lines: Callable[[], list[str]]) -> None:
    _done(api)
    api.change(1, event=("upload", "Output was uploaded again"))
    for name in ("provision", "stage_in", "run", "release"):
        assert isinstance(await _event(_trigger(name, "job-1")), TaskSuccessEvent), name
    assert api.calls["stage_out"] == 0
    own = _trigger("stage_out", "job-1")
    api.jobs[1].stage_out_ti = str(own.task_instance.id)
    assert isinstance(await _event(own), TaskSuccessEvent)
    assert api.calls["stage_out"] == 0
    assert "Output was uploaded again" not in lines()


async def test_the_log_tells_the_story_once(
    api: FakeInternalApi, lines: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    api.add(1)
    await _event(_trigger("provision", "job-1"))
    caplog.clear()
    running = asyncio.create_task(_event(_trigger("run", "job-1")))
    await asyncio.sleep(0.1)
    api.change(1, event=("pulled", "Image busybox pulled in 2.1 s"))
    await asyncio.sleep(0.1)
    api.advance(1, "running")
    await asyncio.sleep(0.1)
    api.change(1, event=("task", "Task 0 ended with exit code 3 in 0.1 s"))
    api.change(1, event=("tail", "Last lines of output:\nboom"))
    api.end(1, code=3)
    await running
    assert lines() == [
        "Job 1 (calc) of alice, at local on node-1, image busybox",
        "Image busybox pulled in 2.1 s",
        "The job is running",
        "Task 0 ended with exit code 3 in 0.1 s",
        "Last lines of output:",
        "boom",
        "The job is completed",
        "A task of job 1 (calc) ended with an exit code other than 0 (exit code 3).",
    ]


async def test_on_kill_tells_and_ends_nothing(api: FakeInternalApi) -> None:
    api.add(1)
    api.place(1)
    trigger = _trigger("run", "job-1")
    running = asyncio.create_task(_event(trigger))
    await asyncio.sleep(0.1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    version = api.jobs[1].version
    await trigger.on_kill()
    assert api.jobs[1].version == version
    ti: Any = trigger.task_instance
    assert api.cancelled == [
        {
            "job": 1,
            "ti_id": str(ti.id),
            "try_number": 1,
            "dag_id": "prominence_job",
            "run_id": "job-1",
            "task_id": "run",
            "map_index": -1,
        }
    ]


async def test_on_kill_of_a_trigger_that_had_not_found_its_job_yet(api: FakeInternalApi) -> None:
    await _trigger("run", "job-1").on_kill()
    assert api.cancelled == []


async def test_on_kill_gives_up_while_the_api_is_away(api: FakeInternalApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.add(1)
    api.place(1)
    trigger = _trigger("provision", "job-1")
    await _event(trigger)
    monkeypatch.setattr(phase, "_TELLING_S", 0.2)
    api.down_for(60)
    await asyncio.wait_for(trigger.on_kill(), 5)


async def test_maintenance(api: FakeInternalApi, lines: Callable[[], list[str]]) -> None:
    event = await _event(MaintenanceTrigger())
    assert isinstance(event, TaskSuccessEvent)
    assert _result(event) == {"evicted": 0, "woken": 2}
    assert lines() == ["Done: woken 2"]


@pytest.mark.parametrize("trigger", [PhaseTrigger(phase="run"), MaintenanceTrigger()])
def test_another_triggerer_can_make_it_again(trigger: PhaseTrigger | MaintenanceTrigger | LookTrigger) -> None:
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    made = getattr(__import__(module, fromlist=[name]), name)(**kwargs)
    assert made.serialize() == (path, kwargs)


async def test_a_task_that_brings_a_document_gets_a_job_and_tells_a_worker_of_it(api: FakeInternalApi) -> None:
    trigger = PhaseTrigger("job", document='{"name": "x"}', to_worker=True)
    trigger.task_instance = _TaskInstance("r", "group.work", "written", map_index=2)  # type: ignore[assignment]
    waiting = asyncio.ensure_future(_event(trigger))
    while not api.jobs:
        await asyncio.sleep(0.01)
    [job] = api.jobs.values()
    assert (job.dag_id, job.group_id, job.slot) == ("written", "group.work", 2)
    api.outputs[job.id] = [{"name": "o", "file": "o", "size": 1, "key": "k"}]
    api.change(job.id, exit_codes=[0], node_success=True)
    api.end(job.id)
    event = await waiting
    # Not one that ends the task: a worker pushes what it has to, and tells of Assets.
    assert type(event) is TriggerEvent
    told = event.payload
    assert (told["end"], told["job"], told["outputs"]) == ("success", job.id, api.outputs[job.id])
    assert api.documents == [{"name": "x"}]


async def test_a_document_that_is_refused_is_told_to_the_worker(api: FakeInternalApi) -> None:
    api.refuse_runs["r"] = "job.tasks: is missing"
    trigger = PhaseTrigger("job", document="{}", to_worker=True)
    trigger.task_instance = _TaskInstance("r", "work")  # type: ignore[assignment]
    event = await _event(trigger)
    assert (event.payload["end"], event.payload["message"]) == ("failed", "job.tasks: is missing")
    assert "job" not in event.payload


async def test_a_sensor_waits_for_a_jobs_end_by_the_one_watch(api: FakeInternalApi) -> None:
    api.add(7, phase="running")
    trigger = LookTrigger(job=7)
    trigger.task_instance = _TaskInstance("r", "wait")  # type: ignore[assignment]
    waiting = asyncio.ensure_future(_event(trigger))
    while not api.open_watches:
        await asyncio.sleep(0.01)
    api.end(7, outcome="failed", reason="Job was evicted")
    told = (await waiting).payload
    assert (told["job"], told["success"], told["status"], told["reason"]) == (7, False, "failed", "Job was evicted")


async def test_a_sensor_waits_for_a_workflows_end(api: FakeInternalApi) -> None:
    going = {"ended": False, "status": None, "reason": "", "progress": {"total": 2, "done": 1, "failed": 0}}
    api.workflows[8] = going
    trigger = LookTrigger(workflow=8)
    trigger.task_instance = _TaskInstance("r", "wait")  # type: ignore[assignment]
    waiting = asyncio.ensure_future(_event(trigger))
    while not api.calls["look"]:
        await asyncio.sleep(0.01)
    api.workflows[8] = {**going, "ended": True, "status": "completed", "progress": {"total": 2, "done": 2, "failed": 0}}
    told = (await waiting).payload
    assert (told["workflow"], told["success"], told["progress"]["done"]) == (8, True, 2)


async def test_a_sensor_is_told_that_there_is_nothing_to_wait_for(api: FakeInternalApi) -> None:
    trigger = LookTrigger(job=9)
    trigger.task_instance = _TaskInstance("r", "wait")  # type: ignore[assignment]
    assert "does not exist" in (await _event(trigger)).payload["refused"]
