"""The DAGs that the package ships: ``prominence_job`` (a standalone job is a run of it) and the maintenance.

Parsed again at every task's end (Airflow queues a callback for it), so this module imports as little as it can.
"""

from __future__ import annotations

import datetime as dt

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, TriggerRule

from airflow_prominence.dags import names
from airflow_prominence.dags.params import param_schema
from airflow_prominence.operators.maintenance import MaintenanceOperator
from airflow_prominence.operators.phases import (
    OutcomeOperator,
    ProvisionOperator,
    ReleaseOperator,
    RunOperator,
    StageInOperator,
    StageOutOperator,
)
from airflow_prominence.operators.workflow import WorkflowOperator

# Not a limit: how many jobs run is decided by the sites' capacity, not by the scheduler.
UNLIMITED = 1_000_000

_TAGS = ["prominence"]

_JOB_DOC = """\
### A PROMINENCE job

Each run of this DAG is one job: `provision` finds a place for it, `stage_in` brings its input, `run` runs its tasks in
containers, `stage_out` takes its output away, `release` gives the place back and `outcome` says how it went: it fails,
and the run with it, unless all tasks of the job ended with exit code 0. The tasks wait in the triggerer and hold no
worker slot. Each one's log tells its part of the job's story.

Clearing `run`, with what comes after it, or the whole run tries the job again from its beginning. Clearing `stage_out`
of a job that has ended uploads its output again, for as long as its directory is kept on its node; the log says so if
it is not. Marking the run or one of its tasks as failed deletes the job.

Jobs come from the REST interface or the `prominence` command line. To start one here, press *Trigger*, paste a job
document into the field `job` and send it; it runs for the user who pressed the button. Passwords don't belong here.
"""

# In one line: the form keeps no line breaks. "Paste": what is typed there the form of Airflow 3.3 sets anew whenever it
# is JSON for a moment, and it takes some letters for commands.
_JOB_PARAM_DOC = (
    'Paste the document of the job here, for example {"name": "hello", "resources": {"cpus": 1, "memory": 1, '
    '"disk": 10}, "tasks": [{"image": "busybox", "runtime": "singularity", "cmd": "echo hello"}]}'
)

_WORKFLOW_DOC = """\
### A PROMINENCE workflow of any document

To start a workflow here, press *Trigger*, paste its document into the field `workflow` and send it; it runs for the
user who pressed the button. It gets a DAG of its own, whose graph shows its jobs: the log of the task `workflow` says
which. That task ends as the workflow does; marking it, or its run, as failed deletes the workflow. Passwords don't
belong here.
"""

# In one line: the form keeps no line breaks.
_WORKFLOW_PARAM_DOC = (
    'Paste the document of the workflow here, for example {"name": "two-steps", "jobs": [{"name": "first", '
    '"resources": {"cpus": 1, "memory": 1}, "tasks": [{"image": "busybox", "cmd": "echo 1"}]}, {"name": "second", '
    '"resources": {"cpus": 1, "memory": 1}, "tasks": [{"image": "busybox", "cmd": "echo 2"}]}], '
    '"dependencies": {"first": ["second"]}}'
)

_MAINTENANCE_DOC = """\
### Housekeeping of PROMINENCE

Every minute: jobs on lost nodes are ended, jobs that waited too long are given up, waiting jobs are looked at again,
jobs whose run was ended by hand are ended too, and what nobody needs any more is removed.
"""


def prominence_job_dag() -> DAG:
    """Build the shipped DAG whose runs are the standalone jobs."""
    with DAG(
        dag_id=names.JOB_DAG_ID,
        description="One PROMINENCE job a run.",
        doc_md=_JOB_DOC,
        schedule=None,
        catchup=False,
        max_active_runs=UNLIMITED,
        max_active_tasks=UNLIMITED,
        is_paused_upon_creation=False,
        tags=_TAGS,
        default_args={"retries": 0},
    ) as dag:
        begin = EmptyOperator(task_id=names.BEGIN)
        begin.is_setup = True
        provision = ProvisionOperator(task_id=names.PROVISION)
        stage_in = StageInOperator(task_id=names.STAGE_IN)
        run = RunOperator(task_id=names.RUN)
        stage_out = StageOutOperator(task_id=names.STAGE_OUT, trigger_rule=TriggerRule.ALL_DONE)
        release = ReleaseOperator(task_id=names.RELEASE)
        outcome = OutcomeOperator(task_id=names.OUTCOME)

        begin >> provision >> stage_in >> run >> stage_out
        stage_out >> release.as_teardown(setups=begin)
        # Without it a run whose release succeeds would count as a success whatever became of the job.
        [provision, stage_in, run, stage_out] >> outcome.as_teardown(on_failure_fail_dagrun=True)

    # After the tasks: each of them would keep a copy of the params it finds, and the triggerer reads all of that anew
    # for every trigger.
    dag.params = _job_params()  # type: ignore[assignment]  # attrs converts it
    return dag


def _job_params() -> dict[str, Param]:
    schema = param_schema("job")
    # A Param has one description; in its schema too, Airflow could not read it back.
    del schema["description"]
    return {
        "job": Param(None, description=_JOB_PARAM_DOC, schema=schema),
        "job_id": Param(
            None,
            description="Leave empty: a number typed here is not believed.",
            schema={"type": ["null", "integer"], "title": "Job id", "section": "Set by the REST interface"},
        ),
    }


def prominence_workflow_dag() -> DAG:
    """Build the shipped DAG each of whose runs makes a workflow of the document it was started with."""
    with DAG(
        dag_id=names.WORKFLOW_DAG_ID,
        description="Makes a PROMINENCE workflow of a document.",
        doc_md=_WORKFLOW_DOC,
        schedule=None,
        catchup=False,
        max_active_runs=UNLIMITED,
        max_active_tasks=UNLIMITED,
        is_paused_upon_creation=False,
        tags=_TAGS,
        default_args={"retries": 0},
    ) as dag:
        WorkflowOperator(task_id=names.WORKFLOW)
    schema = param_schema("workflow")
    del schema["description"]
    params = {"workflow": Param(None, description=_WORKFLOW_PARAM_DOC, schema=schema)}
    dag.params = params  # type: ignore[assignment]  # attrs converts it
    return dag


def prominence_maintenance_dag() -> DAG:
    """Build the DAG that keeps the house every minute."""
    with DAG(
        dag_id=names.MAINTENANCE_DAG_ID,
        description="Housekeeping of PROMINENCE, every minute.",
        doc_md=_MAINTENANCE_DOC,
        schedule=dt.timedelta(minutes=1),
        start_date=dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags=_TAGS,
        default_args={"retries": 0},
    ) as dag:
        MaintenanceOperator(task_id="maintain")
    return dag
