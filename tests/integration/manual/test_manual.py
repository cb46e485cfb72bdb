"""Every example of the manual, typed as a user would, each from `examples.yaml`; jobs and workflows again by curl."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_prominence.standalone import settings
from tests import webdav
from tests.integration.flows import Flow, made, roomy
from tests.integration.manual.images import config_of_private, make_images, make_private_layer, make_singularity_image
from tests.integration.stacks import Ended, Stack, until
from tests.runtimes.registry import Registry
from tests.webdav import WebDav

Row = Mapping[str, Any]

EXAMPLES: list[Row] = yaml.safe_load((Path(__file__).parent / "examples.yaml").read_text(encoding="utf-8"))
JOBS = [row for row in EXAMPLES if "job" in row and row.get("curl", True)]
WORKFLOWS = [row for row in EXAMPLES if "workflow" in row]


def _named(row: Row) -> str:
    return str(row["where"])


@pytest.fixture(scope="module")
def names(stack: Stack, cloud: WebDav) -> Iterator[dict[str, str]]:
    """What stands for the hosts and accounts that the manual names; the images that it names are there."""
    make_images(stack.places.images)
    cloud.start()
    registry = Registry(credential=("username", "VzIxo3sZ2yC6V5YeSBxR"))
    registry.push("mynamespace/myproject/image:rc1", config_of_private(), [make_private_layer()])
    with roomy(stack, 12):
        yield {
            "registry": registry.host,
            "url": stack.url,
            "dav": cloud.url,
            "user": webdav.USER,
            "password": json.dumps(webdav.PASSWORD)[1:-1],
        }
    registry.close()
    cloud.kill()
    cloud.empty()


class Desk:
    """A user's own machine: a home with a token in it, a folder to work in, a shell, a web server of the project's."""

    def __init__(self, stack: Stack, folder: Path, names: Mapping[str, str], web: str) -> None:
        self.stack, self.folder = stack, folder
        self.names = {**names, "web": web}
        self.home = folder / "home"
        (self.home / ".prominence").mkdir(parents=True)
        token = self.home / ".prominence" / "token"
        token.write_text(json.dumps({"access_token": stack.token}))
        self.work = folder / "work"
        self.work.mkdir()

    def filled(self, text: str, row: Row) -> str:
        for printed, here in row.get("replace", {}).items():
            text = text.replace(printed, here)
        for name, value in self.names.items():
            text = text.replace("{" + name + "}", value)
        return text

    def put_files(self, row: Row) -> None:
        if row.get("mounts"):
            webdav.need_mounts()
        for name, content in row.get("files", {}).items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_MADE[content](self) if content in _MADE else self.filled(content, row).encode())

    def type(self, command: str) -> Ended:
        """What a shell of this user says to a command."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.work,
            env={
                **settings.own_environment(os.environ),
                "HOME": str(self.home),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PROMINENCE_URL": self.stack.url,
                "ACCESS_TOKEN": self.stack.token,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def make_given(self, row: Row) -> None:
        """Do what must have been done before the example."""
        if "given" in row:
            done = self.type(row["given"])
            assert done.code == 0, done
            if made := re.findall(r"Job created with id (\d+)", done.stdout):
                self.names["job"] = made[0]
                self.stack.wait(int(made[0]), row.get("until", "completed"))
            if made := re.findall(r"Workflow created with id (\d+)", done.stdout):
                self.names["workflow"] = made[0]
                Flow(self.stack, int(made[0])).wait(row.get("until", "completed"))

    def check_job(self, job: int, row: Row) -> None:
        wanted = row["job"]
        described = self.stack.wait(job)
        assert described["status"] == wanted.get("status", "completed"), described
        assert [task["exitCode"] for task in described["execution"]["tasks"]] == [0] * len(described["tasks"]), (
            described
        )
        if "out" in wanted:
            assert re.search(wanted["out"], self.stack.stdout(job).decode()), self.stack.stdout(job)
        if "outputs" in wanted:
            done = self.type(f"prominence download {job}")
            assert done.code == 0, done
            assert {name for name in wanted["outputs"] if not (self.work / name).is_file()} == set()

    def check_workflow(self, workflow: int, row: Row) -> None:
        flow, wanted = Flow(self.stack, workflow), row["workflow"]
        described = flow.wait()
        assert described["status"] == "completed", described
        jobs = flow.jobs()
        assert list(jobs) == list(wanted["outs"])
        assert described["progress"] | {"total": len(jobs), "done": len(jobs)} == described["progress"]
        for name, out in wanted["outs"].items():
            said = self.stack.stdout(jobs[name]["id"]).decode()
            assert re.search(out, said), said
        for pair in wanted.get("edges", ()):
            before, after = (jobs[f"{described['name']}/{name}"]["events"] for name in pair)
            assert before["endTime"] <= after["startTime"], pair


def _tgz(_: Desk) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("cadmesh/mesh.txt")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"mesh\n"))
    return out.getvalue()


