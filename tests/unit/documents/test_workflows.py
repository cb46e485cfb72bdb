"""Workflows: names, dependencies, factories, and what becomes of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from airflow_prominence.documents import (
    DocumentError,
    ExpandedJob,
    Limits,
    Placement,
    edges,
    expand,
    parse_workflow,
    task_argv,
)

JOB: dict[str, Any] = {"resources": {"cpus": 1, "memory": 1}, "tasks": [{"image": "busybox", "cmd": "date"}]}


def job(name: str, cmd: str = "date", **changes: Any) -> dict[str, Any]:
    made = {**copy.deepcopy(JOB), "name": name, **changes}
    made["tasks"][0]["cmd"] = cmd
    return made


def flow(*names: str, **changes: Any) -> dict[str, Any]:
    return {"name": "w", "jobs": [job(name) for name in names or ("a",)], **changes}


def made_by(factory: dict[str, Any], cmd: str = "echo $x", **changes: Any) -> dict[str, Any]:
    return {"name": "w", "jobs": [job("a", cmd, **changes)], "factories": [{"name": "f", "jobs": ["a"], **factory}]}


def sweep(*parameters: dict[str, Any], cmd: str = "echo $x", **changes: Any) -> dict[str, Any]:
    return made_by({"type": "parameterSweep", "parameters": list(parameters)}, cmd, **changes)


def zipped(cmd: str = "echo $x", job_changes: dict[str, Any] | None = None, **values: list[Any]) -> dict[str, Any]:
    parameters = [{"name": name, "values": listed} for name, listed in values.items()]
    return made_by({"type": "zip", "parameters": parameters}, cmd, **(job_changes or {}))


def steps(name: str, start: float, end: float, step: float) -> dict[str, Any]:
    return {"name": name, "start": start, "end": end, "step": step}


def jobs_of(document: dict[str, Any]) -> tuple[ExpandedJob, ...]:
    return expand(parse_workflow(document))


def cmds_of(document: dict[str, Any]) -> list[str | None]:
    return [expanded.job.tasks[0].cmd for expanded in jobs_of(document)]


REFUSED: list[tuple[Any, str]] = [
    ("x", "the workflow must be an object, not a string"),
    ({"name": "w"}, "jobs: is missing"),
    ({"jobs": []}, "jobs: must not be empty"),
    (flow(storage={}), "storage: is not a known key"),
    (flow(numberInParallel=2), "numberInParallel: is not a known key"),
    (flow("a", ""), "jobs[1].name: is missing: each job of a workflow needs a name"),
    (flow(" "), "jobs[0].name: is missing: each job of a workflow needs a name"),
    (flow("a/b"), "jobs[0].name: must not contain / in a workflow"),
    (flow(".."), 'jobs[0].name: cannot be ".."'),
    (flow("a", "b", "a"), "jobs[2].name: must be unique, and jobs[0] has the same name (duplicate)"),
    ({"jobs": [job("a"), job("b", resources={"cpus": 0, "memory": 1})]}, "jobs[1].resources.cpus: must be at least 1"),
    (flow(dependencies=[]), "dependencies: must be an object, not a list"),
    (flow(dependencies={"a": ["b"]}), 'dependencies.a[0]: is an unknown child: no job is named "b"'),
    (flow(dependencies={"b": ["a"]}), "dependencies.b: is an unknown parent: no job has this name"),
    (flow("ab", dependencies={"a": ["ab"]}), "dependencies.a: is an unknown parent: no job has this name"),
    (flow(dependencies={"a": ["a"]}), "dependencies.a[0]: a job cannot depend on itself"),
    (
        flow("a", "b", "c", "d", dependencies={"d": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}),
        "dependencies: must not form a cycle: a -> b -> c -> a",
    ),
    (flow(policies={"priority": 1}), "policies.priority: is not a known key"),
    (flow(notifications=[{"event": "jobFinished", "type": "email"}]),
     'notifications[0].event: must be "workflowFinished", not "jobFinished"'),
    (flow(factories=[{"type": "repeat", "jobs": ["a"], "number": 1}]), "factories[0].name: is missing"),
    (made_by({"type": "random", "number": 1}),
     'factories[0].type: must be "parameterSweep", "parametricSweep", "zip" or "repeat", not "random"'),
    (made_by({"type": "repeat"}), "factories[0]: must give number, how often the jobs are repeated"),
    (made_by({"type": "repeat", "number": 2, "num": 2}), "factories[0]: cannot give both number and num"),
    (made_by({"type": "repeat", "number": 0}), "factories[0].number: must be at least 1"),
    (made_by({"type": "repeat", "number": 10_001}), "factories[0]: makes too many jobs: 10001, the limit is 10000"),
    (made_by({"type": "repeat", "number": 1, "parameters": [steps("x", 1, 2, 1)]}),
     "factories[0]: cannot give parameters when type is repeat"),
    (made_by({"type": "parameterSweep"}), "factories[0].parameters: is missing"),
    (made_by({"type": "zip"}), "factories[0].parameters: is missing"),
    (sweep(), "factories[0].parameters: must not be empty"),
    (sweep({"name": "x", "start": 1, "end": 2}), "factories[0].parameters[0]: must give step or number"),
    (sweep({"name": "x", "start": 1, "step": 2}), "factories[0].parameters[0].end: is missing"),
    (sweep({**steps("x", 1, 2, 1), "number": 2}), "factories[0].parameters[0]: cannot give both step and number"),
    (sweep({**steps("x", 1, 2, 1), "values": [1]}), "factories[0].parameters[0]: cannot give values in a sweep"),
    (sweep(steps("x", 1, 2, 0)), "factories[0].parameters[0].step: must be greater than 0"),
    (sweep({**steps("x", 1, 2, 1), "step": "1"}), "factories[0].parameters[0].step: must be a number, not a string"),
    (sweep({**steps("x", 1, 2, 1), "step": True}), "factories[0].parameters[0].step: must be a number, not true"),
    (sweep(steps("x", 2, 1, 1)), "factories[0].parameters[0].end: must be at least start"),
    (sweep(steps("x", -1e308, 1e308, 1e308)), "factories[0].parameters[0].end: is too far from start"),
    (sweep(steps("x", 0, 1, 5e-324)), "factories[0]: makes too many jobs: more than 10^15, the limit is 10000"),
    (sweep(steps("PROMINENCE_JOB_ID", 0, 1, 1)),
     "factories[0].parameters[0].name: cannot start with PROMINENCE_, which is reserved"),
    (sweep(*(steps(name, 1, 2, 1) for name in "vwxyz")),
     "factories[0].parameters: has too many dimensions: a sweep can have at most 4 parameters"),
    (zipped(x=[1], y=[]), "factories[0].parameters[1].values: must not be empty"),
    (zipped(x=[[1]]), "factories[0].parameters[0].values[0]: must be a number, a string or true or false, not a list"),
    (made_by({"type": "zip", "parameters": [{"name": "x", "values": [1], "step": 1}]}),
     "factories[0].parameters[0]: can give only name and values in a zip"),
    (zipped(cmd="echo $x$x", x=["v" * 70_000]),
     "jobs[0].tasks[0].cmd: becomes too long with the values of its parameters"),
    (zipped(x=["v" * 131_072]), 'factories: the values of parameter "x" are too long'),
    (zipped(x=["a", "../b"], job_changes={"outputFiles": ["$x.dat"]}),
     "jobs[0].outputFiles[0]: must not contain .. as a part of the path"),
    (zipped(x=["a", "/etc"], job_changes={"outputDirs": ["${x}"]}),
     "jobs[0].outputDirs[0]: must not be an absolute path"),
    (zipped(x=["http", "file"], job_changes={"artifacts": [{"url": "$x://host/a"}]}),
     'jobs[0].artifacts[0].url: must be an http or https URL, not "$x"'),
    (zipped(x=["1", "../../secret"], job_changes={"artifacts": [{"url": "data/$x"}]}),
     "jobs[0].artifacts[0].url: must not contain .. as a part of the path"),
    ({**flow(), "factory": {"type": "zip", "parameters": []}},
     'factory.type: must be "parameterSweep" or "parametricSweep", not "zip"'),
    ({**flow(), "factory": {"type": "parametricSweep", "parameters": [steps("x", 1, 2, 1)]}, "factories": []},
     "the workflow cannot give both factory and factories"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_refusals_name_the_path_in_one_sentence(document: Any, sentence: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        parse_workflow(document)
    assert str(refusal.value) == sentence


def test_a_sweep_is_counted_before_anything_is_made() -> None:
    """Making even one of these sweeps' lists would end no test run."""
    with pytest.raises(DocumentError, match="too many jobs: 1000000000,"):
        parse_workflow(sweep(*(steps(name, 1, 1000, 1) for name in "xyz")))
    with pytest.raises(DocumentError, match="too many jobs: more than 10"):
        parse_workflow(sweep({"name": "x", "start": 0, "end": 1, "number": 2**62}))
    with pytest.raises(DocumentError, match="too many jobs: more than 10"):
        parse_workflow(made_by({"type": "repeat", "number": 2**62}))


