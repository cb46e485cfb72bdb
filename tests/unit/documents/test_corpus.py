"""Every document of tests/corpus gets the verdict that the file beside it expects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.documents import (
    DocumentError,
    edges,
    expand,
    extract,
    loads,
    parse_job,
    parse_workflow,
    task_argv,
)

CORPUS = Path(__file__).parents[2] / "corpus"
DOCUMENTS = sorted(path for path in CORPUS.glob("*.json") if not path.name.endswith(".expected.json"))


def expected_of(document: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(document.with_suffix(".expected.json").read_text())
    return expected


def documents(kind: str, valid: bool) -> list[Any]:
    chosen = [path for path in DOCUMENTS if (expected_of(path)["kind"], expected_of(path)["valid"]) == (kind, valid)]
    assert chosen
    return [pytest.param(path, id=path.stem) for path in chosen]


def test_each_document_has_its_expectation() -> None:
    assert DOCUMENTS
    assert {path.with_suffix(".expected.json") for path in DOCUMENTS} == set(CORPUS.glob("*.expected.json"))


@pytest.mark.parametrize("document", documents("job", True))
def test_valid_job(document: Path) -> None:
    expected = expected_of(document)
    value = loads(document.read_bytes())
    job = parse_job(value)
    if "tasks" in expected:
        assert len(job.tasks) == expected["tasks"]
    if "mpi_processes" in expected:
        assert job.resources.nodes * job.resources.cpus == expected["mpi_processes"]
    if "outputs" in expected:
        assert [*job.output_files, *(f"{name}.tgz" for name in job.output_dirs)] == expected["outputs"]
    if "secrets" in expected:
        assert {path.rpartition(".")[2] for path in extract(value)[1]} == set(expected["secrets"])


@pytest.mark.parametrize("document", documents("workflow", True))
def test_valid_workflow(document: Path) -> None:
    expected = expected_of(document)
    workflow = parse_workflow(loads(document.read_bytes()))
    jobs = expand(workflow)
    assert len(jobs) == expected["jobs"]
    if "names" in expected:
        assert [job.name for job in jobs] == expected["names"]
    if "edges" in expected:
        assert [list(edge) for edge in edges(workflow, jobs)] == expected["edges"]
    if "cmds" in expected:
        assert [task.cmd for job in jobs for task in job.job.tasks] == expected["cmds"]
        argvs = [task_argv(task, {}, job.texts) for job in jobs for task in job.template.tasks]
        assert argvs == [tuple(cmd.split()) for cmd in expected["cmds"]]
    if "env" in expected:
        assert {job.name: job.env for job in jobs} == expected["env"]


@pytest.mark.parametrize("document", documents("job", False) + documents("workflow", False))
def test_refused(document: Path) -> None:
    expected = expected_of(document)
    parse = parse_job if expected["kind"] == "job" else parse_workflow
    with pytest.raises(DocumentError) as refusal:
        parse(loads(document.read_bytes()))
    sentence = str(refusal.value)
    assert any(word.lower() in sentence.lower() for word in expected["error_any"]), sentence
    assert "\n" not in sentence
