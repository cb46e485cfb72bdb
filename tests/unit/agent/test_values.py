"""The agent's parts that need no process: values, files, counting."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.agent import assignment, report, run, spool, stage, wire
from airflow_prominence.agent.limits import DiskWatch
from airflow_prominence.agent.paths import BadLease, LeasePaths, Process, read_json, write_atomic
from airflow_prominence.agent.users import User

ME = User(os.getuid(), os.getgid(), own=False)
WHOLE = {
    "lease": "l1",
    "job": 1,
    "attempt": 1,
    "token": "t",
    "job_token": "j",
    "report_url": "http://h/x/",
    "resources": {"cpus": 1, "memory_mb": 1, "disk_mb": 1, "walltime_s": 1},
    "tasks": [{"image": "i", "runtime": "singularity", "argv": ["a"]}],
}


def test_assignment_is_frozen_and_whole() -> None:
    parsed = assignment.parse(json.dumps(WHOLE))
    assert parsed.report_url == "http://h/x"
    assert parsed.tasks[0].argv == ("a",)
    with pytest.raises(AttributeError):
        parsed.lease = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lease": 1}, "lease"),
        ({"tasks": None}, "tasks"),
        ({"tasks": [{"image": "i", "runtime": "singularity", "argv": []}]}, r"tasks\[0\].argv"),
        ({"tasks": [{"image": "i", "runtime": "singularity", "type": "openmpi"}]}, r"tasks\[0\].type"),
        ({"tasks": [{"image": "i", "runtime": "singularity", "env": {"A=B": "c"}}]}, r"tasks\[0\].env.A=B"),
        ({"resources": {"cpus": True, "memory_mb": 1, "disk_mb": 1, "walltime_s": 1}}, "resources.cpus"),
        ({"resources": {"cpus": 1, "memory_mb": 1, "disk_mb": 1, "walltime_s": 0}}, "resources.walltime_s"),
        ({"inputs": [{"filename": "a"}]}, r"inputs\[0\].content"),
    ],
)
def test_refusals_name_the_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(assignment.BadAssignment, match=field):
        assignment.parse(json.dumps({**WHOLE, **change}))


@pytest.mark.parametrize("lease", ["", "..", "a/b", "-x", "a b", "x" * 200])
def test_a_lease_is_a_plain_name(lease: str) -> None:
    with pytest.raises(BadLease):
        LeasePaths("/s", lease)


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    me = Process.of(os.getpid())
    me.write(str(tmp_path / "pid"))
    assert Process.read(str(tmp_path / "pid")) == me
    assert me.alive
    assert not Process(me.pid, me.start + 1, me.boot).alive
    assert not Process(me.pid, me.start, "another boot").alive


def test_files_are_whole_and_private(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    write_atomic(path, '{"a": 1}')
    assert read_json(path) == {"a": 1}
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["f"]
    assert read_json(str(tmp_path / "none")) is None


def test_spool_survives_a_cut_line(tmp_path: Path) -> None:
    folder = str(tmp_path / "spool")
    writer = spool.Writer(folder)
    writer.add("stage_in")
    writer.add("end", {"status": "completed"})
    with open(spool.reports_path(folder), "ab") as handle:
        handle.write(b'{"seq": 3, "ki')
    assert [report["seq"] for report in spool.read(folder)] == [1, 2]
    assert spool.ended(folder)


def test_tail_is_short_and_prefers_errors(tmp_path: Path) -> None:
    folder = str(tmp_path)
    Path(spool.stream_path(folder, "stdout")).write_bytes(b"o" * 5000)
    Path(spool.stream_path(folder, "stderr")).write_bytes(b"\xffe\n")
    found = spool.tail(folder)
    assert found.endswith("o\ufffde\n")
    assert len(found) <= 2048


def test_an_end_that_is_refused_is_told_without_what_may_be_the_cause(tmp_path: Path) -> None:
    folder = str(tmp_path / "spool")
    writer = spool.Writer(folder)
    writer.add("running")
    writer.add("log", {"message": "bad"})
    writer.add("end", {"status": "completed", "reason": "", "node_success": False, "execution": {}, "tail": "bad"})
    spool.mark_swept(folder)
    taken: list[dict[str, Any]] = []

    class Picky(wire.Connection):
        def call(self, *given: Any, **_more: Any) -> dict[str, Any]:
            if b"bad" in given[3]:
                raise wire.Refused(400, "no")
            taken.extend(json.loads(given[3])["reports"])
            return {"seq": taken[-1]["seq"]}

    delivery = report.Delivery(assignment.parse(json.dumps(WHOLE)), folder, lambda _message: None)
    delivery._connection = Picky("http://h")
    assert delivery.run() == report.DELIVERED
    assert [item["kind"] for item in taken] == ["running", "log", "end"]
    assert taken[-1]["data"] == {"status": "completed", "reason": "", "node_success": False, "execution": {}}


def test_a_record_that_cannot_be_read_is_given_up(tmp_path: Path) -> None:
    paths = LeasePaths(str(tmp_path), "l1")
    spool.Writer(paths.spool).add("end", {"status": "completed"})
    old = {key: value for key, value in WHOLE.items() if key != "job_token"}
    Path(paths.assignment).write_text(json.dumps(old))
    umask = os.umask(0)
    try:
        assert run.recover(str(tmp_path), "l1") == run.LOST
    finally:
        os.umask(umask)
    assert "job_token" in Path(paths.lost).read_text()


def _input(name: str, content: bytes = b"x", executable: bool = False) -> assignment.Input:
    return assignment.Input(name, base64.b64encode(content).decode(), executable)


def test_inputs_never_follow_links(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    outside.mkdir()
    (home / "d").symlink_to(outside)
    (home / "f").symlink_to(outside / "f")
    for name in ("d/x", "f"):
        with pytest.raises(stage.BadInput):
            stage.write_inputs([_input(name)], str(home), ME)
    assert os.listdir(outside) == []
    stage.write_inputs([_input("a/b", b"1"), _input("a/b", b"2", True)], str(home), ME)
    assert (home / "a" / "b").read_bytes() == b"2"
    assert os.access(home / "a" / "b", os.X_OK)


def test_removal_of_closed_folders(tmp_path: Path) -> None:
    folders = stage.make(str(tmp_path / "job"), ME)
    inner = Path(folders.home) / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "f").touch()
    (Path(folders.home) / "link").symlink_to("/")
    inner.chmod(0)
    inner.parent.chmod(0)
    assert stage.remove(folders.root)
    assert not os.path.lexists(folders.root)


def test_disk_is_counted_in_slices(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).write_bytes(b"x" * 100_000)
    small = DiskWatch([str(tmp_path)], [], 100)
    assert not any(small.exceeded([], 0.0) for _ in range(200))
    big = DiskWatch([str(tmp_path)], [], 1)
    assert any(big.exceeded([], 0.0) for _ in range(200))


def test_backoff_grows_to_a_bound() -> None:
    backoff = wire.Backoff(0.2, 5.0)
    pauses = [backoff.pause() for _ in range(20)]
    assert 0.1 <= pauses[0] <= 0.2
    assert all(2.5 <= pause <= 5.0 for pause in pauses[10:])


def test_the_package_itself_loads_nothing() -> None:
    code = (
        "import sys; import airflow_prominence.agent as a;"
        "print([m for m in sys.modules if m.startswith(a.__name__ + '.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