def test_the_limit_counts_all_jobs_of_the_workflow() -> None:
    factories = [{"name": "f", "type": "repeat", "number": 5, "jobs": ["a", "b"]}]
    assert len(jobs_of(flow("a", "b", factories=factories))) == 10
    with pytest.raises(DocumentError, match=r"^jobs: are too many: 11 with those of factories, and the limit is 10$"):
        parse_workflow(flow("a", "b", "c", factories=factories), Limits(max_jobs=10))


def test_a_cycle_of_thousands_is_told_in_one_sentence() -> None:
    names = [f"j{i}" for i in range(2000)]
    ring = {name: [names[(i + 1) % len(names)]] for i, name in enumerate(names)}
    with pytest.raises(DocumentError) as refusal:
        parse_workflow(flow(*names, dependencies=ring))
    assert len(str(refusal.value)) < 200
    del ring[names[-1]]
    assert len(parse_workflow(flow(*names, dependencies=ring)).dependencies) == 1999


def test_dependencies_join_every_job_of_a_factory() -> None:
    factories = [{"name": "f", "type": "repeat", "num": 2, "jobs": ["a", "b"]}]
    document = flow("a", "b", dependencies={"a": ["b", "b"]}, factories=factories)
    workflow = parse_workflow(document)
    assert workflow.dependencies == (("a", "b"),)
    assert list(edges(workflow, expand(workflow))) == [
        ("a/0", "b/0"), ("a/0", "b/1"), ("a/1", "b/0"), ("a/1", "b/1"),
    ]  # fmt: skip


