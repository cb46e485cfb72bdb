"""What is valid but not built yet is refused by name, and nothing else is."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from airflow_prominence.documents import parse_job, parse_workflow, unsupported, unsupported_workflow

JOB: dict[str, Any] = {"resources": {"cpus": 1, "memory": 1}, "tasks": [{"image": "busybox", "cmd": "date"}]}


def job(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(JOB), **changes}


def resources(**changes: Any) -> dict[str, Any]:
    return job(resources={"cpus": 1, "memory": 1, **changes})


def second_task(**changes: Any) -> dict[str, Any]:
    return job(tasks=[{"image": "busybox"}, {"image": "busybox", "cmd": "x", **changes}])


ONEDATA = {"type": "onedata", "mountpoint": "/data", "onedata": {"provider": "p", "token": "t"}}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (resources(nodes=2), "resources.nodes: more than one node is not supported yet"),
        (resources(totalCpusRange=[1, 2]), "resources.totalCpusRange: is not supported yet"),
        (
            job(policies={"placement": {"requirements": {"regions": ["A"]}}}),
            "policies.placement: is not supported yet",
        ),
        (job(policies={"autoScalingType": "dedicated"}), "policies.autoScalingType: is not supported yet"),
        (second_task(type="openmpi"), 'tasks[1].type: "openmpi" is not supported yet'),
        (second_task(type="mpich"), 'tasks[1].type: "mpich" is not supported yet'),
        (second_task(procsPerNode=1), "tasks[1].procsPerNode: is not supported yet"),
    ],
)
def test_not_yet(document: dict[str, Any], sentence: str) -> None:
    assert unsupported(parse_job(document)) == sentence


@pytest.mark.parametrize(
    "document",
    [
        JOB,
        job(
            name="all that runs",
            storage={**ONEDATA, "default": False},
            labels={"a": "b"},
            notifications=[{"event": "jobFinished", "type": "email"}],
            inputs=[{"filename": "f", "content": "", "executable": True}],
            resources={"cpus": 2, "memoryPerCpu": 1.5, "nodes": 1, "disk": 5, "walltime": 5},
            policies={
                "maximumRetries": 1,
                "maximumTaskRetries": 1,
                "maximumTimeInQueue": -1,
                "leaveInQueue": True,
                "priority": 1,
                "ignoreTaskFailures": True,
                "reportJobSuccessOnTaskFailure": True,
                "preemptible": True,
                "maximumIdleTimePerResource": 5,
            },
        ),
        job(storage={**ONEDATA, "default": True, "directory": "/space/out"}, outputFiles=["a"]),
        job(
            artifacts=[{"url": "x.tgz", "mountpoint": "x:/data", "executable": True}, {"url": "https://a.example/b"}],
            outputFiles=["out.txt", "*.dat"],
            outputDirs=["out"],
            notifications=[],
            policies={
                "leaveInQueue": False,
                "placement": {},
                "autoScalingType": "none",
                "preemptible": False,
                "maximumIdleTimePerResource": 0,
                "runSerialTasksOnAllNodes": False,
            },
        ),
        second_task(
            image="registry.example/a/b:1",
            runtime="udocker",
            env={"A": 1},
            workdir="/tmp",
            type="basic",
            stdout="logs/out.txt",
            imagePullCredential={"username": "u", "token": "t"},
        ),
        second_task(image="https://a.example/b.tar"),
        second_task(image="https://a.example/b.sif?x=1", imageSha256="a" * 64, app="a"),
        second_task(image="shub://a/b"),
        second_task(image="b.simg"),
        second_task(image="b.tar"),
        {**second_task(image="/data/b"), "storage": ONEDATA},
        second_task(type="sidecar"),
        resources(cpusRange=[1, 2]),
        job(resources={"cpusOptions": [2, 1], "memoryPerCpu": 1}),
    ],
)
def test_what_runs(document: dict[str, Any]) -> None:
    assert unsupported(parse_job(document)) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policies": {"placement": {"requirements": {"sites": ["A"]}}}}, "policies.placement: is not supported yet"),
        ({"policies": {"maximumReruns": 1}}, "policies.maximumReruns: is not supported yet"),
        (
            {"jobs": [job(name="a"), resources(nodes=2) | {"name": "b"}]},
            "jobs[1].resources.nodes: more than one node is not supported yet",
        ),
        ({"policies": {"maximumRetries": 2, "leaveInQueue": True}, "form": "compact"}, None),
    ],
)
def test_not_yet_in_workflows(changes: dict[str, Any], sentence: str | None) -> None:
    assert unsupported_workflow(parse_workflow({"jobs": [job(name="a")], **changes})) == sentence
