"""Every use of an Airflow module that is outside Airflow's public interface.

Airflow is pinned to one minor version (``>=3.3,<3.4``); when the pin moves, this page and its test are what has to be
read again. Imports are inside the functions: half of them need Airflow's ORM, which exists in the API server and in
the scheduler but must never be imported by a trigger or by a DAG file.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import UUID

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from airflow.models.connection import Connection
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.providers.smtp.hooks.smtp import SmtpHook
    from airflow.sdk import DAG
    from airflow.serialization.definitions.dag import SerializedDAG
    from sqlalchemy.orm import Session


# --- who is asking (API server) -------------------------------------------------------------------------------------


async def resolve_user_from_token(token: str) -> BaseUser:
    """Return the user of an Airflow JWT; raises FastAPI's HTTPException 401 (expired) or 403 (anything else)."""
    from airflow.api_fastapi.core_api.security import resolve_user_from_token as resolve

    return await resolve(token)


def get_auth_manager() -> BaseAuthManager[Any]:
    """Return the auth manager of this API server."""
    from airflow.api_fastapi.app import get_auth_manager as get

    return get()


def cookie_name() -> str:
    """Return the name of the cookie in which Airflow's UI keeps its JWT."""
    from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN

    return COOKIE_NAME_JWT_TOKEN


# --- sessions (API server, scheduler, CLI) ----------------------------------------------------------------------------


@contextmanager
def create_session() -> Iterator[Session]:
    """Open a session on Airflow's metadata database: commits at the end, rolls back on an exception."""
    from airflow.utils.session import create_session as create

    with create(scoped=False) as session:
        yield session


# --- connections (API server) -----------------------------------------------------------------------------------------


def get_connection(conn_id: str) -> Connection | None:
    """Return an Airflow connection, from wherever this site keeps them; None if there is none of this name."""
    from airflow.models.connection import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        return None


def smtp_access_token(hook: SmtpHook) -> str:
    """Return the access token of an SMTP connection whose ``auth_type`` is ``oauth2``; may ask its issuer."""
    token: str = hook.access_token or hook._get_oauth2_token()
    return token


# --- DAGs in the database (API server) --------------------------------------------------------------------------------


@dataclass(frozen=True)
class DagState:
    """What the database knows of a DAG that is about to get a run."""

    version_id: UUID
    content_hash: str
    is_stale: bool
    is_paused: bool
    bundle: str


def dag_state(session: Session, dag_id: str) -> DagState | None:
    """Return the newest version of a DAG and whether the scheduler would look at it; None if it isn't there."""
    from airflow.models.dag import DagModel
    from airflow.models.dag_version import DagVersion
    from airflow.models.serialized_dag import SerializedDagModel
    from sqlalchemy import select

    row = session.execute(
        select(
            DagVersion.id,
            SerializedDagModel.dag_hash,
            DagModel.is_stale,
            DagModel.is_paused,
            DagModel.bundle_name,
        )
        .join(DagModel, DagModel.dag_id == DagVersion.dag_id)
        .join(SerializedDagModel, SerializedDagModel.dag_version_id == DagVersion.id)
        .where(DagVersion.dag_id == dag_id)
        .order_by(DagVersion.created_at.desc())
        .limit(1)
    ).first()
    return None if row is None else DagState(row[0], row[1], bool(row[2]), bool(row[3]), row[4] or "")


def dag_files() -> list[tuple[str, str]]:
    """Return bundle and path in it of each DAG file that lies on this machine, whether it was ever parsed or not."""
    from pathlib import Path

    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.utils.file import list_py_file_paths

    found = []
    for bundle in DagBundlesManager().get_all_dag_bundles():
        if bundle.path.is_dir():
            files = list_py_file_paths(bundle.path)
            found += [(bundle.name, str(Path(file).relative_to(bundle.path))) for file in files]
    return found


def write_dag(session: Session, dag: DAG, *, bundle: str, code: str | None = None) -> None:
    """Write a DAG into the database as the DAG processor would, in the caller's transaction.

    ``dag.fileloc`` must name a readable file (its text becomes the Code tab, unless ``code`` is given) and
    ``dag.relative_fileloc`` the path in the bundle by which the DAG processor knows it.
    """
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagcode import DagCode
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from sqlalchemy import update

    if session.get(DagBundleModel, bundle) is None:
        session.add(DagBundleModel(name=bundle))
        session.flush()
    lazy = LazyDeserializedDAG.from_dag(dag)
    SerializedDAG.bulk_write_to_db(bundle, None, [lazy], session=session)
    SerializedDagModel.write_dag(lazy, bundle_name=bundle, session=session)
    session.flush()
    if code is not None:
        shown = {"source_code": code, "source_code_hash": DagCode.dag_source_hash(code)}
        session.execute(update(DagCode).where(DagCode.dag_id == dag.dag_id).values(shown))