def test_names() -> None:
    assert [made.name for made in jobs_of(flow("a", "b"))] == ["w/a", "w/b"]
    assert [made.name for made in jobs_of({"jobs": [job("a")]})] == ["/a"]
    assert [made.name for made in jobs_of(made_by({"type": "repeat", "number": 2}))] == ["w/a/0", "w/a/1"]
    assert [made.job.name for made in jobs_of(made_by({"type": "repeat", "number": 2}))] == ["w/a/0", "w/a/1"]


def test_the_last_parameter_varies_fastest() -> None:
    document = sweep(steps("x", 1, 2, 1), steps("y", 3, 4, 1), cmd="echo $x ${y}")
    assert cmds_of(document) == ["echo 1 3", "echo 1 4", "echo 2 3", "echo 2 4"]


@pytest.mark.parametrize(
    ("start", "end", "step", "values"),
    [
        (0, 0.3, 0.1, ["0", "0.1", "0.2", "0.30000000000000004"]),
        (0, 1, 0.25, ["0", "0.25", "0.5", "0.75", "1"]),
        (1.0, 2.0, 1.0, ["1", "2"]),
        (1, 2, 3, ["1"]),
        (5, 5, 1, ["5"]),
        (-1, 1, 1, ["-1", "0", "1"]),
        (1e-7, 2e-7, 1e-7, ["1e-07", "2e-07"]),
        (10**15, 10**15 + 2, 1, ["1000000000000000", "1000000000000001", "1000000000000002"]),
    ],
)
def test_a_sweep_counts_as_decimals_do(start: float, end: float, step: float, values: list[str]) -> None:
    assert [made.texts["x"] for made in jobs_of(sweep(steps("x", start, end, step)))] == values


def test_no_drift_over_a_thousand_steps() -> None:
    made = jobs_of(sweep(steps("x", 0, 100, 0.1)))
    assert len(made) == 1001
    assert made[-1].texts == {"x": "100"}


