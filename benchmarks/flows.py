"""Workflows: accepted, run by a node without containers, looked at, and ten jobs in a chain."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.meters import CONTROLLERS, Row, cpu_s, memory_mb, spread, timed
from tests.integration.stacks import Stack, until

SWEEP, LARGE = 2_000, 10_000
CHAIN = 10
#: Jobs that the dry node runs at once: like a cloud with room.
ROOM = 64


def sweep(stack: Stack, number: int, cpus: int = 1, cmd: str = "true") -> dict[str, Any]:
    """A one-dimensional parameter sweep of so many small jobs."""
    values = {"name": "x", "start": 1, "end": number, "step": 1}
    factory = {"name": "f", "type": "parameterSweep", "jobs": ["s"], "parameters": [values]}
    return {"name": f"sweep of {number}", "jobs": [_job(stack, "s", cpus, f"{cmd} $x")], "factories": [factory]}


def _job(stack: Stack, name: str, cpus: int, cmd: str = "true") -> dict[str, Any]:
    task = {"image": stack.image, "runtime": "singularity", "cmd": cmd}
    return {"name": name, "resources": {"cpus": cpus, "memory": 1, "disk": 1}, "tasks": [task]}


@contextlib.contextmanager
def dry_node(stack: Stack) -> Iterator[int]:
    """A node without containers; yields how many cores a job must ask for to be given to it and to no other."""
    cpus = (os.cpu_count() or 1) + 1
    secret = stack.secrets.internal_secret
    command = [sys.executable, "-m", "benchmarks.drynode", stack.internal_url, secret, str(cpus * ROOM)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: stack.psql("SELECT 1 FROM prominence_node WHERE name = 'dry' AND state = 'up'"), 30)
            yield cpus
        finally:
            process.terminate()
            process.wait(10)


def accepted(stack: Stack) -> list[Row]:
    """How long it takes until a sweep is accepted, and what it needs of memory; and how it is shown then."""
    rows = []
    with stack.client(timeout=120) as client:
        before = memory_mb(stack, "api-server")
        for number, goal in ((SWEEP, "<= 2 s"), (LARGE, "<= 10 s")):
            # Nothing here can run them: what is measured is that they are accepted.
            body = sweep(stack, number, cpus=1000)
            made: list[int] = []
            seconds = timed(lambda body=body, made=made: made.append(client.post("/workflows", json=body).json()["id"]))
            rows.append(Row(f"a sweep of {number} jobs: accepted in", f"{seconds:.1f} s", goal))
            if number == LARGE:
                after = memory_mb(stack, "api-server")
                rows.append(Row("  memory of the API beside idle", f"+{after - before:.0f} MB", "<= +100 MB"))
                rows += _looked_at(stack, made[0])
            client.delete(f"/workflows/{made[0]}")
    return rows


def _looked_at(stack: Stack, workflow: int, runs: int = 10) -> list[Row]:
    [(dag, run)] = stack.psql("SELECT dag_id, run_id FROM prominence_workflow WHERE id = %s", workflow)
    with stack.client() as client, stack.airflow_client() as airflow:
        pages = {
            "list": lambda: client.get("/workflows"),
            "describe": lambda: client.get(f"/workflows/{workflow}"),
            "grid page": lambda: (
                airflow.get(f"/ui/grid/structure/{dag}").raise_for_status(),
                airflow.get(f"/ui/grid/ti_summaries/{dag}?run_ids={run}").raise_for_status(),
            ),
            "graph page": lambda: airflow.get(f"/ui/structure/structure_data?dag_id={dag}").raise_for_status(),
        }
        goals = {"list": "<= 300 ms", "describe": "<= 300 ms", "grid page": "<= 1000 ms", "graph page": "<= 1000 ms"}
        return [
            Row(f"  its {name}", spread([timed(look) for _ in range(runs)]), goals[name])
            for name, look in pages.items()
        ]


def finished(stack: Stack) -> list[Row]:
    """Two thousand jobs that cost nothing: what is left is our engine."""
    with dry_node(stack) as cpus, stack.client(timeout=120) as client:
        before = {part: cpu_s(stack, [part]) for part in (*CONTROLLERS, "postgres")}
        began = time.perf_counter()
        workflow = client.post("/workflows", json=sweep(stack, SWEEP, cpus)).json()["id"]
        query = "SELECT 1 FROM prominence_workflow WHERE id = %s AND ended_at IS NOT NULL"
        until(lambda: stack.psql(query, workflow), 900, 0.2, "the sweep ends")
        seconds = time.perf_counter() - began
        run = "SELECT 1 FROM dag_run WHERE run_id = %s AND state = 'success'"
        until(lambda: stack.psql(run, f"workflow-{workflow}"), 120, 0.2, "its run ends")
        over = time.perf_counter() - began
        each = {part: (cpu_s(stack, [part]) - then) / SWEEP * 1000 for part, then in before.items()}
    return [
        Row(f"{SWEEP} jobs without containers: finished", f"{SWEEP / seconds:.0f} jobs/s ({seconds:.0f} s)", ">= 50/s"),
        Row("  its run in Airflow over after", f"{over:.0f} s", "-"),
        *(Row(f"  CPU of {part}", f"{cost:.1f} ms a job", "-") for part, cost in each.items()),
    ]


def chain(stack: Stack) -> list[Row]:
    """Ten jobs, each waiting for the one before: the time between one's end and the next one's start."""
    rows = []
    with dry_node(stack) as cpus, stack.client() as client:
        for form, goal in (("phases", "<= 7 s"), ("compact", "<= 4 s")):
            jobs = [_job(stack, f"j{number}", cpus) for number in range(CHAIN)]
            dependencies = {f"j{number}": [f"j{number + 1}"] for number in range(CHAIN - 1)}
            body = {"name": "chain", "jobs": jobs, "dependencies": dependencies, "form": form}
            workflow = client.post("/workflows", json=body).json()["id"]
            query = "SELECT 1 FROM prominence_workflow WHERE id = %s AND ended_at IS NOT NULL"
            until(lambda workflow=workflow, query=query: stack.psql(query, workflow), 300, 0.2, "the chain ends")
            times = stack.psql(
                "SELECT started_at, ended_at FROM prominence_job WHERE workflow_id = %s ORDER BY id", workflow
            )
            hops = [after[0] - before[1] for before, after in itertools.pairwise(times)]
            rows.append(Row(f"from one job's end to its child's start, {form}", spread(hops, "s", 1), goal))
    return rows
