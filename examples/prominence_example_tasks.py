"""PROMINENCE jobs beside other tasks: in one task, of a function, mapped, waited for, with outputs as Assets.

Trigger it in the UI, or let it run by a schedule: then the jobs belong to ``owner``, a user of PROMINENCE.
"""

from __future__ import annotations

from airflow.sdk import DAG, Asset, Param, task

from airflow_prominence.operators import JobOperator
from airflow_prominence.sensors import JobSensor

SMALL = {"cpus": 1, "memory": 1, "disk": 1}

results = Asset("prominence-example/result.txt")

with DAG(
    dag_id="prominence_example_tasks",
    schedule=None,
    default_args={"owner": "demo"},
    params={"image": Param("busybox", type="string"), "digits": Param(20, type="integer")},
    tags=["prominence", "example"],
    doc_md=__doc__,
):

    @task
    def numbers(params: dict | None = None) -> list[dict]:
        """Prepare a job for each number; any task may do so."""
        image = (params or {})["image"]
        return [
            {
                "name": f"square-{number}",
                "resources": SMALL,
                "tasks": [{"image": image, "runtime": "singularity", "cmd": f"expr {number} * {number}"}],
            }
            for number in (2, 3)
        ]

    squares = JobOperator.partial(task_id="squares").expand(job=numbers())

    write = JobOperator(
        task_id="write",
        job={
            "name": "write-{{ params.digits }}",
            "resources": SMALL,
            "tasks": [
                {
                    "image": "{{ params.image }}",
                    "runtime": "singularity",
                    "cmd": "sh -c 'seq {{ params.digits }} > result.txt'",
                }
            ],
            "outputFiles": ["result.txt"],
        },
        outlets=[results],
    )

    @task.prominence(
        job={
            "name": "check",
            "resources": SMALL,
            "tasks": [{"image": "{{ params.image }}", "runtime": "singularity"}],
        }
    )
    def check(outputs: list[dict], params: dict | None = None) -> list[str]:
        """Make the command of what the job before has stored."""
        wanted = sum(len(str(number)) + 1 for number in range(1, (params or {})["digits"] + 1))
        return ["test", str(outputs[0]["size"]), "-eq", str(wanted)]

    again = JobSensor(task_id="again", job_id="{{ ti.xcom_pull('write')['job'] }}")

    squares >> write >> [check(write.output["outputs"]), again]
