"""Each option of the real client's `create` and `list`, and what the client says when something is wrong."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.integration.stacks import Ended, Stack

Options = list[str]

# The options, and the part of the job's description in which they show. The job itself must run to its end with them.
CREATE: dict[str, tuple[Options, dict[str, Any]]] = {
    "--name": (["--name", "named"], {"name": "named"}),
    "--cpus": (["--cpus", "1"], {"resources": {"cpus": 1}}),
    "--cpus-range": (["--cpus-range", "1,2"], {"resources": {"cpusRange": [1, 2]}}),
    "--cpus-options": (["--cpus-options", "2,1"], {"resources": {"cpusOptions": [2, 1]}}),
    "--memory": (["--memory", "1"], {"resources": {"memory": 1.0}}),
    "--memory-per-cpu": (["--memory-per-cpu", "1"], {"resources": {"memoryPerCpu": 1.0}}),
    "--nodes": (["--nodes", "1"], {"resources": {"nodes": 1}}),
    "--disk": (["--disk", "2"], {"resources": {"disk": 2}}),
    "--walltime": (["--walltime", "7"], {"resources": {"walltime": 7}}),
    "--workdir": (["--workdir", "/tmp"], {"tasks": [{"workdir": "/tmp"}]}),
    "--env": (["--env", "A=1", "--env", "B=two words"], {"tasks": [{"env": {"A": "1", "B": "two words"}}]}),
    "--label": (["--label", "k=v", "--label", "n=1/2-a_b.c"], {"labels": {"k": "v", "n": "1/2-a_b.c"}}),
    "--runtime": (["--runtime", "udocker"], {"tasks": [{"runtime": "udocker"}]}),
    "--retries": (["--retries", "2"], {"policies": {"maximumRetries": 2}}),
    "--task-retries": (["--task-retries", "3"], {"policies": {"maximumTaskRetries": 3}}),
    "--max-time-in-queue": (["--max-time-in-queue", "5"], {"policies": {"maximumTimeInQueue": 5}}),
    "--leave-in-queue": (["--leave-in-queue"], {"policies": {"leaveInQueue": True}}),
    "--priority": (["--priority", "9"], {"policies": {"priority": 9}}),
}

# What needs another part of the project is refused by name, not taken and ignored.
NOT_YET: dict[str, tuple[Options, str]] = {
    "--openmpi": (["--openmpi"], 'tasks[0].type: "openmpi" is not supported yet'),
    "--mpich": (["--mpich"], 'tasks[0].type: "mpich" is not supported yet'),
    "--intelmpi": (["--intelmpi"], 'tasks[0].type: "intelmpi" is not supported yet'),
    "--nodes": (["--openmpi", "--nodes", "2"], "resources.nodes: more than one node is not supported yet"),
    "--total-cpus-range": (
        ["--openmpi", "--total-cpus-range", "2,4"],
        "resources.totalCpusRange: is not supported yet",
    ),
}


@pytest.fixture
def prominence(stack: Stack, tmp_path: Path) -> Callable[..., Ended]:
    """The client, in a folder and a home of its own."""

    def run(*arguments: str, **env: str) -> Ended:
        return stack.run_cli(*arguments, cwd=tmp_path, HOME=str(tmp_path), **env)

    return run


def _made(done: Ended) -> int:
    assert done.code == 0, done
    [job] = re.findall(r"^Job created with id (\d+)$", done.stdout, re.MULTILINE)
    return int(job)


def _holds(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _holds(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(_holds, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize("option", CREATE)
def test_an_option_of_create_is_heeded(stack: Stack, prominence: Callable[..., Ended], option: str) -> None:
    options, shown = CREATE[option]
    dry = prominence("create", "--dry-run", *options, stack.image, "true")
    assert dry.code == 0, dry
    assert _holds(json.loads(dry.stdout), shown), dry.stdout
    job = _made(prominence("create", *options, stack.image, "true"))
    described = stack.wait(job)
    assert described["status"] == "completed"
    assert _holds(described, shown), described


@pytest.mark.parametrize("option", NOT_YET)
def test_an_option_of_create_that_is_to_come_is_refused_by_name(
    stack: Stack, prominence: Callable[..., Ended], option: str
) -> None:
    options, sentence = NOT_YET[option]
    done = prominence("create", *options, stack.image, "true")
    assert (done.code, done.stdout.strip()) == (1, f"Error: {sentence}"), done


def test_omp_threads_are_the_clients_own_arithmetic(stack: Stack, prominence: Callable[..., Ended]) -> None:
    options = ["--openmpi", "--cpus", "4", "--omp-procs-per-node", "1"]
    done = prominence("create", "--dry-run", *options, stack.image, "true")
    [task] = json.loads(done.stdout)["tasks"]
    assert (task["env"], task["procsPerNode"]) == ({"OMP_NUM_THREADS": "1"}, 3)


def test_lists_show_what_is_asked_for(stack: Stack, prominence: Callable[..., Ended]) -> None:
    ended = _made(prominence("create", "--name", "listed", stack.image, "true"))
    stack.wait(ended)
    running = _made(prominence("create", "--name", "listed", stack.image, "sleep 100"))
    stack.wait(running, "running")

    def ids(*options: str) -> list[int]:
        done = prominence("list", "--name", "listed", *options)
        assert done.code == 0, done
        return [int(number) for number in re.findall(r"^(\d+) ", done.stdout, re.MULTILINE)]

    try:
        assert ids() == [running]
        assert ids("jobs") == [running]
        assert ids("-r") == [running]
        assert ids("-i") == []
        assert ids("--completed") == [ended]
        assert ids("--completed", "-n", "5") == [ended]
        assert ids("-a") == [ended, running]
        assert ids("--constraint", "no=such") == []
    finally:
        assert prominence("delete", str(running)).stdout == "Success\n"


def test_a_description_can_be_run_again(stack: Stack, prominence: Callable[..., Ended], tmp_path: Path) -> None:
    job = _made(prominence("create", "--name", "again", "--label", "a=b", stack.image, "echo again"))
    stack.wait(job)
    shown = prominence("describe", "-i", str(job))
    (tmp_path / "again.json").write_text(shown.stdout)
    assert not {"id", "status", "events", "execution"} & set(json.loads(shown.stdout))
    second = _made(prominence("run", "again.json"))
    assert stack.wait(second)["labels"] == {"a": "b"}
    assert stack.stdout(second) == b"again\n"


def test_a_file_of_yaml_and_one_of_several_commands_run(
    stack: Stack, prominence: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(
        f"resources: {{cpus: 1, memory: 1, disk: 1, nodes: 1}}\ntasks:\n- image: {stack.image}\n"
        "  runtime: singularity\n  cmd: |\n    echo one\n    echo two\n"
    )
    job = _made(prominence("run", "job.yaml"))
    assert len(stack.wait(job)["tasks"]) == 2, "the client makes a task of each line"
    assert stack.stdout(job) == b"one\ntwo\n"


UNKNOWN = {
    "describe": (["describe", "999999999"], "Error: No such job"),
    "delete": (["delete", "999999999"], "Error: No such job(s)"),
    "stdout": (["stdout", "999999999"], "Error: Job does not exist"),
    "stderr": (["stderr", "999999999"], "Error: Job does not exist"),
    "clone": (["clone", "999999999"], "Error: Job does not exist"),
    "remove": (["remove", "999999999"], "Error: Job does not exist"),
}


@pytest.mark.parametrize("command", UNKNOWN)
@pytest.mark.parametrize("whose", ["nobody's", "another's"])
def test_an_unknown_job_is_said_to_be_unknown(
    stack: Stack, prominence: Callable[..., Ended], command: str, whose: str
) -> None:
    arguments, sentence = UNKNOWN[command]
    if whose == "another's":
        theirs = stack.submit(
            {
                "resources": {"cpus": 1, "memory": 1, "disk": 1},
                "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": "true"}],
            },
            stack.other_token,
        )
        arguments = [arguments[0], str(theirs)]
    done = prominence(*arguments)
    assert (done.code, done.stdout.strip(), done.stderr) == (1, sentence, ""), done


def _expired() -> str:
    return jwt.encode({"sub": "demo", "exp": int(time.time()) - 60}, "a key of nobody's that is long enough to be one")


def _forged() -> str:
    return jwt.encode({"sub": "demo", "exp": int(time.time()) + 600}, "a key of nobody's that is long enough to be one")


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (_expired, "Error: access token has expired"),
        (_forged, "Error: authentication failed"),
        (lambda: "no token at all", "Error: access token has expired"),
    ],
)
@pytest.mark.parametrize("command", [["list"], ["describe", "1"], ["delete", "1"], ["kv", "list"], ["resources"]])
def test_a_bad_token_is_said_to_be_bad(
    prominence: Callable[..., Ended], token: Callable[[], str], sentence: str, command: list[str]
) -> None:
    done = prominence(*command, PROMINENCE_TOKEN=token())
    assert (done.code, done.stdout.strip(), done.stderr) == (1, sentence, ""), done


def test_a_wrong_address_is_said_to_be_wrong(stack: Stack, prominence: Callable[..., Ended]) -> None:
    done = prominence("list", PROMINENCE_URL=stack.airflow_url + "/api/v9")
    assert done.code == 1
    assert "Invalid PROMINENCE URL, got a 404 not found error" in done.stdout


def test_a_refused_job_is_refused_in_one_sentence(stack: Stack, prominence: Callable[..., Ended]) -> None:
    done = prominence("create", "--label", "no-dashes=1", stack.image, "true")
    assert done.code == 1
    assert re.fullmatch(r"Error: labels[^\n]+\n", done.stdout), done