_runnable: dict[tuple[UUID, str], SerializedDAG] = {}
_runnable_lock = threading.Lock()
_RUNNABLE_KEPT = 256


def runnable_dag(session: Session, state: DagState) -> SerializedDAG | None:
    """Return a DAG version for :func:`create_dag_run`, from this process's cache if it has been asked for before.

    The copy has no params: the conf of a run that we create is our own, and validating it against a job's whole JSON
    Schema would cost more than the rest of the submission.
    """
    import copy

    from airflow.models.dagbag import DBDagBag
    from airflow.serialization.definitions.param import SerializedParamsDict

    key = (state.version_id, state.content_hash)
    with _runnable_lock:
        found = _runnable.get(key)
    if found is not None:
        return found
    dag = DBDagBag(load_op_links=False).get_dag(state.version_id, session)
    if dag is None:
        return None
    bare = copy.copy(dag)
    bare.params = SerializedParamsDict()
    with _runnable_lock:
        while len(_runnable) >= _RUNNABLE_KEPT:
            _runnable.pop(next(iter(_runnable)))
        _runnable[key] = bare
    return bare


def create_dag_run(session: Session, dag: SerializedDAG, *, run_id: str, conf: dict[str, Any], user: str) -> DagRun:
    """Create a queued manual run and its task instances in the caller's transaction, as the REST API would."""
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    return dag.create_dagrun(
        run_id=run_id,
        logical_date=None,
        run_after=dt.datetime.now(dt.timezone.utc),
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.REST_API,
        triggering_user_name=user,
        conf=conf,
        state=DagRunState.QUEUED,
        session=session,
    )


def delete_dag(session: Session, dag_id: str) -> None:
    """Delete all that the database has of a DAG, in the caller's transaction."""
    from airflow.api.common.delete_dag import delete_dag as delete

    delete(dag_id, session=session)


def renew_dags(session: Session, bundle: str, older_than: dt.timedelta) -> None:
    """Set the time by which ``airflow db clean`` judges DAGs (the last parsing) to now, where it is that old."""
    from airflow.models.dag import DagModel
    from sqlalchemy import update

    now = dt.datetime.now(dt.timezone.utc)
    session.execute(
        update(DagModel)
        .where(DagModel.bundle_name == bundle, DagModel.last_parsed_time < now - older_than)
        .values(last_parsed_time=now),
        execution_options={"synchronize_session": False},
    )


def task_doc_json(session: Session, dag_id: str, run_id: str, task_id: str) -> str | None:
    """Return the ``doc_json`` of a task in the version of the DAG that a run was made of; None if it has none."""
    from airflow.models.dagbag import DBDagBag

    run = get_dag_run(session, dag_id, run_id)
    dag = None if run is None else DBDagBag(load_op_links=False).get_dag_for_run(run, session)
    if dag is None or task_id not in dag.task_ids:
        return None
    text: str | None = dag.get_task(task_id).doc_json
    return text


def task_owner(session: Session, dag_id: str, run_id: str, task_id: str) -> str | None:
    """Return the owner that a DAG's file gives a task, in the version of a run; None if it leaves that to Airflow."""
    from airflow.configuration import conf
    from airflow.models.dagbag import DBDagBag

    run = get_dag_run(session, dag_id, run_id)
    dag = None if run is None else DBDagBag(load_op_links=False).get_dag_for_run(run, session)
    if dag is None or task_id not in dag.task_ids:
        return None
    owner: str = dag.get_task(task_id).owner
    return None if owner in ("", conf.get("operators", "default_owner")) else owner


def lock_for_writing_dag(session: Session, dag_id: str) -> None:
    """Let only one transaction at a time write this DAG (two workers that both find it missing would collide)."""
    from sqlalchemy import text

    if session.get_bind().dialect.name == "postgresql":
        session.execute(
            text("SELECT pg_advisory_xact_lock(hashtext(:key))"), {"key": f"airflow_prominence dag {dag_id}"}
        )


# --- runs and task instances (API server) -----------------------------------------------------------------------------


def get_dag_run(session: Session, dag_id: str, run_id: str) -> DagRun | None:
    """Return a run's row."""
    from airflow.models.dagrun import DagRun
    from sqlalchemy import select

    return session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))


@dataclass(frozen=True)
class RunFacts:
    """A run as the API needs it: its state, its conf, and who started it (None: no person did).

    ``date`` is its logical date, or when it was to run if it has none.
    """

    state: str
    conf: dict[str, Any]
    user: str | None
    run_type: str
    date: dt.datetime


def run_facts(session: Session, dag_id: str, run_id: str) -> RunFacts | None:
    """Return a run's facts, or None if there is no such run."""
    from airflow.models.dagrun import DagRun
    from sqlalchemy import select

    row = session.execute(
        select(
            DagRun.state,
            DagRun.conf,
            DagRun.triggering_user_name,
            DagRun.run_type,
            DagRun.logical_date,
            DagRun.run_after,
        ).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    ).first()
    if row is None:
        return None
    conf = row[1] if isinstance(row[1], dict) else {}
    return RunFacts(_plain(row[0]) or "", dict(conf), row[2], _plain(row[3]) or "", row[4] or row[5])


