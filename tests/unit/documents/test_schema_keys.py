"""Each key of the schemas is validated and changes something: one good and one bad example for every single one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from airflow_prominence.documents import (
    DocumentError,
    DropInError,
    job_form_schema,
    parse_drop_in,
    parse_job,
    parse_workflow,
    schema,
    schema_bytes,
)

JOB: dict[str, Any] = {"resources": {"cpus": 4, "memory": 1}, "tasks": [{"image": "busybox", "cmd": "date"}]}
MPI: dict[str, Any] = {**JOB, "tasks": [{"image": "busybox", "cmd": "date", "type": "openmpi"}]}
FLOW: dict[str, Any] = {"jobs": [{**JOB, "name": "a"}, {**JOB, "name": "b"}]}


def storage(kind: str, **block: str) -> dict[str, Any]:
    return {**JOB, "storage": {"type": kind, "mountpoint": "/data", kind: block}}


B2DROP = storage("b2drop", **{"app-username": "u", "app-password": "p"})
ONEDATA = storage("onedata", provider="provider.example.org", token="t")
WEBDAV = storage("webdav", url="https://dav.example.org", username="u", password="p")
DEFAULT = {**JOB, "storage": {**WEBDAV["storage"], "default": True}}


def flow(**factory: Any) -> dict[str, Any]:
    return {**FLOW, "factories": [{"name": "f", "jobs": ["a"], **factory}]}


SWEEP = flow(type="parameterSweep", parameters=[{"name": "x", "start": 1, "end": 4, "step": 1}])
LINES = flow(type="parameterSweep", parameters=[{"name": "x", "start": 1, "end": 4, "number": 4}])
ZIP = flow(type="zip", parameters=[{"name": "x", "values": [1, 2]}])
REPEAT = flow(type="repeat", number=2)
OLD_REPEAT = flow(type="repeat", num=2)
OLD_SWEEP: dict[str, Any] = {
    **FLOW,
    "factory": {"type": "parametricSweep", "parameters": [{"name": "x", "start": 1, "end": 4, "step": 1}]},
}


@dataclass(frozen=True)
class Case:
    base: dict[str, Any]
    path: str
    good: Any
    bad: Any
    without: tuple[str, ...] = ()
    """Keys beside it that it excludes."""


JOB_CASES = {
    "name": Case(JOB, "name", "calculate-pi 1.0/x_y", "a;b"),
    "labels": Case(JOB, "labels", {"a": "b"}, ["a"]),
    "resources": Case(JOB, "resources", {"cpus": 2, "memory": 2}, "big"),
    "tasks": Case(JOB, "tasks", [{"image": "centos"}], []),
    "inputs": Case(JOB, "inputs", [{"filename": "f", "content": ""}], {"filename": "f"}),
    "artifacts": Case(JOB, "artifacts", [{"url": "data.tgz"}], "data.tgz"),
    "outputFiles": Case(JOB, "outputFiles", ["*.dat"], [1]),
    "outputDirs": Case(JOB, "outputDirs", ["out/"], "out"),
    "storage": Case(JOB, "storage", ONEDATA["storage"], "onedata"),
    "policies": Case(JOB, "policies", {"priority": 1}, []),
    "notifications": Case(JOB, "notifications", [{"event": "jobFinished", "type": "email"}], ["jobFinished"]),
    "resources.nodes": Case(JOB, "resources.nodes", 2, 0),
    "resources.cpus": Case(JOB, "resources.cpus", 2, True),
    "resources.cpusRange": Case(JOB, "resources.cpusRange", [2, 8], [8, 2]),
    "resources.cpusOptions": Case(JOB, "resources.cpusOptions", [8, 2], [8]),
    "resources.totalCpusRange": Case(MPI, "resources.totalCpusRange", [8, 16], [0, 4]),
    "resources.memory": Case(JOB, "resources.memory", 1.5, 0.5),
    "resources.memoryPerCpu": Case(JOB, "resources.memoryPerCpu", 2.0, "2", ("memory",)),
    "resources.disk": Case(JOB, "resources.disk", 20, 1.5),
    "resources.walltime": Case(JOB, "resources.walltime", 1, 44641),
    "task.image": Case(JOB, "tasks[0].image", "centos:7", "a b"),
    "task.runtime": Case(JOB, "tasks[0].runtime", "udocker", "docker"),
    "task.cmd": Case(JOB, "tasks[0].cmd", "echo hi", "echo 'hi"),
    "task.env": Case(JOB, "tasks[0].env", {"A": 1}, {"A": None}),
    "task.workdir": Case(JOB, "tasks[0].workdir", "/tmp", "../x"),
    "task.type": Case(JOB, "tasks[0].type", "mpich", "mpi"),
    "task.procsPerNode": Case(MPI, "tasks[0].procsPerNode", 4, 5),
    "task.imagePullCredential": Case(JOB, "tasks[0].imagePullCredential", {"username": "u", "token": "t"}, "a b"),
    "task.imageSha256": Case(JOB, "tasks[0].imageSha256", "A0" * 32, "A0"),
    "task.app": Case(JOB, "tasks[0].app", "solver", "--solver"),
    "task.stdout": Case(JOB, "tasks[0].stdout", "out.txt", "/out.txt"),
    "credential.username": Case(
        {**JOB, "tasks": [{"image": "x", "imagePullCredential": {"username": "u", "token": "t"}}]},
        "tasks[0].imagePullCredential.username",
        "v",
        "",
    ),
    "credential.token": Case(
        {**JOB, "tasks": [{"image": "x", "imagePullCredential": {"username": "u", "token": "t"}}]},
        "tasks[0].imagePullCredential.token",
        "v",
        7,
    ),
    "input.filename": Case({**JOB, "inputs": [{"filename": "f", "content": ""}]}, "inputs[0].filename", "g", "a/b"),
    "input.content": Case({**JOB, "inputs": [{"filename": "f", "content": ""}]}, "inputs[0].content", "aGk=", "aGk"),
    "input.executable": Case({**JOB, "inputs": [{"filename": "f", "content": ""}]}, "inputs[0].executable", True, 1),
    "artifact.url": Case({**JOB, "artifacts": [{"url": "x"}]}, "artifacts[0].url", "https://a.example/b", "ftp://a/b"),
    "artifact.mountpoint": Case({**JOB, "artifacts": [{"url": "x"}]}, "artifacts[0].mountpoint", "d:/data", "/data"),
    "artifact.executable": Case({**JOB, "artifacts": [{"url": "x"}]}, "artifacts[0].executable", True, "yes"),
    "placement.requirements": Case(JOB, "policies.placement.requirements", {"sites": ["A"]}, ["A"]),
    "placement.preferences": Case(JOB, "policies.placement.preferences", {"regions": ["A"]}, "A"),
    "placement.requirements.sites": Case(JOB, "policies.placement.requirements.sites", ["A"], "A"),
    "placement.requirements.regions": Case(JOB, "policies.placement.requirements.regions", ["A"], [1]),
    "placement.preferences.sites": Case(JOB, "policies.placement.preferences.sites", ["A"], {}),
    "placement.preferences.regions": Case(JOB, "policies.placement.preferences.regions", ["A"], [""]),
    "policies.maximumRetries": Case(JOB, "policies.maximumRetries", 6, 7),
    "policies.maximumTaskRetries": Case(JOB, "policies.maximumTaskRetries", 1, -1),
    "policies.maximumTimeInQueue": Case(JOB, "policies.maximumTimeInQueue", -1, -2),
    "policies.maximumIdleTimePerResource": Case(JOB, "policies.maximumIdleTimePerResource", 44640, 44641),
    "policies.leaveInQueue": Case(JOB, "policies.leaveInQueue", True, "true"),
    "policies.placement": Case(JOB, "policies.placement", {}, {"sites": []}),
    "policies.priority": Case(JOB, "policies.priority", 1, 1.5),
    "policies.autoScalingType": Case(JOB, "policies.autoScalingType", "shared", "some"),
    "policies.preemptible": Case(JOB, "policies.preemptible", True, "yes"),
    "policies.ignoreTaskFailures": Case(JOB, "policies.ignoreTaskFailures", True, 1),
    "policies.ignoreTaskTailures": Case(JOB, "policies.ignoreTaskTailures", True, 1),
    "policies.reportJobSuccessOnTaskFailure": Case(JOB, "policies.reportJobSuccessOnTaskFailure", True, None),
    "policies.runSerialTasksOnAllNodes": Case(JOB, "policies.runSerialTasksOnAllNodes", True, []),
    "storage.type": Case({**JOB, "storage": {**WEBDAV["storage"]}}, "storage.type", None, "nfs"),
    "storage.mountpoint": Case(ONEDATA, "storage.mountpoint", "/mnt/x", "mnt"),
    "storage.b2drop": Case(B2DROP, "storage.b2drop", {"app-username": "v", "app-password": "p"}, "u"),
    "storage.onedata": Case(ONEDATA, "storage.onedata", {"provider": "q", "token": "t"}, []),
    "storage.webdav": Case(
        WEBDAV, "storage.webdav", {"url": "http://x.example", "username": "u", "password": "p"}, None
    ),
    "storage.default": Case(ONEDATA, "storage.default", True, "yes"),
    "storage.directory": Case(DEFAULT, "storage.directory", "out/$PROMINENCE_JOB_ID", "../out"),
    "storage.b2drop.app-username": Case(B2DROP, "storage.b2drop.app-username", "v", ""),
    "storage.b2drop.app-password": Case(B2DROP, "storage.b2drop.app-password", "v", 1),
    "storage.onedata.provider": Case(ONEDATA, "storage.onedata.provider", "q", "-o"),
    "storage.onedata.token": Case(ONEDATA, "storage.onedata.token", "v", None),
    "storage.onedata.options": Case(ONEDATA, "storage.onedata.options", "--insecure", ["-i"]),
    "storage.webdav.url": Case(WEBDAV, "storage.webdav.url", "http://x.example", "dav.example.org"),
    "storage.webdav.username": Case(WEBDAV, "storage.webdav.username", "v", ""),
    "storage.webdav.password": Case(WEBDAV, "storage.webdav.password", "v", {}),
    "jobNotification.event": Case(
        {**JOB, "notifications": [{"event": "jobFinished", "type": "email"}]},
        "notifications[0].event",
        None,
        "workflowFinished",
    ),
    "jobNotification.type": Case(
        {**JOB, "notifications": [{"event": "jobFinished", "type": "email"}]}, "notifications[0].type", None, "sms"
    ),
}

WORKFLOW_CASES = {
    "name": Case(FLOW, "name", "w", "a\n"),
    "labels": Case(FLOW, "labels", {"a": "b"}, {"a": 1}),
    "jobs": Case(FLOW, "jobs", [{**JOB, "name": "c"}], []),
    "dependencies": Case(FLOW, "dependencies", {"a": ["b"]}, {"a": "b"}),
    "factories": Case(FLOW, "factories", REPEAT["factories"], {}),
    "factory": Case(FLOW, "factory", OLD_SWEEP["factory"], []),
    "policies": Case(FLOW, "policies", {"maximumRetries": 1}, {"priority": 1}),
    "notifications": Case(FLOW, "notifications", [{"event": "workflowFinished", "type": "email"}], "email"),
    "form": Case(FLOW, "form", "phases", "array"),
    "workflowPolicies.maximumRetries": Case(FLOW, "policies.maximumRetries", 10, 11),
    "workflowPolicies.maximumReruns": Case(FLOW, "policies.maximumReruns", 10, 11),
    "workflowPolicies.leaveInQueue": Case(FLOW, "policies.leaveInQueue", True, 0),
    "workflowPolicies.placement": Case(FLOW, "policies.placement", {"requirements": {"sites": ["A"]}}, {"sites": 1}),
    "workflowNotification.event": Case(
        {**FLOW, "notifications": [{"event": "workflowFinished", "type": "email"}]},
        "notifications[0].event",
        None,
        "jobFinished",
    ),
    "workflowNotification.type": Case(
        {**FLOW, "notifications": [{"event": "workflowFinished", "type": "email"}]},
        "notifications[0].type",
        None,
        "sms",
    ),
    "factory.name": Case(REPEAT, "factories[0].name", "g", ""),
    "factory.type": Case(REPEAT, "factories[0].type", None, "random"),
    "factory.jobs": Case(REPEAT, "factories[0].jobs", ["b"], ["zz"]),
    "factory.parameters": Case(ZIP, "factories[0].parameters", [{"name": "y", "values": [1]}], []),
    "factory.number": Case(REPEAT, "factories[0].number", 3, 0),
    "factory.num": Case(OLD_REPEAT, "factories[0].num", 3, "3"),
    "legacyFactory.name": Case(OLD_SWEEP, "factory.name", "g", 1),
    "legacyFactory.type": Case(OLD_SWEEP, "factory.type", None, "zip"),
    "legacyFactory.parameters": Case(
        OLD_SWEEP, "factory.parameters", [{"name": "y", "start": 0, "end": 1, "step": 1}], "x"
    ),
    "parameter.name": Case(SWEEP, "factories[0].parameters[0].name", "y", "1y"),
    "parameter.start": Case(SWEEP, "factories[0].parameters[0].start", 0.5, "0"),
    "parameter.end": Case(SWEEP, "factories[0].parameters[0].end", 9, 0),
    "parameter.step": Case(SWEEP, "factories[0].parameters[0].step", 0.5, 0),
    "parameter.number": Case(LINES, "factories[0].parameters[0].number", 7, 1.5),
    "parameter.values": Case(ZIP, "factories[0].parameters[0].values", ["a", 2.5, True], [None]),
}

DROPPED: dict[str, Any] = {**JOB, "airflow": {"owner": "demo", "schedule": "@daily", "start_date": "2026-01-01"}}
AIRFLOW_CASES = {
    "owner": Case(DROPPED, "airflow.owner", "ann", ""),
    "dag_id": Case(DROPPED, "airflow.dag_id", "a.b-c_d", "a b"),
    "description": Case(DROPPED, "airflow.description", "Each day.", 5),
    "schedule": Case(DROPPED, "airflow.schedule", "0 6 * * *", "sometimes"),
    "start_date": Case(DROPPED, "airflow.start_date", "2026-01-02T03:04:05Z", "2026-13-01"),
    "end_date": Case(DROPPED, "airflow.end_date", "2026-02-01", 2026),
    "catchup": Case(DROPPED, "airflow.catchup", True, "yes"),
    "deadline": Case(DROPPED, "airflow.deadline", "PT1H", 0),
    "params": Case(DROPPED, "airflow.params", {"x": 1}, {"1x": 1}),
    "tags": Case(DROPPED, "airflow.tags", ["a"], "a"),
}

# Types and events that have one accepted value in their context: a good value is the one the base has
ONE_VALUE = {name for cases in (JOB_CASES, WORKFLOW_CASES) for name, case in cases.items() if case.good is None}


def keys_of(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, child in node.get("properties", {}).items():
        yield prefix + key
        yield from keys_of(child, f"{prefix}{key}.")


def schema_keys(document: dict[str, Any], skip: frozenset[str] = frozenset()) -> set[str]:
    keys = set(keys_of(document))
    for name, definition in document["$defs"].items():
        if name not in skip:
            keys.update(keys_of(definition, f"{name}."))
    return keys


def put(document: dict[str, Any], path: str, value: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    *parents, last = path.replace("[", ".[").split(".")
    holder: Any = changed
    for part in parents:
        holder = holder[int(part[1:-1])] if part.startswith("[") else holder.setdefault(part, {})
    holder[last] = value
    for key in without:
        del holder[key]
    return changed


def test_every_key_of_the_job_has_its_examples() -> None:
    assert schema_keys(schema("job")) == set(JOB_CASES)


def test_every_key_of_the_workflow_has_its_examples() -> None:
    of_job = frozenset({"job", *schema("job")["$defs"]})
    assert schema_keys(schema("workflow"), skip=of_job) == set(WORKFLOW_CASES)


@pytest.mark.parametrize("key", sorted(set(JOB_CASES) - ONE_VALUE))
def test_a_key_of_a_job_changes_something(key: str) -> None:
    case = JOB_CASES[key]
    assert parse_job(put(case.base, case.path, case.good, case.without)) != parse_job(case.base)


@pytest.mark.parametrize("key", sorted(set(WORKFLOW_CASES) - ONE_VALUE))
def test_a_key_of_a_workflow_changes_something(key: str) -> None:
    case = WORKFLOW_CASES[key]
    assert parse_workflow(put(case.base, case.path, case.good)) != parse_workflow(case.base)


@pytest.mark.parametrize("key", sorted(JOB_CASES))
def test_a_key_of_a_job_is_checked(key: str) -> None:
    case = JOB_CASES[key]
    with pytest.raises(DocumentError) as refusal:
        parse_job(put(case.base, case.path, case.bad, case.without))
    assert refusal.value.path.startswith(case.path), refusal.value


@pytest.mark.parametrize("key", sorted(JOB_CASES))
def test_a_key_of_a_job_is_checked_inside_a_workflow(key: str) -> None:
    case = JOB_CASES[key]
    job = {**put(case.base, case.path, case.bad, case.without)}
    job.setdefault("name", "a")
    with pytest.raises(DocumentError) as refusal:
        parse_workflow({"jobs": [{**JOB, "name": "first"}, job]})
    assert refusal.value.path.startswith(f"jobs[1].{case.path}"), refusal.value


@pytest.mark.parametrize("key", sorted(WORKFLOW_CASES))
def test_a_key_of_a_workflow_is_checked(key: str) -> None:
    case = WORKFLOW_CASES[key]
    with pytest.raises(DocumentError) as refusal:
        parse_workflow(put(case.base, case.path, case.bad))
    assert refusal.value.path.startswith(case.path), refusal.value


def test_every_key_of_the_block_airflow_has_its_examples() -> None:
    assert set(keys_of(schema("airflow"))) == set(AIRFLOW_CASES)


@pytest.mark.parametrize("key", sorted(AIRFLOW_CASES))
def test_a_key_of_the_block_airflow_changes_something(key: str) -> None:
    case = AIRFLOW_CASES[key]
    changed = parse_drop_in(json.dumps(put(case.base, case.path, case.good)), "a.json")
    assert changed != parse_drop_in(json.dumps(case.base), "a.json")


@pytest.mark.parametrize("key", sorted(AIRFLOW_CASES))
def test_a_key_of_the_block_airflow_is_checked(key: str) -> None:
    case = AIRFLOW_CASES[key]
    with pytest.raises(DropInError) as refusal:
        parse_drop_in(json.dumps(put(case.base, case.path, case.bad)), "a.json")
    assert refusal.value.path.startswith(case.path), refusal.value


def objects_of(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield node
        for key, child in node.items():
            if key not in {"if", "then"}:
                yield from objects_of(child)
    elif isinstance(node, list):
        for child in node:
            yield from objects_of(child)


@pytest.mark.parametrize("kind", ["job", "workflow", "airflow"])
class TestSchemaFiles:
    def test_is_a_schema(self, kind: Any) -> None:
        Draft202012Validator.check_schema(schema(kind))
        assert json.loads(schema_bytes(kind)) == schema(kind)

    def test_is_closed_at_every_level(self, kind: Any) -> None:
        for node in objects_of(schema(kind)):
            assert node.get("additionalProperties", True) is not True, node.get("title")

    def test_needs_no_other_file(self, kind: Any) -> None:
        text = schema_bytes(kind).decode()
        assert text.count('"$ref": "') == text.count('"$ref": "#/$defs/')

    def test_every_key_is_described(self, kind: Any) -> None:
        for node in objects_of(schema(kind)):
            for key, child in node.get("properties", {}).items():
                described = schema(kind)["$defs"][child["$ref"].rpartition("/")[2]] if "$ref" in child else child
                assert described["title"], key
                assert described["description"], key

    def test_defaults_are_valid(self, kind: Any) -> None:
        for node in objects_of(schema(kind)):
            for key, child in node.get("properties", {}).items():
                if "default" in child:
                    Draft202012Validator({**child, "$defs": schema(kind).get("$defs", {})}).validate(child["default"])
                    assert not isinstance(child["default"], dict), key


def test_the_workflow_holds_the_same_job() -> None:
    job, workflow = schema("job"), schema("workflow")
    definitions = job.pop("$defs")
    del job["$schema"]
    assert workflow["$defs"]["job"] == job
    assert {name: workflow["$defs"][name] for name in definitions} == definitions


def test_the_form_asks_for_no_secret() -> None:
    form = json.dumps(job_form_schema())
    Draft202012Validator.check_schema(job_form_schema())
    for word in ("imagePullCredential", "password", "token", "storage", "credential"):
        assert word not in form.replace("images on attached storage", "").replace("path on attached storage", "")
    assert not list(Draft202012Validator(job_form_schema()).iter_errors(JOB))
