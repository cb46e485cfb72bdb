"""Scatter and gather: a job reads what the jobs before it have kept, of a whole factory too."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from tests.integration.flows import Flow, made
from tests.integration.stacks import Stack

RESOURCES = {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1}
AFTER = {"scatter": ["gather"]}


def job(stack: Stack, name: str, cmd: str, *urls: str, **more: Any) -> dict[str, Any]:
    task = {"image": stack.image, "runtime": "singularity", "cmd": f"sh -c '{cmd}'"}
    taken = {"artifacts": [{"url": url} for url in urls]} if urls else {}
    return {"name": name, "resources": RESOURCES, "tasks": [task], **taken, **more}


def sweep(name: str, end: int) -> dict[str, Any]:
    values = {"name": "n", "start": 1, "end": end, "step": 1}
    return {"name": "sweep", "type": "parameterSweep", "jobs": [name], "parameters": [values]}


def story(stack: Stack, flow: Flow, name: str) -> str:
    """What is told of a job."""
    told = stack.psql("SELECT message FROM prominence_event WHERE job_id = %s ORDER BY id", flow.jobs()[name]["id"])
    return "\n".join(message for (message,) in told)


def test_a_gather_reads_what_all_of_a_sweep_have_written(stack: Stack, tmp_path: Path) -> None:
    flow = Flow.submitted(
        stack,
        {
            "name": "squares",
            "jobs": [
                job(
                    stack,
                    "scatter",
                    "echo $(($n * $n)) > square.txt; mkdir -p d; echo of $n > d/of-$n",
                    outputFiles=["square.txt"],
                    outputDirs=["d"],
                ),
                job(
                    stack,
                    "gather",
                    "cat scatter/*/square.txt scatter/?/d/of-* | tee all.txt; cat square.txt",
                    "scatter/square.txt",
                    "scatter/d.tgz",
                    "scatter/1/square.txt",
                    outputFiles=["all.txt"],
                ),
                job(stack, "report", "cat all.txt", "gather/all.txt"),
            ],
            "factories": [sweep("scatter", 3)],
            "dependencies": {"scatter": ["gather"], "gather": ["report"]},
        },
    )
    assert flow.wait()["status"] == "completed", story(stack, flow, "squares/gather")
    every = "1\n4\n9\nof 1\nof 2\nof 3\n"
    assert flow.out("gather") == every + "4\n"
    assert flow.out("report") == every
    done = stack.run_cli("download", "workflow", str(flow.id), cwd=tmp_path)
    assert done.code == 0, done
    assert (tmp_path / "all.txt").read_text() == every
    with tarfile.open(tmp_path / "d.tgz") as archive:
        assert len(archive.getnames()) == 2


def test_a_rerun_of_a_failed_gather_uses_what_was_kept(stack: Stack) -> None:
    flow = Flow.submitted(
        stack,
        {
            "name": "again",
            "jobs": [
                job(stack, "scatter", "echo $PROMINENCE_WORKFLOW_ID $n > out.txt", outputFiles=["out.txt"]),
                job(stack, "gather", "cat scatter/*/out.txt; test -e never", "scatter/out.txt"),
            ],
            "factories": [sweep("scatter", 3)],
            "dependencies": AFTER,
        },
    )
    assert flow.wait()["progress"] == {"total": 4, "done": 3, "failed": 1, "queued": 0, "waiting": 0}
    written = "".join(f"{flow.id} {n}\n" for n in (1, 2, 3))
    assert flow.out("gather") == written
    again = Flow(stack, made(stack.run_cli("rerun", str(flow.id), cwd=stack.places.home)))
    assert again.wait()["progress"] == {"total": 4, "done": 3, "failed": 1, "queued": 0, "waiting": 0}
    assert again.out("gather") == written, "the jobs of the sweep have not run again"


def test_outputs_that_are_gone_fail_the_job_that_wants_them(stack: Stack) -> None:
    flow = Flow.submitted(
        stack,
        {
            "name": "gone",
            "jobs": [
                job(stack, "scatter", "echo $n > out.txt", outputFiles=["out.txt"]),
                job(stack, "gather", "false", "scatter/out.txt"),
            ],
            "factories": [sweep("scatter", 2)],
            "dependencies": AFTER,
        },
    )
    flow.wait("failed")
    stack.psql(
        "DELETE FROM prominence_staged_output WHERE job_id IN "
        "(SELECT id FROM prominence_job WHERE workflow_id = %s AND instance = 1)",
        flow.id,
    )
    again = Flow(stack, made(stack.run_cli("rerun", str(flow.id), cwd=stack.places.home)))
    again.wait("failed")
    gather = again.jobs()["gone/gather"]
    assert (gather["status"], gather["statusReason"]) == ("failed", "Artifact download failed")
    said = "Artifact scatter/1/out.txt: scatter/1 has left no such output, or it is no longer kept"
    assert said in story(stack, again, "gone/gather")
