"""A PROMINENCE job in phases, with a task of one's own between two of them.

The job holds, with its input at its place, until `look` has ended; if `look` fails, the job is ended and never runs.
"""

from __future__ import annotations

from airflow.sdk import DAG, Asset, Param, task

from airflow_prominence.operators import prominence_task_group

with DAG(
    dag_id="prominence_example_gate",
    schedule=None,
    default_args={"owner": "demo"},
    params={"image": Param("busybox", type="string"), "good": Param(True, type="boolean")},
    tags=["prominence", "example"],
    doc_md=__doc__,
):
    work = prominence_task_group(
        {
            "name": "gated",
            "resources": {"cpus": 1, "memory": 1, "disk": 1},
            "inputs": [{"filename": "greeting.txt", "content": "aGVsbG8K"}],
            "tasks": [
                {
                    "image": "{{ params.image }}",
                    "runtime": "singularity",
                    "cmd": "sh -c 'date +%s > began.txt; cat greeting.txt'",
                }
            ],
            "outputFiles": ["began.txt"],
        },
        group_id="work",
        outlets=[Asset("prominence-example/began.txt")],
    )

    @task
    def look(params: dict | None = None) -> None:
        """Say whether the job may run; a real one would look at what the job is about to use."""
        if not (params or {})["good"]:
            raise ValueError("this is not what the job should run with")

    @task
    def tell(outputs: list[dict]) -> str:
        """Use what the job has made."""
        return f"{outputs[0]['file']} has {outputs[0]['size']} bytes"

    work.stage_in >> look() >> work.run
    work >> tell(work.stage_out.output["outputs"])
