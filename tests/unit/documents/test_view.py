"""Documents are shown with the defaults the client relies on, and stay as valid as they were."""

from __future__ import annotations

import copy
from typing import Any

from airflow_prominence.documents import normalise, normalise_workflow, parse_job, parse_workflow

JOB: dict[str, Any] = {"resources": {"cpus": 1, "memory": 8.0}, "tasks": [{"image": "busybox"}, {"image": "x.tar"}]}


def test_a_job() -> None:
    before = copy.deepcopy(JOB)
    shown = normalise(JOB)
    assert before == JOB
    assert shown == {
        "name": "",
        "resources": {"cpus": 1, "memory": 8.0, "nodes": 1, "disk": 10},
        "tasks": [{"image": "busybox", "runtime": "singularity"}, {"image": "x.tar", "runtime": "udocker"}],
    }
    assert normalise(shown) == shown
    assert parse_job(shown) == parse_job(JOB)


def test_what_the_ranges_decide_is_not_shown_beside_them() -> None:
    sent = {
        "resources": {"cpus": 1, "nodes": 1, "cpusRange": [4, 8], "totalCpusRange": [16, 32], "memory": 1},
        "tasks": [{"image": "busybox", "runtime": "udocker"}],
        "policies": {"ignoreTaskTailures": True},
    }
    shown = normalise(sent)
    assert shown["resources"] == {"cpusRange": [4, 8], "totalCpusRange": [16, 32], "memory": 1, "disk": 10}
    assert shown["policies"] == {"ignoreTaskFailures": True}
    assert parse_job(shown) == parse_job(sent)


def test_a_workflow() -> None:
    sent = {
        "jobs": [{**JOB, "name": "a"}, {**JOB, "name": "b"}],
        "factory": {"type": "parametricSweep", "parameters": [{"name": "x", "start": 1, "end": 2, "step": 1}]},
    }
    shown = normalise_workflow(sent)
    assert shown["factories"] == [
        {
            "name": "factory",
            "jobs": ["a", "b"],
            "type": "parameterSweep",
            "parameters": [{"name": "x", "start": 1, "end": 2, "step": 1}],
        }
    ]
    assert "factory" not in shown
    assert shown["jobs"][0] == {**normalise(JOB), "name": "a"}
    assert parse_workflow(shown) == parse_workflow(sent)
    repeated = {"jobs": sent["jobs"], "factories": [{"name": "f", "type": "repeat", "num": 2, "jobs": ["a"]}]}
    assert normalise_workflow(repeated)["factories"] == [{"name": "f", "type": "repeat", "number": 2, "jobs": ["a"]}]
