"""Each of Airflow's private interfaces that we use, used: this is what has to pass when the pin is moved."""

from __future__ import annotations

import datetime as dt
import gc
import uuid
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.orm import Session

from airflow_prominence import _compat
from airflow_prominence.dags import shared, submit
from airflow_prominence.dags.names import API_BUNDLE


@pytest.fixture
def run(airflow_session: Session) -> Session:
    """A database with one queued run of the shipped DAG."""
    submit.submit_run(airflow_session, dag_id="prominence_job", run_id="job-1.pi", conf={"job_id": 1}, owner="alice")
    return airflow_session


async def test_a_bad_bearer_is_refused_by_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
    from fastapi import HTTPException

    monkeypatch.setattr("airflow.api_fastapi.core_api.security.get_auth_manager", SimpleAuthManager, raising=True)
    monkeypatch.setattr("airflow.api_fastapi.app.get_auth_manager", SimpleAuthManager, raising=True)
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of the tests that is long enough to be one")
    assert isinstance(_compat.get_auth_manager(), SimpleAuthManager)
    with pytest.raises(HTTPException) as refused:
        await _compat.resolve_user_from_token("junk")
    assert refused.value.status_code in (401, 403)


def test_the_cookie_has_a_name() -> None:
    assert _compat.cookie_name() == "_token"


def test_a_session_is_a_context_manager() -> None:
    assert hasattr(_compat.create_session(), "__enter__")


def test_a_dag_is_written_as_the_dag_processor_would(airflow_session: Session) -> None:
    from airflow.models.dag import DagModel
    from airflow.models.dagcode import DagCode

    assert _compat.dag_state(airflow_session, "prominence_job") is None
    dag = shared.prominence_job_dag()
    dag.fileloc = shared.__file__
    dag.relative_fileloc = "prominence_job.py"
    _compat.write_dag(airflow_session, dag, bundle="dags-folder")
    state = _compat.dag_state(airflow_session, "prominence_job")
    assert state is not None
    assert (state.is_stale, state.is_paused) == (False, False)
    model = airflow_session.get(DagModel, "prominence_job")
    assert model is not None
    assert (model.bundle_name, model.relative_fileloc) == ("dags-folder", "prominence_job.py")
    assert "prominence_job_dag" in DagCode.code("prominence_job", session=airflow_session)
    # Written again, nothing changes: no new version.
    _compat.write_dag(airflow_session, dag, bundle="dags-folder")
    assert _compat.dag_state(airflow_session, "prominence_job") == state


def test_a_dag_to_run_comes_from_the_cache_and_asks_no_params(run: Session) -> None:
    state = _compat.dag_state(run, "prominence_job")
    assert state is not None
    dag = _compat.runnable_dag(run, state)
    assert dag is not None
    assert dag is _compat.runnable_dag(run, state)
    assert not dag.params
    unknown = _compat.DagState(uuid.uuid4(), "x", is_stale=False, is_paused=False, bundle="")
    assert _compat.runnable_dag(run, unknown) is None


def test_a_run_is_queued_with_its_task_instances(run: Session) -> None:
    row = _compat.get_dag_run(run, "prominence_job", "job-1.pi")
    assert row is not None
    assert (row.state, row.run_type, row.triggered_by.value, row.triggering_user_name, row.logical_date) == (
        "queued",
        "manual",
        "rest_api",
        "alice",
        None,
    )
    assert _compat.run_facts(run, "prominence_job", "job-1.pi") == _compat.RunFacts(
        "queued", {"job_id": 1}, "alice", "manual", row.run_after
    )
    assert _compat.run_facts(run, "prominence_job", "job-2") is None
    states = {ti.task_id: ti.state for ti in _compat.task_instances(run, "prominence_job", "job-1.pi")}
    assert states == dict.fromkeys(("begin", "provision", "stage_in", "run", "stage_out", "release", "outcome"))


def test_a_task_instance_is_found_by_its_id(run: Session) -> None:
    [of_run] = _compat.task_instances(run, "prominence_job", "job-1.pi", ["run"])
    assert _compat.task_instance(run, of_run.id) == of_run
    assert not of_run.ended
    assert _compat.task_instance(run, str(uuid.uuid4())) is None
    assert _compat.task_instance(run, "junk") is None


def test_the_states_of_many_runs(run: Session) -> None:
    asked = [("prominence_job", "job-1.pi"), ("prominence_job", "gone")]
    assert _compat.runs_states(run, asked) == {("prominence_job", "job-1.pi"): "queued"}
    assert _compat.runs_states(run, []) == {}


def test_the_callback_of_a_task_that_its_trigger_ended_is_deleted(run: Session) -> None:
    from airflow.models.callback import Callback
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import handle_event_submit
    from airflow.triggers.base import TaskSuccessEvent
    from sqlalchemy import func, select

    ti = run.scalars(select(TaskInstance).where(TaskInstance.task_id == "provision")).one()
    handle_event_submit(TaskSuccessEvent(), task_instance=ti, session=run)
    run.flush()
    assert ti.state == "success"
    waiting = select(func.count()).select_from(Callback)
    assert run.scalar(waiting) == 1
    assert _compat.delete_callbacks(run, "another") == 0
    assert _compat.delete_callbacks(run, API_BUNDLE) == 1
    assert run.scalar(waiting) == 0


def test_whom_a_trigger_works_for() -> None:
    """Both kinds of task instance that a trigger may be given have what we read."""
    from airflow.executors.workloads.task import TaskInstanceDTO
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    fields: dict[str, Any] = {
        "id": uuid.uuid4(),
        "dag_id": "d",
        "run_id": "r",
        "task_id": "t",
        "try_number": 2,
        "map_index": -1,
    }
    expected = _compat.TaskIdentity(str(fields["id"]), "d", "r", "t", -1, 2)
    for model in (TaskInstanceDTO, RuntimeTaskInstance):
        assert _compat.task_identity(model.model_construct(**fields)) == expected
    assert _compat.task_identity(SimpleNamespace(**fields | {"map_index": None})) == expected


def test_a_waiting_trigger_holds_no_dag() -> None:
    """As the triggerer makes it: the task instance, and the context that its coroutine keeps while the trigger runs."""
    from airflow.executors.workloads.task import TaskInstanceDTO
    from airflow.jobs.triggerer_job_runner import TriggerRunner
    from airflow.serialization.serialized_objects import DagSerialization

    dto = TaskInstanceDTO.model_construct(
        id=uuid.uuid4(), dag_id="prominence_job", run_id="r", task_id="run", try_number=1, map_index=-1
    )
    now = dt.datetime.now(dt.timezone.utc).isoformat()
    dag_run = {"dag_id": "prominence_job", "run_id": "r", "run_after": now, "start_date": now, "run_type": "manual"}
    dag_run |= {"state": "running", "conf": {"job_id": 1}, "consumed_asset_events": []}
    dag_run |= dict.fromkeys(("logical_date", "data_interval_start", "data_interval_end", "end_date", "partition_key"))
    ti = TriggerRunner.create_runtime_ti(dto, DagSerialization.to_dict(shared.prominence_job_dag()), dag_run)
    context = ti.get_template_context()
    dag = weakref.ref(ti.task.dag)
    assert context["dag"] is dag()
    whose = _compat.task_identity(ti)
    _compat.forget_dag(ti)
    gc.collect()
    assert dag() is None
    assert _compat.task_identity(ti) == whose
    # After a plain defer() there is none to let go of.
    _compat.forget_dag(dto)