@dataclass(frozen=True)
class TaskInstanceFacts:
    """A task instance as the API needs it to judge what a cancelled trigger told."""

    id: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str | None

    @property
    def ended(self) -> bool:
        """Whether the task instance is in a state that it will not leave by itself."""
        return self.state in ENDED_TASK_STATES


ENDED_TASK_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
ENDED_RUN_STATES = frozenset({"success", "failed"})


def task_instances(
    session: Session, dag_id: str, run_id: str, task_ids: Collection[str] | None = None
) -> list[TaskInstanceFacts]:
    """Return a run's task instances, or only those of the given tasks."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select

    wanted = select(*_facts_columns(TaskInstance)).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    if task_ids is not None:
        wanted = wanted.where(TaskInstance.task_id.in_(list(task_ids)))
    return [_facts(row) for row in session.execute(wanted)]


def task_instance(session: Session, ti_id: str) -> TaskInstanceFacts | None:
    """Return the task instance of this id, if it is still that task's current try."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select

    try:
        wanted = UUID(ti_id)
    except ValueError:
        return None
    row = session.execute(select(*_facts_columns(TaskInstance)).where(TaskInstance.id == wanted)).first()
    return None if row is None else _facts(row)


def runs_states(session: Session, runs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the states of many runs at once; a run that is no longer in the database is not in the answer."""
    from airflow.models.dagrun import DagRun
    from sqlalchemy import select, tuple_

    wanted = list(runs)
    if not wanted:
        return {}
    rows = session.execute(
        select(DagRun.dag_id, DagRun.run_id, DagRun.state).where(tuple_(DagRun.dag_id, DagRun.run_id).in_(wanted))
    )
    return {(dag_id, run_id): _plain(state) or "" for dag_id, run_id, state in rows}


def delete_callbacks(session: Session, bundle: str) -> int:
    """Delete the callbacks that wait for the DAG processor of a bundle that none serves; returns how many.

    Each end of a trigger-only task queues one, and nobody else would ever take it away.
    """
    from airflow.models.callback import Callback
    from sqlalchemy import delete

    done = session.execute(
        delete(Callback).where(Callback.type == "dag_processor", Callback.bundle_name == bundle),
        execution_options={"synchronize_session": False},
    )
    return int(cast("Any", done).rowcount)


def _facts_columns(model: type[TaskInstance]) -> tuple[Any, ...]:
    return (
        model.id,
        model.dag_id,
        model.run_id,
        model.task_id,
        model.map_index,
        model.try_number,
        model.state,
    )


def _facts(row: Any) -> TaskInstanceFacts:
    return TaskInstanceFacts(str(row[0]), row[1], row[2], row[3], int(row[4]), int(row[5]), _plain(row[6]))


def _plain(state: Any) -> str | None:
    """Airflow's states are str enums or strings, by the column's history; we only want the word."""
    return None if state is None else str(getattr(state, "value", state))


def unhealthy_components() -> list[str]:
    """Return which of Airflow's own components don't do their work, by name; empty when all is well."""
    from airflow.api.common.airflow_health import HEALTHY, get_airflow_health

    health = get_airflow_health()
    return [name for name, facts in health.items() if facts["status"] not in (HEALTHY, None)]


# --- inside a trigger (no ORM here) -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskIdentity:
    """Which try of which task a trigger works for."""

    ti_id: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int


class _TaskInstanceOfTrigger(Protocol):
    id: Any
    dag_id: str
    run_id: str
    task_id: str
    map_index: int | None
    try_number: int


def task_identity(task_instance: object) -> TaskIdentity:
    """Return whom a trigger works for.

    ``BaseTrigger.task_instance`` is a RuntimeTaskInstance after ``start_from_trigger`` and a plain data object after
    ``defer()``; both carry these fields, but only before ``run()`` has begun, not in ``__init__``.
    """
    ti = cast("_TaskInstanceOfTrigger", task_instance)
    return TaskIdentity(
        ti_id=str(ti.id),
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else int(ti.map_index),
        try_number=int(ti.try_number),
    )


def forget_dag(task_instance: object) -> None:
    """Let go of the DAG that comes with each trigger of ``start_from_trigger``, a copy of its own for every one.

    A thousand waiting triggers would hold a thousand of them. The triggerer has rendered the templates by the time that
    ``run()`` begins, and asks nothing of the DAG or of the context any more.
    """
    context = getattr(task_instance, "_cached_template_context", None)
    if context is not None:
        context.clear()
    if getattr(task_instance, "task", None) is not None:
        task_instance.task = None  # type: ignore[attr-defined]
