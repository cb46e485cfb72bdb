"""Artifacts that are outputs of jobs further up: what they mean, and which are refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from airflow_prominence.documents import (
    DocumentError,
    Family,
    Gathered,
    Limits,
    normalise_workflow,
    parse_workflow,
    strangers,
)


def job(name: str, *artifacts: str, **more: Any) -> dict[str, Any]:
    task = {"image": "busybox", "cmd": "date"}
    taken = {"artifacts": [{"url": url} for url in artifacts]} if artifacts else {}
    return {"name": name, "resources": {"cpus": 1, "memory": 1}, "tasks": [task], **taken, **more}


def sweep(*names: str, end: int = 3) -> dict[str, Any]:
    values = {"name": "n", "start": 1, "end": end, "step": 1}
    return {"name": "sweep", "type": "parameterSweep", "jobs": list(names), "parameters": [values]}


def workflow(*jobs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "w", "jobs": list(jobs), **more}


def family(document: dict[str, Any]) -> Family:
    parse_workflow(document)
    return Family(normalise_workflow(document))


CHAIN = workflow(
    job("a", outputFiles=["r/out.txt", "*.dat"], outputDirs=["deep/er"]),
    job("scan", outputFiles=["out-$n.txt", "same.txt"]),
    job("b"),
    job("c"),
    job("aside", outputFiles=["x"]),
    dependencies={"a": ["scan"], "scan": ["b"], "b": ["c"]},
    factories=[sweep("scan")],
)


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("a/out.txt", "out.txt"),
        ("a/r/out.txt", "r/out.txt"),
        ("a/er.tgz", "er.tgz"),
        ("a/deep/er", "deep/er"),
        ("a/*.dat", "*.dat"),
        ("a/one.dat", "one.dat"),
    ],
)
def test_an_output_of_any_job_above(url: str, file: str) -> None:
    """Also of one that is not a parent itself."""
    assert family(CHAIN).gathered(url, "c") == Gathered("a", file, False)


@pytest.mark.parametrize(
    ("url", "instance", "file"),
    [
        ("scan/same.txt", None, "same.txt"),
        ("scan/out-$n.txt", None, "out-$n.txt"),
        ("scan/out-2.txt", None, "out-2.txt"),
        ("scan/2/same.txt", 2, "same.txt"),
    ],
)
def test_outputs_of_a_factorys_jobs(url: str, instance: int | None, file: str) -> None:
    assert family(CHAIN).gathered(url, "c") == Gathered("scan", file, True, instance)


@pytest.mark.parametrize(
    "url",
    ["aside/x", "c/x", "a", "a/", "a/no.txt", "a/r/d/out.txt", "a/x/one.dat", "group/out.txt", "http://a/out.txt"],
)
def test_what_is_none(url: str) -> None:
    assert family(CHAIN).gathered(url, "c") is None


def test_what_is_meant_of_each_of_a_factorys_jobs() -> None:
    found = family(CHAIN)

    def meant(url: str, n: str) -> list[str]:
        gathered = found.gathered(url, "c")
        assert gathered is not None
        return [asked.name for asked in found.meant(gathered, {"n": n})[1]]

    assert meant("scan/same.txt", "1") == ["same.txt"]
    assert meant("scan/out-$n.txt", "1") == ["out-1.txt"]
    assert (meant("scan/out-2.txt", "1"), meant("scan/out-2.txt", "2")) == ([], ["out-2.txt"])


def test_what_lies_on_ones_own_storage_is_no_output() -> None:
    dav = {"url": "https://dav.example.org", "username": "u", "password": "p"}
    storage = {"type": "webdav", "mountpoint": "/data", "webdav": dav, "default": True}
    document = workflow(job("a", outputFiles=["x"]), job("b", "a/x", storage=storage), dependencies={"a": ["b"]})
    assert family(document).gathered("a/x", "b") is None
    assert list(strangers(parse_workflow(document), normalise_workflow(document))) == []
    document = workflow(job("a", outputFiles=["x"], storage=storage), job("b", "a/x"), dependencies={"a": ["b"]})
    with pytest.raises(DocumentError, match=r'^jobs.1..artifacts.0..url: "a" keeps its outputs on storage of its own'):
        list(strangers(parse_workflow(document), normalise_workflow(document)))


def looked(document: dict[str, Any]) -> list[str]:
    parsed = parse_workflow(document, Limits(max_jobs=10**6))
    return [str(stranger.fault) for stranger in strangers(parsed, normalise_workflow(document))]


AFTER = {"a": ["b"]}
SCAN = job("a", outputFiles=["out-$n.txt", "same.txt"])


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (workflow(job("a", outputFiles=["x"]), job("b", "a/x")), 'is an output of "a", which "b" does not depend on'),
        (workflow(job("a", "b/x"), job("b", outputFiles=["x"]), dependencies=AFTER),
         'is an output of "b", which "a" does not depend on'),
        (workflow(job("a", "a/x", outputFiles=["x"])), "a job cannot have its own outputs as artifacts"),
        (workflow(job("a"), job("b", "a/x"), dependencies=AFTER),
         '"a" keeps no outputs: it has neither outputFiles nor outputDirs'),
        (workflow(job("a", outputFiles=["r/y"], outputDirs=["z"]), job("b", "a/x"), dependencies=AFTER),
         '"a" keeps no "x", but "y", "z.tgz"'),
    ],
)  # fmt: skip
def test_what_looks_like_an_output_and_is_none_may_be_a_groups_upload(document: dict[str, Any], sentence: str) -> None:
    [found] = looked(document)
    index = 0 if document["jobs"][0].get("artifacts") else 1
    assert found == f"jobs[{index}].artifacts[0].url: {sentence}"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (workflow(SCAN, job("b", "a/out-4.txt"), dependencies=AFTER, factories=[sweep("a")]),
         'no job "a" keeps "out-4.txt"'),
        (workflow(SCAN, job("b", "a/3/same.txt"), dependencies=AFTER, factories=[sweep("a")]),
         'there are 3 jobs "a", numbered from 0'),
        (workflow(SCAN, job("b", "a/1/out-1.txt"), dependencies=AFTER, factories=[sweep("a")]),
         'job 1 of "a" keeps no "out-1.txt"'),
        (workflow(SCAN, job("b", "a/out-${n}.txt"), dependencies=AFTER, factories=[sweep("a"), sweep("b", end=4)]),
         'no job "a" keeps "out-4.txt"'),
        (workflow(SCAN, job("b", "a/same.txt"), dependencies=AFTER, factories=[sweep("a", end=20_000)]),
         "would bring 20000 files, and the limit is 10000: let others gather them first"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DocumentError) as refused:
        looked(document)
    assert str(refused.value) == f"jobs[1].artifacts[0].url: {sentence}"


def test_two_outputs_of_one_name_are_refused() -> None:
    document = workflow(
        job("a", outputFiles=["x"]),
        job("b", outputFiles=["d/x"]),
        job("c", "a/x", "b/x"),
        dependencies={"a": ["c"], "b": ["c"]},
    )
    with pytest.raises(DocumentError, match=r"^jobs\[2\].artifacts\[1\].url: would come as \"x\", as artifacts\[0\]"):
        looked(document)


def test_partners_of_two_factories_are_quickly_looked_at() -> None:
    """Each takes its own partner's output; all are looked at without comparing each with each."""
    count = 10_000
    document = workflow(SCAN, job("b", "a/out-$n.txt"), dependencies=AFTER, factories=[sweep("a", "b", end=count)])
    parsed, normalised = parse_workflow(document, Limits(max_jobs=2 * count)), normalise_workflow(document)
    started = time.process_time()
    assert list(strangers(parsed, normalised)) == []
    assert time.process_time() - started < 10
