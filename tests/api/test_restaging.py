"""Clearing `stage_out` of an ended job: its outputs are uploaded again, once each time, or it is told why not."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
import sqlalchemy as sa

from tests.api.conftest import User
from tests.api.node import BASE, Driver, PretendNode, PretendOrder, PretendRunner
from tests.api.test_clearing import Run

HOUR = 3600.0


class Ended:
    """A job with an output that has come to its end on a node that keeps its directory."""

    def __init__(self, database: Any, alice: User, driver: Driver, node: PretendNode, **changes: Any) -> None:
        self.driver, self.node, self.alice = driver, node, alice
        self.id = alice.submit(**{"outputFiles": ["a.txt", "b.txt"], **changes})
        self.run = Run(database, driver, self.id)
        self.run.contact()
        driver.claim(self.id)
        self.runner: PretendRunner = node.take(self.id)
        self.lease = self.runner.lease

    def end(self, *stored: str, kept_s: float | None = HOUR, **more: Any) -> None:
        self.runner.report("stage_in")
        self.runner.report("running")
        self.runner.report("stage_out")
        for name in stored:
            self.runner.report("output", **facts(name))
        end = {"status": "completed", "reason": "", "node_success": True, "execution": {"tasks": [{"exitCode": 0}]}}
        self.runner.report("end", **end, **more, **({} if kept_s is None else {"kept_s": kept_s}))
        self.node.held[self.lease] = "kept" if kept_s is not None else "ended"

    def ask(self, ti_id: str) -> dict[str, Any]:
        answer = self.driver.post(f"/jobs/{self.id}/stage_out", {"ti_id": ti_id})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def story(self) -> list[str]:
        return [event["message"] for event in self.driver.view(self.id)["events"] if event["kind"] == "upload"]

    def described(self) -> dict[str, Any]:
        return self.alice.describe(self.id)


def facts(name: str, size: int = 3) -> dict[str, Any]:
    return {"name": name, "asked": name, "kind": "file", "file": name, "size": size, "sha256": "0" * 64}


def ended(database: Any, alice: User, driver: Driver, node: PretendNode, *stored: str, **changes: Any) -> Ended:
    job = Ended(database, alice, driver, node, **changes)
    job.end(*(stored or ("a.txt", "b.txt")))
    return job


def line(kind: str, /, **data: Any) -> bytes:
    return json.dumps({"kind": kind, "data": data}).encode() + b"\n"


def place(node: PretendNode, order: PretendOrder, name: str) -> Any:
    return node.post(f"/commands/{order.id}/place", {"name": name})


def test_the_assignment_says_how_long_to_keep(database: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    job = Ended(database, alice, driver, node)
    assert job.runner.assignment["keep_s"] == HOUR


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [
        ({"directories_hours": 0}, 0),
        ({"directories_hours": 0.5}, 1800),
        # what is uploaded again must not go at once
        ({"directories_hours": 100, "outputs_days": 2, "jobs_days": 0}, 2 * 86400),
        ({"directories_hours": 100, "outputs_days": 0, "jobs_days": 0}, 100 * HOUR),
    ],
)
def test_the_setting_decides(
    database: Any,
    alice: User,
    driver: Driver,
    node: PretendNode,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, float],
    seconds: float,
) -> None:
    from airflow_prominence.api import staging
    from airflow_prominence.api.settings import settings

    now = settings()
    other = dataclasses.replace(now, kept=dataclasses.replace(now.kept, **changed))
    monkeypatch.setattr(staging, "settings", lambda: other)
    job = Ended(database, alice, driver, node)
    assert job.runner.assignment["keep_s"] == seconds


def test_a_description_says_until_when(database: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    job = ended(database, alice, driver, node)
    shown = job.described()["execution"]["retention"]
    assert abs(shown["directory"]["until"] - time.time() - HOUR) < 10
    assert "warning" not in shown
    # it is kept as long as its node says so, and no longer
    assert node.poll()["forget"] == []
    assert "until" in job.described()["execution"]["retention"]["directory"]
    node.held[job.lease] = "dropping"
    assert node.poll()["forget"] == []
    assert abs(job.described()["execution"]["retention"]["directory"]["removed"] - time.time()) < 10
    node.held[job.lease] = "ended"
    assert node.poll()["forget"] == [job.lease]


def test_what_is_the_only_copy_is_warned_of(database: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    job = ended(database, alice, driver, node, "a.txt")
    warning = job.described()["execution"]["retention"]["warning"]
    assert warning.startswith("The job's directory, with outputs that are not stored, goes at 20")


def test_clearing_uploads_again_once(database: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    job = ended(database, alice, driver, node)
    before = job.described()
    ti_id = job.run.clear("stage_out")
    view = job.run.contact()
    assert (view["phase"], view["attempt"]) == ("done", 1)
    assert view["stage_out_ti"] not in ("", ti_id)
    first = job.ask(ti_id)
    assert (first["again"], first["over"]) == (True, False)
    order = node.order()
    folder = job.runner.assignment["outputs_folder"]
    assert {key: order.given[key] for key in ("kind", "lease", "outputs", "outputs_folder")} == {
        "kind": "stage_out",
        "lease": job.lease,
        "outputs": [{"kind": "file", "name": "a.txt"}, {"kind": "file", "name": "b.txt"}],
        "outputs_folder": folder,
    }
    assert order.given["output_url"].endswith(f"/commands/{order.id}/place")
    assert "ti" not in order.given
    # another triggerer takes over, and asks for the same
    assert job.ask(ti_id) == first
    assert node.poll()["commands"] == []
    assert place(node, order, f"{folder}/a.txt").status_code == 201
    told = line("log", message="Output a.txt: 5 bytes stored as a.txt") + line("output", **facts("a.txt", 5))
    assert order.write(told) is None
    # its answer was lost: told again, it counts once
    assert node.put(f"/commands/{order.id}/output?offset=0", told).json()["offset"] == len(told)
    order.end()
    last = job.ask(ti_id)
    assert (last["over"], last["error"], last["since"]) == (True, None, first["since"])
    assert job.story() == [
        f"Uploading output again, from node {node.name}",
        "Output a.txt: 5 bytes stored as a.txt",
        "Output was uploaded again",
    ]
    # the job is as it was, but for what was uploaded
    after = job.described()
    assert [item["size"] for item in after["outputFiles"]] == [5, 3]
    [upload] = after["execution"].pop("uploadedAgain")
    assert upload["status"] == "completed"
    for view in (before, after):
        del view["outputFiles"]
    assert after == before
    # and again, when somebody clears it again
    third = job.run.clear("stage_out")
    job.run.contact()
    assert job.ask(third)["over"] is False
    node.order().end(None, "Stageout failed due to no such file or directory")
    assert job.ask(third)["error"] == "Stageout failed due to no such file or directory"


def test_only_the_newest_instance_counts_and_only_one_uploads(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    job = ended(database, alice, driver, node)
    first = job.run.clear("stage_out")
    job.ask(first)
    order = node.order()
    assert order.write(line("log", message="on its way")) is None
    second = job.run.clear("stage_out")
    stale = driver.post(f"/jobs/{job.id}/stage_out", {"ti_id": first})
    assert (stale.status_code, stale.json()["error"]) == (409, "This task is over, or was cleared again")
    assert job.ask(second)["over"] is False
    assert node.poll()["commands"] == []
    assert order.write(line("log", message="too late")) == "nobody waits for it any more"
    assert place(node, order, "scratch/x").status_code == 404
    order.end(None, "nobody waits for it any more")
    assert job.ask(second)["over"] is False
    other = node.order()
    assert other.id != order.id
    other.end()
    assert job.ask(second)["over"] is True
    assert "too late" not in job.story()


def test_a_new_attempt_ends_an_upload(database: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    job = ended(database, alice, driver, node)
    ti_id = job.run.clear("stage_out")
    job.ask(ti_id)
    order = node.order()
    job.run.clear("run")
    assert job.run.contact()["attempt"] == 2
    assert order.write(line("output", **facts("a.txt", 9))) == "the job has begun again"
    order.end(None, "the job has begun again")
    # that instance of stage_out is the new attempt's own
    assert job.ask(ti_id) == {"again": False}
    assert node.poll()["forget"] == [job.lease]
    driver.claim(job.id)
    job.runner = node.take(job.id)
    job.lease = job.runner.lease
    job.end("a.txt", "b.txt")
    assert job.ask(ti_id) == {"again": False}
    assert job.run.contact()["stage_out_ti"] == ti_id


def test_cleared_before_the_jobs_end_it_is_the_jobs_own(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    job = Ended(database, alice, driver, node)
    job.runner.report("running")
    ti_id = job.run.clear("stage_out")
    assert job.run.contact()["stage_out_ti"] == ti_id
    job.end("a.txt", "b.txt")
    assert job.ask(ti_id) == {"again": False}


def test_what_had_nothing_to_upload_has_nothing_now(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    without = Ended(database, alice, driver, node, outputFiles=[])
    without.end(kept_s=None)
    assert without.ask(without.run.clear("stage_out")) == {"again": False}
    failed = Ended(database, alice, driver, node)
    failed.runner.report("end", status="failed", reason="Container image pull failed")
    assert failed.ask(failed.run.clear("stage_out")) == {"again": False}


def refusal(job: Ended) -> str:
    answer = job.ask(job.run.clear("stage_out"))
    assert (answer["again"], answer["over"]) == (True, True)
    assert job.described()["status"] == "completed"
    return str(answer["error"])


def test_what_is_gone_is_told_with_its_time(database: Any, alice: User, driver: Driver, node: PretendNode) -> None:
    never = Ended(database, alice, driver, node)
    never.end("a.txt", "b.txt", kept_s=None)
    assert refusal(never).startswith("the job's directory was not kept after its end at 20")

    early = ended(database, alice, driver, node)
    node.held[early.lease] = "dropping"
    node.poll()
    sentence = refusal(early)
    assert sentence.startswith(f"the job's directory on node {node.name} is gone since 20")
    assert "before its time (20" in sentence

    over = ended(database, alice, driver, node)
    with database.begin() as connection:
        change = "UPDATE prominence_lease SET kept_until = :at WHERE id = :id"
        connection.execute(sa.text(change), {"at": 1_700_000_000.0, "id": over.lease})
    assert refusal(over) == f"the job's directory on node {node.name} was kept until 2023-11-14 22:13:20 UTC"
    assert over.described()["execution"]["retention"]["directory"] == {"removed": 1_700_000_000}

    reset = ended(database, alice, driver, node)
    ti_id = reset.run.clear("stage_out")
    reset.ask(ti_id)
    assert node.order().write(b"") is None
    node.held, node.orders = {}, []
    node.poll()
    assert reset.ask(ti_id)["error"] == f"node {node.name} has the job's directory no longer"

    lost = ended(database, alice, driver, node)
    ti_id = lost.run.clear("stage_out")
    assert lost.ask(ti_id)["over"] is False
    node.gone()
    assert lost.ask(ti_id)["error"] == f"node {node.name}, which keeps the job's directory, was lost"
    assert f"node {node.name}, which keeps the job's directory, has not been heard of since 20" in refusal(lost)


def test_a_directory_that_nobody_needs_is_not_kept(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    deleted = Ended(database, alice, driver, node)
    deleted.runner.report("running")
    assert alice.delete(f"/jobs/{deleted.id}").status_code == 200
    deleted.runner.report("stage_out")
    deleted.runner.report("end", status="killed", reason="Job deleted by user", kept_s=HOUR)
    node.held[deleted.lease] = "kept"
    assert node.poll()["forget"] == [deleted.lease]
    del node.held[deleted.lease]
    again = Ended(database, alice, driver, node, policies={"maximumRetries": 1})
    again.runner.report("stage_out")
    again.runner.report("end", status="failed", reason="Unable to stageout output to object storage", kept_s=HOUR)
    node.held[again.lease] = "kept"
    assert node.poll()["forget"] == [again.lease]


def test_a_directory_of_a_lease_that_was_to_stop_holds_up_nothing(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    """Its runner was told that it is stale when it told its end, and had kept the directory before."""
    job = Ended(database, alice, driver, node)
    job.runner.report("running")
    job.run.clear("run")
    assert job.run.contact()["attempt"] == 2
    node.held[job.lease] = "kept"
    answer = node.poll()
    assert [order["lease"] for order in answer["stop"]] == []
    assert node.poll()["forget"] == [job.lease]
    with database.begin() as connection:
        query = "SELECT state FROM prominence_lease WHERE id = :id"
        assert connection.execute(sa.text(query), {"id": job.lease}).scalar_one() == "ended"


def test_outputs_that_are_elsewhere_or_over_their_time(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    webdav = {"url": "https://dav.example.org", "username": "u", "password": "p"}
    there = {"type": "webdav", "mountpoint": "/data", "default": True, "webdav": webdav}
    elsewhere = Ended(database, alice, driver, node, storage=there)
    elsewhere.end(kept_s=None)
    assert refusal(elsewhere) == "it went to the job's own storage, which is mounted only while the job runs"
    over = ended(database, alice, driver, node)
    with database.begin() as connection:
        change = "UPDATE prominence_job SET outputs_gone_at = 1700000000 WHERE id = :id"
        connection.execute(sa.text(change), {"id": over.id})
    assert refusal(over) == "its time was over at 2023-11-14 22:13:20 UTC"


def test_failing_the_task_by_hand_ends_the_upload(
    database: Any, alice: User, driver: Driver, node: PretendNode
) -> None:
    job = ended(database, alice, driver, node)
    ti_id = job.run.clear("stage_out")
    job.ask(ti_id)
    order = node.order()
    job.run.set("stage_out", state="failed")
    with database.begin() as connection:
        query = "SELECT try_number FROM task_instance WHERE run_id = :run AND task_id = 'stage_out'"
        number = connection.execute(sa.text(query), {"run": job.run.run_id}).scalar_one()
    told = driver.post("/tis/cancelled", {"job": job.id, "ti_id": ti_id, "try_number": number})
    assert told.json() == {"acted": False}
    assert order.write(b"") == "nobody waits for it any more"
    assert job.described()["status"] == "completed"


def test_a_node_can_neither_store_elsewhere_nor_tell_nonsense(
    database: Any, alice: User, driver: Driver, node: PretendNode, http: Any
) -> None:
    job = ended(database, alice, driver, node)
    job.ask(job.run.clear("stage_out"))
    order = node.order()
    assert place(node, order, "scratch/other/a.txt").json() == {"error": "name: is not below the job's own folder"}
    assert place(node, order, "").status_code == 400
    other = PretendNode(http)
    assert other.post(f"/commands/{order.id}/place", {"name": "scratch/x"}).status_code == 404
    other.gone()
    headers = job.runner.headers
    assert http.post(f"{BASE}/commands/{order.id}/place", json={"name": "x"}, headers=headers).status_code == 403
    for said, sentence in (
        (b"no json\n", "what is told of outputs must be lines of JSON with kind and data"),
        (line("end", status="failed"), "kind: must be log or output, and data an object"),
        (line("output", **facts("c.txt")), "reports.data.asked: the job asks for no such output"),
    ):
        answer = node.put(f"/commands/{order.id}/output?offset=0", said)
        assert (answer.status_code, answer.json()["error"]) == (400, sentence)
    order.end(None, "no")
