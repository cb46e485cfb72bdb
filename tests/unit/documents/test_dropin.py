"""Files of the folder of documents: what they say, and refusals that name file, line and path."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.documents import (
    DocumentError,
    DropInError,
    Limits,
    dag_id_of,
    expand,
    is_drop_in,
    parse_drop_in,
    parse_workflow,
    put_in,
    values_of_run,
)

UTC = dt.timezone.utc

SWEEP = """\
# A sweep every day
name: sweep
airflow:
  owner: demo
  schedule: "@daily"
  start_date: 2026-01-01
  params:
    n: 3
    who: a b
jobs:
- name: one
  resources: {cpus: 1, memory: 1}
  tasks:
  - image: busybox
    cmd: echo $n $who $$x ${ds} $HOME
    env: {DAY: $ds, SIZE: 5}
  artifacts: [{url: "https://example.org/$ds/in.dat"}]
  outputFiles: ["out-$n"]
- name: two
  resources:
    cpus: 1
    memory: 1
  tasks: [{image: busybox, cmd: "echo $p $n $$ds"}]
factories: [{name: f, type: zip, jobs: [two], parameters: [{name: p, values: [1, 2]}]}]
"""
JOB: dict[str, Any] = {
    "airflow": {"owner": "demo"},
    "name": "hello",
    "labels": {"kind": "test"},
    "resources": {"cpus": 1, "memory": 1},
    "tasks": [{"image": "busybox"}],
}


def job(**airflow: Any) -> str:
    return json.dumps({**JOB, "airflow": {"owner": "demo", **airflow}})


def refusal(text: str, file: str = "sweep.yaml") -> str:
    with pytest.raises(DropInError) as refused:
        parse_drop_in(text, file)
    return str(refused.value)


def test_a_workflow_with_everything() -> None:
    found = parse_drop_in(
        SWEEP.replace("owner: demo", "owner: demo\n  dag_id: x.y\n  tags: [a, b, a]\n  catchup: true")
        .replace("start_date", "description: Each day.\n  end_date: 2026-02-01T12:00:00+02:00\n  start_date")
        .replace('"@daily"', "PT6H30M"),
        "sweep.yaml",
    )
    assert found.dag_id == "x.y"
    assert found.owner == "demo"
    assert found.description == "Each day."
    assert found.schedule == dt.timedelta(hours=6, minutes=30)
    assert found.start_date == dt.datetime(2026, 1, 1, tzinfo=UTC)
    assert found.end_date == dt.datetime(2026, 2, 1, 10, tzinfo=UTC)
    assert found.catchup is True
    assert found.params == {"n": 3, "who": "a b"}
    assert found.tags == ("a", "b")
    assert "airflow" not in found.document
    assert parse_workflow(found.document) == found.workflow
    assert [made.key for made in expand(found.workflow)] == ["one", "two/0", "two/1"]


def test_a_job_is_a_workflow_of_that_one() -> None:
    found = parse_drop_in(json.dumps(JOB), "sub/some job.json")
    assert (found.dag_id, found.workflow.name, found.workflow.labels) == ("sub.some-job", "hello", {"kind": "test"})
    assert [made.name for made in found.workflow.jobs] == ["hello"]
    assert (found.schedule, found.start_date, found.catchup, found.params) == (None, None, False, {})
    unnamed = {key: part for key, part in JOB.items() if key != "name"}
    found = parse_drop_in(json.dumps(unnamed), "plain.json")
    assert (found.workflow.name, [made.name for made in found.workflow.jobs]) == ("plain", ["job"])


@pytest.mark.parametrize("schedule", ["0 6 * * 1-5", "@weekly", "P1D", "PT90S", None])
def test_schedules(schedule: str | None) -> None:
    found = parse_drop_in(job(schedule=schedule, start_date="2026-01-01"), "a.json").schedule
    durations = {"P1D": dt.timedelta(days=1), "PT90S": dt.timedelta(seconds=90)}
    assert found == durations.get(schedule or "", schedule)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("    cpus: 1\n", "    cpus: 0\n", "sweep.yaml, line 21: jobs[1].resources.cpus: must be at least 1"),
        ("    cpus: 1\n", "", "sweep.yaml, line 20: jobs[1].resources: must give cpus, cpusRange or cpusOptions"),
        ("owner", "ownr", "sweep.yaml, line 4: airflow.ownr: is not a known key (did you mean owner?)"),
        ("  owner: demo\n", "", "sweep.yaml, line 3: airflow.owner: is missing"),
        ('owner: demo\n', 'owner: " "\n', "sweep.yaml, line 4: airflow.owner: is not a user's name"),
        ("n: 3", "ds: 3", "sweep.yaml, line 8: airflow.params.ds: has a reserved name: $ds is the date of the run"),
        ("n: 3", "p: 3", "sweep.yaml, line 8: airflow.params.p: has the name of a factory's parameter"),
        ("n: 3", "n: [3]", "sweep.yaml, line 8: airflow.params.n: must be a string or a number, not a list"),
        ("n: 3", "PROMINENCE_X: 3",
         "sweep.yaml, line 8: airflow.params.PROMINENCE_X: cannot start with PROMINENCE_, which is reserved"),
        ("n: 3", "n: /../x",
         ("sweep.yaml, line 18: jobs[0].outputFiles[0]: must not contain .. as a part of the path "
         "(with the defaults of airflow.params)")),
        ("2026-01-01", "tomorrow",
         ('sweep.yaml, line 6: airflow.start_date: "tomorrow" is neither a date nor a date and time by ISO 8601, '
         "such as 2026-11-26T18:00:00Z")),
        ("  start_date: 2026-01-01\n", "",
         "sweep.yaml, line 3: airflow.start_date: is missing: a schedule needs it"),
        ("start_date: 2026-01-01", "start_date: 2026-01-01\n  end_date: 2025-12-31",
         "sweep.yaml, line 7: airflow.end_date: must not be before start_date"),
        ("start_date", "deadline: 0\n  start_date", "sweep.yaml, line 6: airflow.deadline: must be at least 1"),
        ("start_date", "deadline: PT\n  start_date",
         'sweep.yaml, line 6: airflow.deadline: "PT" is not an ISO 8601 duration longer than nothing, such as PT6H'),
        ("start_date", "deadline: 99999999999999\n  start_date",
         "sweep.yaml, line 6: airflow.deadline: is too long a time: the limit is 36525 days"),
        ("image: busybox\n", "image: busybox\n    type: openmpi\n",
         'sweep.yaml, line 15: jobs[0].tasks[0].type: "openmpi" is not supported yet'),
        ("owner: demo", "owner: demo\n  dag_id: prominence_job",
         ('sweep.yaml, line 5: airflow.dag_id: cannot be "prominence_job", which is a name of PROMINENCE\'s own: '
         "give another")),
        ("jobs:", "notifications: [{event: workflowFinished, type: email}]\njobs:",
         ("sweep.yaml, line 10: notifications: are not supported in a file yet: it does not say where its owner gets "
         "letters")),
    ],
)  # fmt: skip
def test_refusals_name_the_line(old: str, new: str, sentence: str) -> None:
    assert old in SWEEP
    assert refusal(SWEEP.replace(old, new, 1)) == sentence


@pytest.mark.parametrize(
    "schedule", ["* * * *", "61 * * * *", "@fortnightly", "P", "PT", "P1Y", "PT0S", "every day", "* * * * * *", "P1DT"]
)
def test_bad_schedules(schedule: str) -> None:
    assert refusal(job(schedule=schedule, start_date="2026-01-01"), "a.json").startswith(
        "a.json, line 1: airflow.schedule: "
    )


@pytest.mark.parametrize("deadline", [90, "PT1M30S"])
def test_deadlines(deadline: int | str) -> None:
    assert parse_drop_in(job(deadline=deadline), "a.json").deadline == dt.timedelta(seconds=90)


def test_catching_up_needs_a_schedule() -> None:
    assert refusal(job(catchup=True), "a.json") == "a.json, line 1: airflow.catchup: needs a schedule"


def test_a_job_is_refused_by_its_own_paths() -> None:
    wrong = json.dumps({**JOB, "resources": {"cpus": 0, "memory": 1}}, indent=1)
    line = wrong.split("\n").index('  "cpus": 0,') + 1
    assert refusal(wrong, "a.json") == f"a.json, line {line}: resources.cpus: must be at least 1"
    slashed = json.dumps({**JOB, "name": "a/b"})
    assert refusal(slashed, "a.json") == "a.json, line 1: name: must not contain / in a workflow"


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"tasks": [{"image": "busybox", "imagePullCredential": {"username": "u", "token": "hunter2"}}]},
         ("tasks[0].imagePullCredential.username: is a secret, which has no place in a file: name an Airflow connection"
         " as imagePullCredential")),
        # Whatever else is wrong with it
        ({"nonsense": 1, "storage": {"type": "webdav", "mountpoint": "/x", "webdav": {"password": "hunter2"}}},
         ("storage.webdav.password: is a secret, which has no place in a file: storage accounts are not supported here "
         "yet")),
    ],
)  # fmt: skip
def test_secrets_have_no_place_in_a_file(part: dict[str, Any], sentence: str) -> None:
    said = refusal(json.dumps({**JOB, **part}), "a.json")
    assert said == f"a.json, line 1: {sentence}"
    assert "hunter2" not in said


def test_a_connection_for_a_registry_may_be_named() -> None:
    tasks = [{"image": "busybox", "imagePullCredential": "gitlab_robot"}]
    assert parse_drop_in(json.dumps({**JOB, "tasks": tasks}), "a.json").workflow.jobs[0].tasks[0].connection


def test_limits_of_the_installation() -> None:
    with pytest.raises(DropInError, match=r"^a\.json, line 1: resources\.cpus: must be at most 4$"):
        parse_drop_in(json.dumps({**JOB, "resources": {"cpus": 8, "memory": 1}}), "a.json", Limits(max_cpus=4))


def test_the_error_survives_being_sent() -> None:
    error = DropInError("a.yaml", 3, "jobs", "is missing")
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), sent.line, sent.file) == ("a.yaml, line 3: jobs: is missing", 3, "a.yaml")


@pytest.mark.parametrize(
    ("text", "file", "dag_id"),
    [
        ("airflow: {dag_id: x}", "a.yaml", "x"),
        ("airflow: {owner: x}", "a.b.yaml", "a.b"),
        ("airflow: {dag_id: 5}", "a.YML", "a"),
        ("[1]", "sub/dir/a.yaml", "sub.dir.a"),
        ("a: [", "a.yaml", None),
        ("a: 1", "éè.yaml", None),
    ],
)
def test_which_dag_a_file_makes(text: str, file: str, dag_id: str | None) -> None:
    assert dag_id_of(text, file) == dag_id


def test_which_files_are_looked_at() -> None:
    names = ["a.json", "b.yaml", "c.YML", "d.txt", ".e.yaml", "~f.json", "g.yaml~", "yaml"]
    assert [name for name in names if is_drop_in(name)] == ["a.json", "b.yaml", "c.YML"]


def test_values_of_a_run_are_put_in() -> None:
    values = {"n": "3", "who": "it's $n; b", "ds": "2026-01-02"}
    document = parse_drop_in(SWEEP, "sweep.yaml").document
    one, *twos = expand(parse_workflow(put_in(document, values, dollars=True)))
    task = one.job.tasks[0]
    assert task.cmd == """echo 3 'it'"'"'s $n; b' '$x' 2026-01-02 '$HOME'"""
    parameters = {
        "PROMINENCE_PARAMETER_n": "3",
        "PROMINENCE_PARAMETER_who": "it's $n; b",
        "PROMINENCE_PARAMETER_ds": "2026-01-02",
    }
    assert task.env == {"DAY": "2026-01-02", "SIZE": "5", **parameters}
    assert one.job.artifacts[0].url == "https://example.org/2026-01-02/in.dat"
    assert one.job.output_files == ("out-3",)
    # A template gets the run's values first and its factory's then: neither reads what the other has put in
    assert [two.job.tasks[0].cmd for two in twos] == ["echo 1 3 $ds", "echo 2 3 $ds"]
    assert [dict(two.job.tasks[0].env) for two in twos] == [parameters, parameters]
    assert document == parse_drop_in(SWEEP, "sweep.yaml").document


def test_dollars_stay_where_no_parameters_are() -> None:
    document = parse_drop_in(job(), "a.json").document
    document = {**document, "jobs": [{**document["jobs"][0], "tasks": [{"image": "x", "cmd": "sh -c 'echo $$ $ds'"}]}]}
    (task,) = put_in(document, {"ds": "2026-01-02"}, dollars=False)["jobs"][0]["tasks"]
    assert task["cmd"] == "sh -c 'echo $$ 2026-01-02'"


@pytest.mark.parametrize(("file", "taken"), [("workflow-7.json", True), ("workflow-7.x.json", True),
                                             ("workflow-7b.json", False), ("workflow.json", False)])  # fmt: skip
def test_ids_that_the_rest_interface_gives(file: str, taken: bool) -> None:
    if taken:
        assert "airflow.dag_id: cannot be" in refusal(job(), file)
    else:
        assert parse_drop_in(job(), file).dag_id == file[:-5]


def test_values_of_a_run() -> None:
    at = dt.datetime(2026, 11, 27, 1, 30, 15, 999, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    values = values_of_run({"a": 1, "b": "x", "c": 2.5}, {"b": "y $a", "c": 3.0, "other": [1]}, at)
    assert values == {
        "a": "1",
        "b": "y $a",
        "c": "3",
        "logical_date": "2026-11-26T23:30:15+00:00",
        "ds": "2026-11-26",
    }


@pytest.mark.parametrize("value", [True, None, [1], {"x": 1}, float("nan"), "\0"])
def test_what_no_parameter_can_be(value: object) -> None:
    with pytest.raises(DocumentError):
        values_of_run({"a": 1}, {"a": value}, dt.datetime(2026, 1, 1, tzinfo=UTC))


def test_the_readmes_example() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (block,) = re.findall(r"    # \.demo/workflows/nightly\.yaml\n((?:    .*\n)+)", readme)
    found = parse_drop_in(textwrap.dedent(block), "nightly.yaml")
    assert (found.dag_id, found.owner, found.schedule, found.catchup) == ("nightly", "demo", "0 3 * * *", True)
    values = values_of_run(found.params, {}, dt.datetime(2026, 11, 26, 3, tzinfo=UTC))
    (job_of_run,) = expand(parse_workflow(put_in(found.document, values, dollars=True)))
    assert job_of_run.job.tasks[0].cmd == 'sh -c "echo 1000 events of 2026-11-26"'
