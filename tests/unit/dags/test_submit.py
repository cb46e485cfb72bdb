from __future__ import annotations

import re

import pytest
from airflow.models.dag import DagModel
from airflow.sdk import DAG
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from airflow_prominence import _compat
from airflow_prominence.dags.names import API_BUNDLE, JOB_DAG_ID, MAINTENANCE_DAG_ID, SHIPPED_DAGS, run_id_for
from airflow_prominence.dags.shared import prominence_job_dag
from airflow_prominence.dags.submit import (
    DagMissing,
    find_task_instance,
    keep_shipped_dags,
    phase_task_states,
    run_facts,
    run_state,
    submit_run,
)


def _submit(session: Session, number: int) -> None:
    submit_run(session, dag_id="prominence_job", run_id=f"job-{number}", conf={"job_id": number}, owner="alice")


def test_a_fresh_database_gets_the_dag_with_the_first_run(airflow_session: Session) -> None:
    _submit(airflow_session, 1)
    _submit(airflow_session, 2)
    assert run_state(airflow_session, "prominence_job", "job-1") == "queued"
    assert run_state(airflow_session, "prominence_job", "job-2") == "queued"
    assert run_state(airflow_session, "prominence_job", "job-3") is None
    assert phase_task_states(airflow_session, "prominence_job", "job-1") == {
        "provision": None,
        "stage_in": None,
        "run": None,
        "stage_out": None,
    }
    facts = run_facts(airflow_session, "prominence_job", "job-2")
    assert facts is not None
    assert (facts.user, facts.conf) == ("alice", {"job_id": 2})
    [ti] = _compat.task_instances(airflow_session, "prominence_job", "job-1", ["run"])
    assert find_task_instance(airflow_session, ti.id) == ti


def test_nothing_is_committed(airflow_session: Session) -> None:
    _submit(airflow_session, 1)
    airflow_session.rollback()
    assert run_state(airflow_session, "prominence_job", "job-1") is None
    assert _compat.dag_state(airflow_session, "prominence_job") is None
    # The process's cache must not believe in the version that was rolled back.
    _submit(airflow_session, 1)
    airflow_session.commit()
    assert run_state(airflow_session, "prominence_job", "job-1") == "queued"


def test_a_stale_dag_is_made_active_again(airflow_session: Session) -> None:
    _submit(airflow_session, 1)
    model = airflow_session.get(DagModel, "prominence_job")
    assert model is not None
    model.is_stale = True
    airflow_session.flush()
    _submit(airflow_session, 2)
    airflow_session.refresh(model)
    assert not model.is_stale


def test_a_dag_that_the_dag_processor_writes_at_the_same_moment(
    airflow_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, states = _compat.write_dag, []
    really = _compat.dag_state

    def late(session: Session, dag_id: str) -> _compat.DagState | None:
        states.append(dag_id)
        return None if len(states) < 3 else really(session, dag_id)

    def taken(session: Session, dag: DAG, *, bundle: str) -> None:
        raise IntegrityError("INSERT", {}, Exception("duplicate key"))

    dag = prominence_job_dag()
    dag.fileloc, dag.relative_fileloc = __file__, "prominence_job.py"
    ours(airflow_session, dag, bundle="dags-folder")
    monkeypatch.setattr(_compat, "dag_state", late)
    monkeypatch.setattr(_compat, "write_dag", taken)
    _submit(airflow_session, 1)
    assert run_state(airflow_session, "prominence_job", "job-1") == "queued"


def test_the_shipped_dags_are_kept_active_and_brought_up_to_date(airflow_session: Session) -> None:
    keep_shipped_dags(airflow_session)
    first = {dag_id: _compat.dag_state(airflow_session, dag_id) for dag_id in SHIPPED_DAGS}
    assert {state and (state.bundle, state.is_stale, state.is_paused) for state in first.values()} == {
        (API_BUNDLE, False, False)
    }
    model = airflow_session.get(DagModel, MAINTENANCE_DAG_ID)
    assert model is not None
    assert model.next_dagrun_create_after is not None
    # What another version of this package wrote is replaced once, what is in order is left alone.
    keep_shipped_dags(airflow_session, anew=True)
    assert {dag_id: _compat.dag_state(airflow_session, dag_id) for dag_id in SHIPPED_DAGS} == first
    _submit(airflow_session, 1)
    other = prominence_job_dag()
    other.description = "of another version"
    other.fileloc, other.relative_fileloc = __file__, "prominence_job.py"
    _compat.write_dag(airflow_session, other, bundle=API_BUNDLE)
    assert _compat.dag_state(airflow_session, JOB_DAG_ID) != first[JOB_DAG_ID]
    keep_shipped_dags(airflow_session)
    assert airflow_session.get_one(DagModel, JOB_DAG_ID).description == "of another version"
    keep_shipped_dags(airflow_session, anew=True)
    assert airflow_session.get_one(DagModel, JOB_DAG_ID).description == prominence_job_dag().description
    model.is_stale = True
    airflow_session.flush()
    keep_shipped_dags(airflow_session)
    airflow_session.refresh(model)
    assert not model.is_stale


def test_a_dag_of_the_dags_folder_stays_the_dag_processors(airflow_session: Session) -> None:
    dag = prominence_job_dag()
    dag.fileloc, dag.relative_fileloc = __file__, "prominence_job.py"
    _compat.write_dag(airflow_session, dag, bundle="dags-folder")
    keep_shipped_dags(airflow_session, anew=True)
    state = _compat.dag_state(airflow_session, JOB_DAG_ID)
    assert state is not None
    assert state.bundle == "dags-folder"


def test_an_unknown_dag_is_said_to_be_missing(airflow_session: Session) -> None:
    with pytest.raises(DagMissing, match="DAG wf-1 is not in Airflow's database"):
        submit_run(airflow_session, dag_id="wf-1", run_id="wf-1", conf={}, owner="alice")


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        ("calculate-pi", "job-7375.calculate-pi"),
        ("wf/job/3", "job-7375.wf-job-3"),
        ("two words", "job-7375.two-words"),
        ("..", "job-7375"),
        ("", "job-7375"),
        ("Ärger 🚒", "job-7375.rger"),
        ("a" * 500, "job-7375." + "a" * 100),
        ("x\n../../y", "job-7375.x-y"),
    ],
)
def test_run_ids_are_readable_and_safe(name: str, run_id: str) -> None:
    from airflow.configuration import conf

    assert run_id_for(7375, name) == run_id
    assert re.match(conf.get("scheduler", "allowed_run_id_pattern"), run_id)
