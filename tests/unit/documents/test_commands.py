"""Substitution and splitting: what is sent arrives, nothing is interpreted."""

from __future__ import annotations

import pytest

from airflow_prominence.documents import Task, substitute, task_argv, task_workdir

IDS = {"PROMINENCE_JOB_ID": "7", "PROMINENCE_WORKFLOW_ID": "5"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$PROMINENCE_JOB_ID", "7"),
        ("a${PROMINENCE_JOB_ID}b", "a7b"),
        ("$PROMINENCE_WORKFLOW_ID/$PROMINENCE_JOB_ID", "5/7"),
        ("$PROMINENCE_JOB_IDX", "$PROMINENCE_JOB_IDX"),
        ("${PROMINENCE_JOB_ID", "${PROMINENCE_JOB_ID"),
        ("$prominence_job_id", "$prominence_job_id"),
        ("$PROMINENCE_TOKEN", "$PROMINENCE_TOKEN"),
        ("$$PROMINENCE_JOB_ID", "$7"),
        ("$", "$"),
        ("$HOME $1 ${} ${1} $é", "$HOME $1 ${} ${1} $é"),
    ],
)
def test_known_names_only(text: str, result: str) -> None:
    assert substitute(text, IDS) == result


def test_two_dollars_are_one_only_where_parameters_are() -> None:
    assert substitute("$$x $x", {"x": "1"}, dollars=True) == "$x 1"
    assert substitute("$$y $x", {"x": "1"}) == "$$y 1"


def test_one_pass() -> None:
    assert substitute("$a$b", {"a": "$b", "b": "$a"}) == "$b$a"


def test_argv() -> None:
    task = Task(
        "busybox", "singularity", cmd="""sh -c "echo $PROMINENCE_JOB_ID; date" '$HOME' a\\ b {{ x }} $(id) `id`"""
    )
    assert task_argv(task, IDS) == (
        "sh", "-c", "echo 7; date", "$HOME", "a b", "{{", "x", "}}", "$(id)", "`id`",
    )  # fmt: skip
    assert task_argv(Task("busybox", "singularity"), IDS) is None


def test_a_comment_sign_is_a_word() -> None:
    assert task_argv(Task("busybox", "singularity", cmd="echo #1 # two"), {}) == ("echo", "#1", "#", "two")


def test_workdir() -> None:
    assert task_workdir(Task("busybox", "singularity", workdir="run-$PROMINENCE_JOB_ID"), IDS) == "run-7"
    assert task_workdir(Task("busybox", "singularity"), IDS) is None
