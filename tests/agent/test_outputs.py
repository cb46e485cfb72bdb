"""A job's outputs: found where its document says, stored whatever became of its tasks, or missed by name."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .apiserver import L1, Api, Lease
from .conftest import Agent, eventually
from .fileserver import FileServer
from .test_artifacts import lines
from .test_jobs import sh

NOT_FOUND = "Stageout failed due to no such file or directory"
NOT_STORED = "Unable to stageout output to object storage"
NOT_PACKED = "Stageout failed due to tarball creation failed"


@pytest.fixture
def store(api: Api) -> Iterator[FileServer]:
    with FileServer() as server:
        api.set(store=server.base)
        yield server


def assign(api: Api, script: str, files: list[str] = (), dirs: list[str] = (), **changes: Any) -> Lease:  # type: ignore[assignment]
    outputs = [{"kind": "file", "name": name} for name in files] + [{"kind": "dir", "name": name} for name in dirs]
    tasks = changes.pop("tasks", None) or [sh(script)]
    return api.assign(L1, tasks, outputs=outputs, **changes)


def outcome(lease: Lease) -> tuple[str, str, bool]:
    assert lease.end is not None
    return lease.end["status"], lease.end["reason"], lease.end["node_success"]


def reported(lease: Lease) -> list[dict[str, Any]]:
    return [report["data"] for report in lease.reports if report["kind"] == "output"]


def stored(store: FileServer, file: str) -> bytes:
    return store.stored[f"/scratch/{L1}/{file}"]


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return {member.name: member for member in archive}


def test_files_and_folders_are_stored(api: Api, agent: Agent, store: FileServer) -> None:
    script = (
        "mkdir -p out/deep/er && echo one > out/deep/a.txt && ln -s a.txt out/deep/l && chmod 500 out/deep/er;"
        " head -c 3000000 /dev/zero > big.bin; echo hi > out/x; : > empty"
    )
    lease = assign(api, script, ["big.bin", "out/deep/a.txt", "empty"], ["out/deep", "./out/"])
    api.wait(lambda: lease.end)
    assert outcome(lease) == ("completed", "", True), lines(lease)
    assert stored(store, "big.bin") == bytes(3_000_000)
    assert stored(store, "a.txt") == b"one\n"
    assert stored(store, "empty") == b""
    deep = members(stored(store, "deep.tgz"))
    assert {name: (found.mode, found.type) for name, found in deep.items()} == {
        "deep": (0o755, tarfile.DIRTYPE),
        "deep/a.txt": (0o644, tarfile.REGTYPE),
        "deep/er": (0o500, tarfile.DIRTYPE),
        "deep/l": (0o777, tarfile.SYMTYPE),
    }
    assert sorted(members(stored(store, "out.tgz"))) == [
        "out",
        "out/deep",
        *(f"out/{n}" for n in list(deep)[1:]),
        "out/x",
    ]
    assert lease.kinds() == ["stage_in", "pulled", "running", "task", "stage_out", *["log", "output"] * 5, "end"]
    first = reported(lease)[0]
    assert first == {
        "name": "big.bin",
        "asked": "big.bin",
        "kind": "file",
        "file": "big.bin",
        "size": 3_000_000,
        "sha256": hashlib.sha256(bytes(3_000_000)).hexdigest(),
    }
    found = {data["file"]: (data["name"], data["asked"], data["kind"]) for data in reported(lease)}
    assert found["out.tgz"] == ("out", "./out/", "dir")
    assert re.fullmatch(r"Output big\.bin: 3\.0 MB stored as big\.bin in \d\.\d s \(.*/s\)", lines(lease)[0])
    assert re.match(r"Output out: 2 files packed in \d\.\d s, \d+ bytes stored as out\.tgz", lines(lease)[-1])
    assert lease.end is not None
    assert lease.end["execution"]["stageOutTime"] > 0
    # each was sent to a URL of its own, and nothing of a token went to the store
    assert len({asked.path for asked in store.asked}) == len(store.asked) == 5
    assert not any("authorization" in asked.headers for asked in store.asked)
    agent.forget(L1)


def test_patterns_mean_all_that_fits(api: Api, agent: Agent, store: FileServer) -> None:
    script = (
        "mkdir -p r/1 r/2 r/.h; for d in 1 2 .h; do echo $d > r/$d/x.dat; echo $d > r/$d/only$d.dat; done;"
        " mkdir r/1/dir.dat; echo star > 'a[1].txt'; echo not > a1.txt"
    )
    lease = assign(api, script, ["r/*/*.dat", "r/1/x.dat", "a[1].txt"], ["r/[0-9]"])
    api.wait(lambda: lease.end)
    assert outcome(lease) == ("completed", "", True), lines(lease)
    names = sorted((data["asked"], data["name"], data["file"]) for data in reported(lease))
    assert names == [
        ("a[1].txt", "a[1].txt", "a[1].txt"),
        ("r/*/*.dat", "r/1/only1.dat", "only1.dat"),
        ("r/*/*.dat", "r/1/x.dat", "r_1_x.dat"),
        ("r/*/*.dat", "r/2/only2.dat", "only2.dat"),
        ("r/*/*.dat", "r/2/x.dat", "r_2_x.dat"),
        ("r/1/x.dat", "r/1/x.dat", "x.dat"),
        ("r/[0-9]", "r/1", "1.tgz"),
        ("r/[0-9]", "r/2", "2.tgz"),
    ]
    assert stored(store, "a[1].txt") == b"star\n"
    assert (stored(store, "x.dat"), stored(store, "r_2_x.dat")) == (b"1\n", b"2\n")


@pytest.mark.parametrize(
    ("files", "dirs", "sentence"),
    [
        (["no.txt"], [], "Output no.txt: no such file or directory; the job's home holds a.txt, d"),
        (["d/*.txt"], [], "Output d/*.txt: no file is called so; the job's home holds a.txt, d"),
        (["d"], [], "Output d: is a folder, not a file; the job's home holds a.txt, d"),
        ([], ["a.txt"], "Output a.txt: is a file, not a folder; the job's home holds a.txt, d"),
        (["a.txt/x"], [], "Output a.txt/x: no such file or directory; the job's home holds a.txt, d"),
    ],
)
def test_what_is_missing_fails_the_job(
    api: Api, agent: Agent, store: FileServer, files: list[str], dirs: list[str], sentence: str
) -> None:
    lease = assign(api, "mkdir d; echo a > a.txt", [*files, "a.txt"], dirs)
    api.wait(lambda: lease.end)
    assert outcome(lease) == ("failed", NOT_FOUND, False)
    assert sentence in lines(lease)
    assert stored(store, "a.txt") == b"a\n"  # what is there is stored all the same


def test_failed_tasks_leave_outputs_too(api: Api, agent: Agent, store: FileServer) -> None:
    lease = assign(api, "echo a > a.txt; exit 3", ["a.txt"])
    api.wait(lambda: lease.end)
    assert outcome(lease) == ("completed", "", False)
    assert lease.end is not None
    assert lease.end["execution"]["tasks"][0]["exitCode"] == 3
    assert stored(store, "a.txt") == b"a\n"


def test_a_job_over_its_walltime_leaves_what_it_had(api: Api, agent: Agent, store: FileServer) -> None:
    lease = assign(api, "echo a > a.txt; sleep 100", ["a.txt", "never.txt"], resources={"walltime_s": 1.0})
    api.wait(lambda: lease.end)
    assert outcome(lease) == ("killed", "Walltime limit exceeded", False)
    assert stored(store, "a.txt") == b"a\n"
    assert lines(lease)[-1].startswith("Output never.txt: no such file")
    agent.forget(L1)


def test_links_lead_where_they_do_in_the_container(api: Api, agent: Agent, store: FileServer) -> None:
    script = (
        'echo t > "$TMP_DIR/t.txt"; mkdir d; echo in > d/f; ln -s /tmp/t.txt tmp.txt; ln -s /home/user/d abs;'
        " ln -s abs/f rel; ln -s /etc/passwd out.txt; ln -s ../../../../../../etc up; ln -s self self;"
        " ln -s /proc/self/fd proc; mkfifo pipe"
    )
    names = ["tmp.txt", "rel", "abs/f", "out.txt", "up/hostname", "self", "proc/1", "pipe"]
    lease = assign(api, script, names)
    api.wait(lambda: lease.end)
    assert outcome(lease) == ("failed", NOT_FOUND, False)
    assert [data["name"] for data in reported(lease)] == ["tmp.txt", "rel", "abs/f"], lines(lease)
    assert stored(store, "tmp.txt") == b"t\n"
    told = "\n".join(lines(lease))
    for name in ("out.txt", "up/hostname", "proc/1"):
        assert f"Output {name}: leads out of the job's folders" in told, told
    assert "Output self: too many symbolic links" in told
    assert "root:" not in str(store.stored)
    assert "pipe: is neither a file nor a folder, not a file" in told


def test_a_store_that_fails_for_a_while(api: Api, agent: Agent, store: FileServer) -> None:
    store.put_refusals = [500, 403]
    store.put_breaks = 1
    lease = assign(api, "head -c 300000 /dev/urandom > x; md5sum < x", ["x"])
    api.wait(lambda: lease.end, 40)
    assert outcome(lease) == ("completed", "", True), lines(lease)
    assert hashlib.md5(stored(store, "x")).hexdigest() in bytes(lease.streams["stdout"]).decode()
    assert " stored as x in 3 tries in " in lines(lease)[-1]
    assert len(api.outputs_asked) == 3  # a URL that was refused may have been too old


def test_a_store_that_does_not_want_it(api: Api, agent: Agent, store: FileServer) -> None:
    store.put_refusals = [413]
    lease = assign(api, "echo x > x; echo y > y", ["x", "y"])
    api.wait(lambda: lease.end)
    assert outcome(lease) == ("failed", NOT_STORED, False)
    assert lines(lease)[0] == "Output x: 127.0.0.1 answered 413"
    assert stored(store, "y") == b"y\n"


def test_a_folder_that_is_too_large_for_its_archive(api: Api, agent: Agent, store: FileServer) -> None:
    script = "mkdir d; head -c 1500000 /dev/urandom > d/x"
    lease = assign(api, script, [], ["d"], resources={"disk_mb": 1})
    lease.assignment["resources"]["disk_mb"] = 1
    api.wait(lambda: lease.end)
    assert outcome(lease)[1] in (NOT_PACKED, "Job used too much disk")
    assert not store.stored


def test_an_api_that_comes_back(api: Api, agent: Agent, store: FileServer) -> None:
    lease = assign(api, "echo up; sleep 1.5; echo x > x", ["x"])
    api.wait(lambda: lease.streams["stdout"] == b"up\n")
    api.set(down=True)
    time.sleep(4)
    api.set(down=False)
    api.wait(lambda: lease.end)
    assert outcome(lease) == ("completed", "", True), lines(lease)
    assert stored(store, "x") == b"x\n"


def test_a_job_is_deleted_while_it_is_stored(api: Api, agent: Agent, store: FileServer) -> None:
    store.put_refusals = [503] * 100
    lease = assign(api, "echo x > x", ["x"])
    eventually(lambda: store.asked)
    with api.lock:
        lease.stop = {"why": "Job deleted by user", "grace_s": 0}
        api.lock.notify_all()
    api.wait(lambda: lease.end, 5)
    assert outcome(lease) == ("killed", "Job deleted by user", False)
    agent.forget(L1)


def test_a_runner_killed_while_it_stores_leaves_nothing(api: Api, agent: Agent, store: FileServer) -> None:
    store.put_refusals = [503] * 100
    lease = assign(api, "echo x > x", ["x"])
    eventually(lambda: store.asked)
    os.kill(agent.pid(L1, "runner"), signal.SIGKILL)
    api.wait(lambda: lease.lost)
    eventually(lambda: [pid for pid in agent.processes() if L1 in _cmdline(pid)] == [])


def _cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_standard_output_goes_to_a_file_too(api: Api, agent: Agent, store: FileServer) -> None:
    tasks = [
        sh("echo one; echo err >&2; head -c 200000 /dev/zero", stdout="logs/one.txt"),
        sh('stat -c "%u %a" logs/one.txt; id -u; cat logs/one.txt | md5sum', stdout="two.txt"),
    ]
    lease = assign(api, "", ["logs/one.txt", "two.txt"], tasks=tasks)
    api.wait(lambda: lease.end)
    assert outcome(lease) == ("completed", "", True), lines(lease)
    one = b"one\n" + bytes(200_000)
    assert stored(store, "one.txt") == one
    owner, uid, digest = stored(store, "two.txt").decode().splitlines()
    assert owner == f"{uid} 644"
    assert digest.split()[0] == hashlib.md5(one).hexdigest()
    assert bytes(lease.streams["stdout"]) == one + stored(store, "two.txt")


def test_standard_output_can_not_be_led_away(api: Api, agent: Agent, store: FileServer, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    tasks = [sh(f"ln -s {victim} logs; echo kept > old.txt; ln -s {victim}/f two.txt"), sh("echo x", stdout="two.txt")]
    tasks.append(sh("echo y", stdout="logs/f"))
    lease = assign(api, "", ["two.txt"], tasks=tasks)
    api.wait(lambda: lease.end)
    assert outcome(lease)[:2] == ("failed", "Unable to execute task(s)")
    assert "tasks[2].stdout: logs/f can't be written, the path 'logs' leads through a link or a file" in lines(lease)
    assert list(victim.iterdir()) == []
    assert stored(store, "two.txt") == b"x\n"


def test_a_retried_task_begins_its_file_anew(api: Api, agent: Agent, store: FileServer) -> None:
    tasks = [sh("echo try; test -e seen || { touch seen; exit 1; }", stdout="o")]
    lease = assign(api, "", ["o"], tasks=tasks, task_retries=1)
    api.wait(lambda: lease.end)
    assert (outcome(lease), stored(store, "o")) == (("completed", "", True), b"try\n")


def test_a_packed_file_reads_well(api: Api, agent: Agent, store: FileServer) -> None:
    lease = assign(api, "mkdir d; seq 100000 > d/n", [], ["d"])
    api.wait(lambda: lease.end)
    data = gzip.decompress(stored(store, "d.tgz"))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile("d/n")
        assert member is not None
        assert member.read().splitlines()[-1] == b"100000"