def test_number_instead_of_step() -> None:
    lines = {"name": "x", "start": 0, "end": 1, "number": 5}
    assert [made.texts["x"] for made in jobs_of(sweep(lines))] == ["0", "0.25", "0.5", "0.75", "1"]
    assert [made.texts["x"] for made in jobs_of(sweep({**lines, "number": 1}))] == ["0"]
    down = {"name": "x", "start": 1, "end": 0, "number": 2}
    assert [made.texts["x"] for made in jobs_of(sweep(down))] == ["1", "0"]


def test_zip_takes_the_lists_together() -> None:
    made = jobs_of(zipped(cmd="echo $x $y", x=[1, 2.0, 2.5], y=["a", True, "b c"]))
    assert [dict(one.parameters) for one in made] == [{"x": 1, "y": "a"}, {"x": 2, "y": 1}, {"x": 2.5, "y": "b c"}]
    assert [one.job.tasks[0].cmd for one in made] == ["echo 1 a", "echo 2 1", "echo 2.5 'b c'"]
    assert made[2].env == {"PROMINENCE_PARAMETER_x": "2.5", "PROMINENCE_PARAMETER_y": "b c"}


def test_the_manuals_old_form_sweeps_over_all_jobs() -> None:
    document = flow("a", "b", factory={"type": "parametricSweep", "parameters": [steps("frame", 1, 2, 1)]})
    assert [made.name for made in jobs_of(document)] == ["w/a/0", "w/a/1", "w/b/0", "w/b/1"]


def test_the_last_factory_of_a_job_counts() -> None:
    factories = [{"name": name, "type": "repeat", "number": n, "jobs": ["a"]} for name, n in (("f", 3), ("g", 2))]
    assert len(jobs_of(flow("a", factories=factories))) == 2


def test_where_parameters_are_put_in() -> None:
    document = zipped(
        cmd="run $x ${x} $xx $$x $ ${y} $PROMINENCE_JOB_ID",
        x=["v"],
        job_changes={
            "artifacts": [{"url": "https://a.example/$x.tgz", "mountpoint": "$x:/$x"}],
            "outputFiles": ["$x.dat"],
            "outputDirs": ["out-${x}"],
            "labels": {"k": "v"},
        },
    )
    document["jobs"][0]["tasks"][0].update(env={"A": "is $x"}, workdir="$x", image="$x")
    (made,) = (one.job for one in jobs_of(document))
    task = made.tasks[0]
    assert task.cmd == "run v v $xx $x $ ${y} $PROMINENCE_JOB_ID"
    assert task.env == {"A": "is v"}
    assert (task.workdir, task.image) == ("$x", "$x")
    assert [(artifact.url, artifact.mount) for artifact in made.artifacts] == [
        ("https://a.example/v.tgz", ("$x", "/$x"))
    ]
    assert (made.output_files, made.output_dirs) == (("v.dat",), ("out-v",))


def test_a_value_is_never_looked_at_again() -> None:
    values = [
        "$y",
        "${y}",
        "$PROMINENCE_JOB_ID",
        "$$",
        "a b",
        "it's",
        '"',
        "; rm -rf /",
        "$(id)",
        "`id`",
        "",
        "\n",
        "\\",
    ]
    for made, value in zip(
        jobs_of(zipped(cmd="echo <$x> '$x'", x=values, y=["no"] * len(values))), values, strict=True
    ):
        argv = task_argv(made.template.tasks[0], {"PROMINENCE_JOB_ID": "7"}, made.texts)
        assert argv == ("echo", f"<{value}>", value)
        assert task_argv(made.job.tasks[0], {}) == argv


def test_policies_of_the_workflow() -> None:
    own = {"maximumRetries": 1, "placement": {"requirements": {"sites": ["A"]}}}
    document = {
        "jobs": [job("a"), job("b", policies=own)],
        "policies": {"maximumRetries": 9, "placement": {"preferences": {"regions": ["B"]}}},
    }
    a, b = parse_workflow(document).jobs
    assert (a.policies.maximum_retries, b.policies.maximum_retries) == (9, 1)
    assert a.policies.placement == b.policies.placement == Placement(preferred_regions=("B",))


def test_ten_thousand_jobs() -> None:
    made = jobs_of(sweep(steps("x", 1, 100, 1), steps("y", 1, 100, 1), cmd="echo $x $y"))
    assert len({one.name for one in made}) == 10_000
    assert made[-1].job.tasks[0].cmd == "echo 100 100"
