"""`make screenshots`: pictures of the Airflow UI as it is on a running stack, with jobs that it starts for them."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from airflow_prominence.dags.names import JOB_DAG_ID, WORKFLOW_DAG_ID
from airflow_prominence.standalone.control import read_env
from airflow_prominence.standalone.places import Places
from tests.browser.airflow_ui import AirflowUi, Page, run_page
from tests.browser.programs import Missing
from tests.integration.airflows import Airflow

Take = Callable[[str], None]
"""Take a picture, of this name, of what the window shows."""


def pictures_of_jobs(ui: AirflowUi, airflow: Airflow, image: str, take: Take) -> Iterator[tuple[str, Page]]:
    """The trigger form, a run that went well and one that did not."""
    runs = []
    for name, script in (("hello", "echo hello; sleep 3"), ("exit-3", "echo it is not there >&2; exit 3")):
        document = {
            "name": name,
            "resources": {"cpus": 1, "memory": 1, "disk": 1},
            "tasks": [{"image": image, "runtime": "singularity", "cmd": f"sh -c '{script}'"}],
        }
        ui.form(JOB_DAG_ID)
        ui.paste(json.dumps(document))
        if not runs:
            take("job-trigger-form")
        runs.append(ui.press_trigger())
    well, badly = runs
    for run in runs:
        airflow.ended(run)
    yield "job-grid", run_page(JOB_DAG_ID, well, view="grid", until="Success")
    yield "job-gantt", run_page(JOB_DAG_ID, well, view="gantt", until="Success")
    yield "job-graph", run_page(JOB_DAG_ID, well, view="graph")
    yield "job-log", run_page(JOB_DAG_ID, well, "run", "grid", "trigger completed")
    yield "failed-job-graph", run_page(JOB_DAG_ID, badly, view="graph")
    yield "failed-job-log", run_page(JOB_DAG_ID, badly, "run", "grid", "trigger completed")
    yield "dags", Page("/dags", until=JOB_DAG_ID)


def pictures_of_workflows(ui: AirflowUi, airflow: Airflow, image: str, take: Take) -> Iterator[tuple[str, Page]]:
    """The trigger form of any workflow, and one that scatters and gathers: its graph, its grid, its code."""

    def job(name: str, cmd: str, **more: object) -> dict[str, object]:
        task = {"image": image, "runtime": "singularity", "cmd": cmd}
        return {"name": name, "resources": {"cpus": 1, "memory": 1, "disk": 1}, "tasks": [task], **more}

    points = {"name": "n", "start": 1, "end": 4, "step": 1}
    document = {
        "name": "scatter-gather",
        "labels": {"campaign": "demo"},
        "jobs": [
            job("prepare", "echo prepared", outputFiles=[]),
            job("square", "echo $n"),
            job("check", "false"),
            job("sum up", "echo gathered"),
            job("publish", "echo never"),
        ],
        "factories": [{"name": "points", "type": "parameterSweep", "jobs": ["square"], "parameters": [points]}],
        "dependencies": {"prepare": ["square", "check"], "square": ["sum up"], "check": ["publish"]},
    }
    ui.form(WORKFLOW_DAG_ID)
    ui.paste(json.dumps(document))
    take("workflow-trigger-form")
    airflow.of(WORKFLOW_DAG_ID).ended(ui.press_trigger())
    dag_id = airflow.newest_workflow()
    run_id = dag_id.partition(".")[0]
    yield "workflow-grid", run_page(dag_id, run_id, view="grid", until="Failed")
    yield "workflow-graph", run_page(dag_id, run_id, view="graph")
    yield "workflow-log", run_page(dag_id, run_id, "check.run", "grid", "trigger completed")
    yield "workflow-code", Page(f"/dags/{dag_id}/code", until="scatter-gather")
    yield "workflow-dags", Page("/dags", until=dag_id)


SETS = (pictures_of_jobs, pictures_of_workflows)


def wanted(text: str) -> tuple[str, Page]:
    """A picture asked for on the command line, ``NAME:PATH`` or ``NAME:PATH:VIEW``."""
    name, _, path = text.partition(":")
    view = next((view for view in ("grid", "graph", "gantt") if path.endswith(f":{view}")), "")
    if not name or not path.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text}: is not NAME:PATH or NAME:PATH:VIEW")
    return name, Page(path.removesuffix(f":{view}"), view)


def main() -> int:
    """Take them all; one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="of the running stack")
    parser.add_argument("--to", type=Path, default=Path("docs/screenshots"), help="folder of the pictures")
    parser.add_argument("more", nargs="*", type=wanted, help="NAME:PATH[:VIEW] of pages to take instead")
    given = parser.parse_args()
    env = read_env(Places.of(given.home).env_file)
    given.to.mkdir(parents=True, exist_ok=True)
    login = {"username": env["AIRFLOW_USER"], "password": env["AIRFLOW_PASSWORD"]}
    with (
        httpx.Client(base_url=env["AIRFLOW_URL"], timeout=30, trust_env=False) as http,
        contextlib.closing(AirflowUi(env["AIRFLOW_URL"], env["AIRFLOW_USER"], env["AIRFLOW_PASSWORD"])) as ui,
    ):

        def take(name: str) -> None:
            path = given.to / f"{name}.png"
            ui.screenshot(path)
            print(f"  {path}: {path.stat().st_size // 1000} kB", flush=True)

        answer = http.post("/auth/token", json=login).raise_for_status()
        http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        airflow = Airflow(http)
        sets = [given.more] if given.more else [make(ui, airflow, env["PROMINENCE_DEMO_IMAGE"], take) for make in SETS]
        for pages in sets:
            for name, page in pages:
                ui.show(page)
                take(name)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Missing as missing:
        sys.exit(f"{missing} (apt-get install nodejs npm chromium)")
