"""Workflows by the real client: every valid one of the corpus run, and each command that is for them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.flows import Flow, made, roomy
from tests.integration.stacks import Ended, Stack

CORPUS = Path(__file__).parents[1] / "corpus"
RESOURCES = {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1}


def _valid() -> list[str]:
    expected = {path.name.removesuffix(".expected.json"): path for path in CORPUS.glob("*.expected.json")}
    verdicts = {name: json.loads(path.read_text()) for name, path in sorted(expected.items())}
    return [name for name, verdict in verdicts.items() if verdict["kind"] == "workflow" and verdict["valid"]]


#: Those with few jobs.
SMALL = [name for name in _valid() if "sweep-3d" not in name]


@pytest.fixture(scope="module", autouse=True)
def _room(stack: Stack) -> Iterator[None]:
    with roomy(stack, 16):
        yield


@pytest.fixture
def prominence(stack: Stack, tmp_path: Path) -> Callable[..., Ended]:
    """The client, in a folder and a home of its own."""

    def run(*arguments: str, **env: str) -> Ended:
        return stack.run_cli(*arguments, cwd=tmp_path, HOME=str(tmp_path), **env)

    return run


@pytest.fixture
def run(stack: Stack, prominence: Callable[..., Ended], tmp_path: Path) -> Callable[..., Flow]:
    """Write a workflow into a file and have the client run it."""

    def submit(*jobs: dict[str, Any], **more: Any) -> Flow:
        (tmp_path / "workflow.json").write_text(json.dumps({"name": "flow", "jobs": list(jobs), **more}))
        return Flow(stack, made(prominence("run", "workflow.json")))

    return submit


@pytest.fixture
def job(stack: Stack) -> Callable[..., dict[str, Any]]:
    def make(name: str, cmd: str = "true", **more: Any) -> dict[str, Any]:
        task = {"image": stack.image, "runtime": "singularity", "cmd": cmd}
        return {"name": name, "resources": RESOURCES, "tasks": [task], **more}

    return make


def sweep(name: str, parameter: str, end: int) -> dict[str, Any]:
    values = {"name": parameter, "start": 1, "end": end, "step": 1}
    return {"name": f"{name}s", "type": "parameterSweep", "jobs": [name], "parameters": [values]}


class Corpus:
    """The corpus' workflows with this stack's image."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.expected = {name: json.loads((CORPUS / f"{name}.expected.json").read_text()) for name in _valid()}

    def file(self, name: str) -> Path:
        document = json.loads((CORPUS / f"{name}.json").read_text())
        for job in document["jobs"]:
            for task in job["tasks"]:
                task["image"] = self.stack.image
            if "env" in self.expected[name]:
                job["tasks"].append({**job["tasks"][0], "cmd": "env"})
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(document))
        return path

    def submit(self, name: str) -> Flow:
        done = self.stack.run_cli("run", self.file(name).name, cwd=self.folder)
        return Flow(self.stack, made(done))

    def submit_by_curl(self, name: str) -> Flow:
        command = (
            f'curl -sS -w "\\n%{{http_code}}" -X POST -H "Authorization: Bearer $PROMINENCE_TOKEN" '
            f'-H "Content-Type: application/json" -d@{self.file(name).name} "$PROMINENCE_URL/workflows"'
        )
        done = subprocess.run(
            ["sh", "-c", command],
            env={**os.environ, **self.stack.env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        body, status = done.stdout.split("\n")
        assert status == "201", done.stdout
        return Flow(self.stack, int(json.loads(body)["id"]))

    def check(self, name: str, flow: Flow) -> None:
        """See whether it runs as is written beside it."""
        expected = self.expected[name]
        described = flow.wait(seconds=240)
        count = expected["jobs"]
        assert described["status"] == "completed", described
        assert described["progress"] == {"total": count, "done": count, "failed": 0, "queued": 0, "waiting": 0}
        jobs = flow.jobs()
        assert len(jobs) == count
        assert list(jobs) == expected.get("names", list(jobs))
        outs = {full: flow.stack.stdout(found["id"]).decode() for full, found in jobs.items()}
        prefix = json.loads((CORPUS / f"{name}.json").read_text())["name"]
        for (full, found), cmd in zip(jobs.items(), expected.get("cmds", [None] * count), strict=True):
            assert full.startswith(f"{prefix}/")
            assert found["status"] == "completed"
            ran = found["tasks"][0]["cmd"]
            assert cmd in (None, ran)
            if ran.startswith("echo "):
                assert outs[full].splitlines()[0] == ran.removeprefix("echo ")
            else:
                assert re.match(r"[A-Z][a-z]{2} .* \d{4}\n$", outs[full]), outs[full]
        for full, variables in expected.get("env", {}).items():
            said = outs[full].splitlines()
            assert {f"{key}={value}" for key, value in variables.items()} <= set(said), said
            assert f"PROMINENCE_WORKFLOW_ID={flow.id}" in said
        for parent, child in expected["edges"]:
            before, after = jobs[f"{prefix}/{parent}"], jobs[f"{prefix}/{child}"]
            assert before["events"]["endTime"] <= after["events"]["startTime"], (before, after)


@pytest.fixture(scope="module")
def corpus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(stack, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def running(corpus: Corpus) -> dict[tuple[str, str], Flow]:
    """Each of them, all at once: by the client, and the small ones by curl."""
    by_client = {(name, "client"): corpus.submit(name) for name in corpus.expected}
    return by_client | {(name, "curl"): corpus.submit_by_curl(name) for name in SMALL}


@pytest.mark.parametrize("name", _valid())
def test_each_of_the_corpus_runs(corpus: Corpus, running: dict[tuple[str, str], Flow], name: str) -> None:
    corpus.check(name, running[name, "client"])


@pytest.mark.parametrize("name", SMALL)
def test_each_of_the_corpus_runs_by_curl(corpus: Corpus, running: dict[tuple[str, str], Flow], name: str) -> None:
    corpus.check(name, running[name, "curl"])


HEADER = r"^ID +NAME +CREATED +STATUS +ELAPSED +SUCCESS +FAILED +TOTAL *$"


def test_lists_of_workflows_and_of_their_jobs(
    prominence: Callable[..., Ended], run: Callable[..., Flow], job: Callable[..., dict[str, Any]]
) -> None:
    def listed(*options: str) -> list[tuple[str, ...]]:
        done = prominence("list", "workflows", *options)
        assert (done.code, done.stderr) == (0, "")
        header, *lines = done.stdout.splitlines()
        assert re.match(HEADER, header)
        row = r"^(\d+) +(\S+) +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +(\w+) +\d+\+\d\d:\d\d:\d\d +(\d+) +(\d+) +(\d+) *$"
        return [found.groups() for line in lines if (found := re.match(row, line))]

    label = uuid.uuid4().hex
    over = run(job("fine"), job("bad", "false"), name="over", labels={"of": label, "kind": "a"})
    over.wait("failed")
    active = run(job("long", "sleep 300"), job("after"), labels={"of": label}, dependencies={"long": ["after"]})
    active.wait("running")
    mine = f"of={label}"
    assert listed("--constraint", mine) == [(str(active.id), "flow", "running", "0", "0", "2")]
    done = (str(over.id), "over", "failed", "1", "1", "2")
    assert listed("--completed", "--constraint", mine) == [done]
    assert listed("--completed", "--name", "over", "-n", "1") == [done]
    assert listed("--all", "--constraint", mine)[0] == done
    assert len(listed("--all", "--constraint", mine)) == 2
    assert listed("--all", "--constraint", mine, "--constraint", "kind=b") == []
    assert listed("--running", "--constraint", mine) == listed("--constraint", mine)
    assert listed("--idle", "--constraint", mine) == []

    def jobs(flow: Flow, *options: str) -> list[str]:
        done = prominence("list", "jobs", str(flow.id), *options)
        assert (done.code, done.stderr) == (0, "")
        return re.findall(r"^\d+ +(\S+) ", done.stdout, re.MULTILINE)

    assert jobs(active) == ["flow/long", "flow/after"]
    assert jobs(over) == []
    assert jobs(over, "--completed") == ["over/fine", "over/bad"]
    assert jobs(over, "--all") == ["over/fine", "over/bad"]
    assert prominence("delete", "workflow", str(active.id)).stdout == "Success\n"
    end = active.describe()
    assert (end["status"], end["statusReason"]) == ("deleted", "Workflow deleted by user")
    again = prominence("delete", "workflow", str(active.id))
    assert (again.code, again.stdout) == (1, "Error: No such workflow(s)\n")


def test_a_workflow_described_can_be_submitted_again(
    stack: Stack,
    prominence: Callable[..., Ended],
    run: Callable[..., Flow],
    job: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    flow = run(
        job("scan", "test $x != 2"),
        job("sum"),
        factories=[sweep("scan", "x", 2)],
        dependencies={"scan": ["sum"]},
        labels={"study": "one"},
        policies={"maximumRetries": 1},
    )
    flow.wait("failed")
    shown = json.loads(prominence("describe", "workflow", str(flow.id)).stdout)
    assert shown["status"] == "failed"
    assert shown["statusReason"] == "1 of 3 jobs failed: scan/1"
    assert shown["progress"] == {"total": 3, "done": 1, "failed": 1, "queued": 0, "waiting": 1}
    assert shown["dependencies"] == {"scan": ["sum"]}
    assert set(shown["events"]) == {"createTime", "startTime", "endTime"}
    (tmp_path / "again.json").write_text(prominence("describe", "-i", "workflow", str(flow.id)).stdout)
    again = Flow(stack, made(prominence("run", "again.json")))
    document = {
        key: flow.describe()[key] for key in ("name", "jobs", "dependencies", "factories", "labels", "policies")
    }
    assert {key: again.describe()[key] for key in document} == document
    again.wait("failed")
    unknown = prominence("describe", "workflow", "999999999")
    assert (unknown.code, unknown.stdout) == (1, "Error: No such workflow\n")


def test_a_failed_job_stops_its_descendants_only(
    prominence: Callable[..., Ended], run: Callable[..., Flow], job: Callable[..., dict[str, Any]]
) -> None:
    flow = run(
        job("bad", "sh -c 'echo oops >&2; exit 3'"),
        job("child"),
        job("grandchild"),
        job("other"),
        job("of-other", "echo $PROMINENCE_JOB_ID"),
        dependencies={"bad": ["child"], "child": ["grandchild"], "other": ["of-other"]},
    )
    end = flow.wait()
    assert (end["status"], end["statusReason"]) == ("failed", "1 of 5 jobs failed: bad")
    assert end["progress"] == {"total": 5, "done": 2, "failed": 1, "queued": 0, "waiting": 2}
    jobs = flow.jobs()
    # What a command exits with is the job's own affair: it is its workflow that has failed.
    assert jobs["flow/bad"]["status"] == "completed"
    assert jobs["flow/bad"]["execution"]["tasks"][0]["exitCode"] == 3
    for name in ("flow/child", "flow/grandchild"):
        assert jobs[name]["status"] == "failed"
        assert jobs[name]["statusReason"] == "Job was not started: a job that it depends on failed"
        assert "startTime" not in jobs[name]["events"]
    said = prominence("stdout", str(flow.id), "of-other")
    assert (said.code, said.stdout) == (0, f"{jobs['flow/of-other']['id']}\n\n")
    assert prominence("stderr", str(flow.id), "bad").stdout == "oops\n\n"


def test_output_of_a_factorys_jobs(
    prominence: Callable[..., Ended], run: Callable[..., Flow], job: Callable[..., dict[str, Any]]
) -> None:
    flow = run(job("render", "sh -c 'echo frame $frame; echo no $frame >&2'"), factories=[sweep("render", "frame", 3)])
    flow.wait("completed")
    assert prominence("stdout", str(flow.id), "render").stdout == "frame 1\n\n"
    for number in range(3):
        assert prominence("stdout", str(flow.id), "render", str(number)).stdout == f"frame {number + 1}\n\n"
        assert prominence("stderr", str(flow.id), "render", str(number)).stdout == f"no {number + 1}\n\n"
    for arguments in (("render", "3"), ("nothing",)):
        for stream in ("stdout", "stderr"):
            refused = prominence(stream, str(flow.id), *arguments)
            assert (refused.code, refused.stdout) == (1, f"Error: {stream} does not exist\n"), arguments
    refused = prominence("stdout", "999999999", "render")
    assert (refused.code, refused.stdout) == (1, "Error: Workflow does not exist\n")


def test_outputs_of_all_jobs_are_downloaded(
    prominence: Callable[..., Ended], run: Callable[..., Flow], job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    flow = run(
        job(
            "render",
            "sh -c 'mkdir -p d/of-$n; echo dir $n > d/of-$n/f; echo file $n > f-$n.txt'",
            outputFiles=["f-${n}.txt"],
            outputDirs=["d/of-$n"],
        ),
        job("other", "touch $PROMINENCE_WORKFLOW_ID.txt", outputFiles=["*.txt"]),
        factories=[sweep("render", "n", 2)],
    )
    flow.wait("completed")
    done = prominence("download", "workflow", str(flow.id))
    assert done.code == 0, done
    for n in (1, 2):
        assert (tmp_path / f"f-{n}.txt").read_text() == f"file {n}\n"
        with tarfile.open(tmp_path / f"of-{n}.tgz") as archive:
            assert archive.getnames() == [f"of-{n}", f"of-{n}/f"]
    assert (tmp_path / f"{flow.id}.txt").read_bytes() == b""
    done = prominence("download", "--dir", "workflow", str(flow.id))
    assert done.code == 0, done
    for number, found in enumerate(flow.jobs()[name] for name in ("flow/render/0", "flow/render/1")):
        folder = tmp_path / str(found["id"])
        assert {path.name for path in folder.iterdir()} == {f"f-{number + 1}.txt", f"of-{number + 1}.tgz"}


def test_rerun_and_clone(
    stack: Stack,
    prominence: Callable[..., Ended],
    run: Callable[..., Flow],
    job: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """What is mended by an upload is run again, and what depends on it for the first time; the rest is kept."""
    switch = f"switch-{uuid.uuid4().hex}"

    def upload(script: str) -> None:
        (tmp_path / "switch").write_text(script)
        assert prominence("upload", "--name", switch, "--filename", "switch").stdout == "Success\n"

    upload("exit 1")
    flow = run(
        job("good", "sh -c 'echo $PROMINENCE_WORKFLOW_ID | tee good.txt'", outputFiles=["good.txt"]),
        job("flaky", f"sh {switch}", artifacts=[{"url": switch}]),
        job("after", "echo $PROMINENCE_WORKFLOW_ID"),
        dependencies={"flaky": ["after"]},
    )
    early = prominence("rerun", str(flow.id))
    assert (early.code, early.stdout) == (1, "")
    assert "Workflow has not finished yet" in early.stderr
    old = flow.wait("failed")
    second = Flow(stack, made(prominence("rerun", str(flow.id))))
    assert second.id != flow.id
    assert second.wait("failed")["progress"] == {"total": 3, "done": 1, "failed": 1, "queued": 0, "waiting": 1}
    upload("echo mended")
    third = Flow(stack, made(prominence("rerun", str(second.id))))
    assert third.wait()["progress"] == {"total": 3, "done": 3, "failed": 0, "queued": 0, "waiting": 0}
    assert [third.out(name) for name in ("good", "flaky", "after")] == [f"{flow.id}\n", "mended\n", f"{third.id}\n"]
    assert prominence("download", "workflow", str(third.id)).code == 0
    assert (tmp_path / "good.txt").read_text() == f"{flow.id}\n"
    assert flow.describe() == old
    nothing = prominence("rerun", str(third.id))
    assert (nothing.code, nothing.stdout) == (1, "")
    assert "Workflow has no failed jobs to run again" in nothing.stderr
    clone = Flow(stack, made(prominence("clone", "workflow", str(third.id))))
    assert clone.wait()["progress"] == {"total": 3, "done": 3, "failed": 0, "queued": 0, "waiting": 0}
    assert clone.out("good") == f"{clone.id}\n"
    theirs = prominence("clone", "workflow", str(third.id), PROMINENCE_TOKEN=stack.other_token)
    assert (theirs.code, theirs.stdout) == (1, "")
    assert "Workflow does not exist" in theirs.stderr


def test_a_workflow_stays_in_the_queue_until_it_is_removed(
    prominence: Callable[..., Ended], run: Callable[..., Flow], job: Callable[..., dict[str, Any]]
) -> None:
    flow = run(job("a"), policies={"leaveInQueue": True}, name="lingers")
    flow.wait("completed")
    assert f"{flow.id} " in prominence("list", "workflows", "--name", "lingers").stdout
    done = prominence("remove", "workflow", str(flow.id))
    assert (done.code, done.stdout) == (0, "Workflow removed from queue\n")
    assert f"{flow.id} " not in prominence("list", "workflows", "--name", "lingers").stdout
    again = prominence("remove", "workflow", str(flow.id))
    assert (again.code, again.stdout) == (1, "Error: Workflow is no longer in the queue\n")


def test_retries_are_those_of_the_workflow(run: Callable[..., Flow], job: Callable[..., dict[str, Any]]) -> None:
    flow = run(job("bad", "false"), policies={"maximumRetries": 2})
    assert flow.wait()["status"] == "failed"
    [found] = flow.jobs().values()
    assert [attempt["exitCodes"] for attempt in found["execution"]["attempts"]] == [[1], [1], [1]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dependencies": {"a": ["nobody"]}}, 'dependencies.a[0]: is an unknown child: no job is named "nobody"'),
        ({"dependencies": {"a": ["b"], "b": ["a"]}}, "dependencies: must not form a cycle: "),
        ({"factories": [{"name": "f", "type": "random", "jobs": ["a"]}]}, "factories[0].type: "),
    ],
)
def test_what_is_refused_says_why(
    stack: Stack,
    prominence: Callable[..., Ended],
    job: Callable[..., dict[str, Any]],
    tmp_path: Path,
    changes: dict[str, Any],
    sentence: str,
) -> None:
    """The released client shows it at the end of a traceback."""
    (tmp_path / "w.json").write_text(json.dumps({"name": "refused", "jobs": [job("a"), job("b")], **changes}))
    done = prominence("run", "w.json")
    assert (done.code, done.stdout) == (1, "")
    assert f"WorkflowCreationError: {sentence}" in done.stderr
    assert "refused" not in prominence("list", "workflows", "--all", "--name", "refused").stdout


def test_odd_names_and_none(
    prominence: Callable[..., Ended], run: Callable[..., Flow], job: Callable[..., dict[str, Any]]
) -> None:
    """Those of Airflow's own tasks, those that differ in what no task's id can hold, and a workflow without any."""
    names = ["outcome", "my job.v2", "my_job_v2", "0", "run"]
    flow = run(*(job(name, f"sh -c 'echo out; echo err of {name} >&2'") for name in names), name="",
               dependencies={"outcome": ["my job.v2"], "my job.v2": ["0"]})  # fmt: skip
    assert flow.wait()["status"] == "completed"
    assert list(flow.jobs()) == [f"/{name}" for name in names]
    for name in names:
        assert prominence("stdout", str(flow.id), name).stdout == "out\n\n"
        assert prominence("stderr", str(flow.id), name).stdout == f"err of {name}\n\n"