_MADE = {"sif": lambda _: make_singularity_image(), "tgz": _tgz}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def desk(stack: Stack, names: dict[str, str], tmp_path: Path) -> Iterator[Desk]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "work"))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        user = Desk(stack, tmp_path, names, f"http://127.0.0.1:{server.server_address[1]}")
        yield user
        with stack.client() as client:
            if "job" in user.names:
                client.delete(f"/jobs/{user.names['job']}")
            if "workflow" in user.names:
                client.delete(f"/workflows/{user.names['workflow']}")
            for upload in client.get("/data").json():
                client.delete(f"/data/{upload['name']}")
        server.shutdown()
        thread.join()


def test_the_table_says_why_where_it_differs() -> None:
    for row in EXAMPLES:
        assert ("run" in row or "replace" in row) == ("why" in row), row["where"]
    assert len({row["where"] for row in EXAMPLES}) == len(EXAMPLES)


@pytest.mark.parametrize("row", EXAMPLES, ids=_named)
def test_as_a_user_types_it(desk: Desk, row: Row) -> None:
    desk.put_files(row)
    desk.make_given(row)
    command = row.get("run", row["printed"])
    if row.get("document"):
        (desk.work / "document.json").write_text(desk.filled(command, row))
        command = "prominence run document.json"
    done = desk.type(desk.filled(command, row))
    assert done.code == row.get("code", 0), done
    if "refused" in row:
        assert row["refused"] in done.stdout + done.stderr, done
        return
    if "says" in row:
        assert re.search(desk.filled(row["says"], row), done.stdout), done
    if "then" in row:
        if "workflow" in desk.names:
            Flow(desk.stack, int(desk.names["workflow"])).wait(row["then"])
        else:
            until(lambda: desk.stack.describe(int(desk.names["job"]))["status"] == row["then"], 30)
    if "job" in row:
        [job] = re.findall(r"^Job created with id (\d+)$", done.stdout, re.MULTILINE)
        desk.check_job(int(job), row)
    if "workflow" in row:
        desk.check_workflow(made(done), row)


@pytest.mark.parametrize("row", JOBS, ids=_named)
def test_the_same_by_curl(desk: Desk, row: Row) -> None:
    """As chapter 7 shows: the document in a file, a token in a variable."""
    desk.put_files(row)
    desk.make_given(row)
    command = desk.filled(row.get("run", row["printed"]), row)
    if row.get("document"):
        document = command
    elif "prominence run" in command:
        document = desk.type(command.partition("&&")[0] + "; cat filename.json").stdout
    else:
        dry = desk.type(command.replace("prominence create", "prominence create --dry-run", 1))
        assert dry.code == 0, dry
        document = dry.stdout
    desk.check_job(posted(desk, document, "jobs"), row)


@pytest.mark.parametrize("row", WORKFLOWS, ids=_named)
def test_the_same_workflow_by_curl(desk: Desk, row: Row) -> None:
    desk.check_workflow(posted(desk, desk.filled(row.get("run", row["printed"]), row), "workflows"), row)


def posted(desk: Desk, document: str, where: str) -> int:
    """POST a document with curl; the id of what is made."""
    (desk.work / "posted.json").write_text(document)
    done = desk.type(
        'curl -s -w "\\n%{http_code}\\n" -X POST -H "Authorization: Bearer $ACCESS_TOKEN" '
        f'-H "Content-Type: application/json" -d@posted.json {shlex.quote(desk.stack.url)}/{where}'
    )
    body, status = done.stdout.split("\n")[:2]
    assert status == "201", done
    return int(json.loads(body)["id"])
