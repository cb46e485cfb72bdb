"""From a document in the folder to the DAG as Airflow has it, by way of its stub."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

from airflow_prominence.dags.bundles import DropInBundle

FLOW = """\
airflow:
  owner: demo
  schedule: PT6H
  start_date: 2026-11-01
  end_date: 2026-12-01
  catchup: true
  deadline: PT2H
  params: {n: 3, who: world}
  tags: [nightly]
name: greetings
labels: {kind: test}
jobs:
- {name: a, resources: {cpus: 1, memory: 1}, tasks: [{image: busybox, cmd: echo $who}]}
- {name: b, resources: {cpus: 1, memory: 1}, tasks: [{image: busybox, cmd: echo $n}]}
dependencies: {a: [b]}
"""


def bag_of(tmp_path: Path, **files: str) -> DagBag:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    bundle = DropInBundle(name="documents", documents=str(folder), stubs=str(tmp_path / "stubs"))
    bundle.initialize()
    return DagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name="documents")


def test_the_dag_of_a_document(tmp_path: Path) -> None:
    bag = bag_of(tmp_path, sweep=FLOW)
    assert not bag.import_errors
    made: Any = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(bag.dags["sweep"]))))
    assert set(made.tags) == {"prominence", "demo", "greetings", "kind=test", "nightly"}
    assert made.timetable.summary == "6:00:00"
    assert made.start_date == dt.datetime(2026, 11, 1, tzinfo=dt.timezone.utc)
    assert made.end_date == dt.datetime(2026, 12, 1, tzinfo=dt.timezone.utc)
    assert made.catchup is True
    assert made.max_active_runs == 16
    assert made.is_paused_upon_creation is False
    assert made.params.dump() == {"n": 3, "who": "world"}
    assert made.get_task("a.run").owner == "demo"
    assert "a.run" in made.get_task("b.begin").upstream_task_ids
    embedded = json.loads(made.get_task("outcome").doc_json)
    assert (embedded["owner"], embedded["params"]) == ("demo", {"n": 3, "who": "world"})
    assert [job["name"] for job in embedded["workflow"]["jobs"]] == ["a", "b"]
    assert "airflow" not in embedded["workflow"]
    (alert,) = bag.dags["sweep"].deadline
    assert alert.interval == dt.timedelta(hours=2)
    assert bag.dags["sweep"].fileloc == str(tmp_path / "stubs" / "sweep.yaml.py")


def test_a_broken_document_is_an_error_of_its_own(tmp_path: Path) -> None:
    bag = bag_of(tmp_path, good=FLOW, bad=FLOW.replace("cpus: 1", "cpus: 0", 1))
    assert list(bag.dags) == ["good"]
    ((file, said),) = bag.import_errors.items()
    assert Path(file).name == "bad.yaml.py"
    assert said.strip().endswith("Refused: bad.yaml, line 13: jobs[0].resources.cpus: must be at least 1")
    # No line of the program's own inside but the one that says it
    assert said.count("File ") <= 2


def test_without_a_schedule_as_many_runs_as_one_likes(tmp_path: Path) -> None:
    lines = [line for line in FLOW.splitlines() if not line.startswith(("  schedule", "  catchup"))]
    (dag,) = bag_of(tmp_path, plain="\n".join(lines)).dags.values()
    assert dag.max_active_runs > 1000
    assert dag.schedule is None


def test_limits_are_the_installations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PROMINENCE__MAX_CPUS", "2")
    (said,) = bag_of(tmp_path, big=FLOW.replace("cpus: 1", "cpus: 3", 1)).import_errors.values()
    assert "big.yaml, line 13: jobs[0].resources.cpus: must be at most 2" in said


async def test_a_late_run_is_said(caplog: pytest.LogCaptureFixture) -> None:
    from airflow_prominence.triggers.deadline import run_is_late

    run = {"dag_run_id": "manual__1", "dag_id": "sweep", "state": "running"}
    said = await run_is_late({"dag_run": run, "deadline": {"id": "x", "deadline_time": "2026-11-26 07:00:00+00:00"}})
    assert said == "Run manual__1 of DAG sweep is late: it was due at 2026-11-26 07:00:00+00:00 and is running"
    assert said in caplog.text
