"""OneData volumes. There is no provider here: what oneclient is asked is shown by a stand-in, which mounts a folder.

The stand-in takes oneclient's options, keeps what it was asked, and has rclone mount a folder of this machine there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.webdav import need_mounts

from .apiserver import L1, Api
from .conftest import HERE, PYTHON, Agent
from .test_artifacts import artifact
from .test_jobs import sh
from .test_outputs import reported
from .test_storage import ANYWHERE, FAILED, lines, nothing_left

TOKEN = "MDAxY2xvY2F0aW9uIG9uZXpvbmUK"
STAND_IN = """#!{python}
import json, os, sys
with open({asked!r}, "w") as file:
    json.dump({{"argv": sys.argv, "environment": dict(os.environ)}}, file)
if os.environ["ONECLIENT_ACCESS_TOKEN"] != {token!r}:
    sys.exit("Connecting to provider 'localhost:443' using session ID: '1'...\\nERROR: Token has been revoked.")
more = ["--allow-other"] if "allow_other" in sys.argv else []
os.execvp("rclone", ["rclone", "mount", {space!r}, sys.argv[-1], "--vfs-cache-mode", "off", "--umask", "0", *more])
"""


@pytest.fixture
def space(folder: Path) -> Path:
    made = folder / "space"
    made.mkdir(mode=0o777)
    return made


@pytest.fixture
def agent(api: Api, folder: Path, space: Path) -> Iterator[Agent]:
    """A node on which oneclient lies beside the agent's Python."""
    need_mounts()
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(PYTHON)
    tool = programs / "oneclient"
    asked = str(folder / "asked")
    tool.write_text(STAND_IN.format(python=sys.executable, asked=asked, token=TOKEN, space=str(space)))
    tool.chmod(0o755)
    made = Agent(api, folder, [str(programs / "python"), str(HERE / "hostserve.py")], [])
    made.start()
    yield made
    left = made.close()
    print(made.log.read_text())
    assert not left


def onedata(**changes: str) -> dict[str, object]:
    account = {"provider": "localhost", "token": TOKEN} | changes
    return {"type": "onedata", "mountpoint": "/data", "onedata": account}


def test_what_oneclient_is_asked(api: Api, agent: Agent, folder: Path, space: Path) -> None:
    (space / "given").write_text("from the space\n")
    storage = onedata(options="--space 'My space' --insecure")
    task = sh('cat "$BIND_data/given"; echo x > "$BIND_data/made"')
    lease = api.assign(L1, [task], storage=storage, addresses=ANYWHERE)
    api.wait(lambda: lease.end)
    assert lease.end is not None
    assert (lease.end["status"], bytes(lease.streams["stdout"])) == ("completed", b"from the space\n"), lines(lease)
    assert (space / "made").read_text() == "x\n"
    asked = json.loads((folder / "asked").read_text())
    record = agent.record(L1) / "storage"
    expected = ["--foreground", "--force-proxy-io", "--log-dir", str(record / "logs"), "--host", "localhost"]
    expected += ["--opt", "allow_other"] if os.geteuid() == 0 else []
    expected += ["--space", "My space", "--insecure", str(agent.state / "mounts" / L1 / "volume")]
    assert asked["argv"][1:] == expected
    assert asked["environment"]["ONECLIENT_ACCESS_TOKEN"] == TOKEN
    assert asked["environment"]["HOME"] == str(record)
    assert not any(TOKEN in line for line in lines(lease))
    nothing_left(agent, L1)


def test_outputs_go_to_a_space(api: Api, agent: Agent, folder: Path, space: Path) -> None:
    mine = space / "My space"
    mine.mkdir()
    mine.chmod(0o777)
    (mine / "given").write_text("from the space\n")
    given = artifact("") | {"filename": "given", "stored": "/data/My space/given"}
    there = {
        "outputs": [{"kind": "file", "name": "a"}],
        "outputs_folder": "My space/runs/12",
        "outputs_on_storage": True,
    }
    task = sh("cat given; echo 1 > a")
    lease = api.assign(L1, [task], storage=onedata(), addresses=ANYWHERE, artifacts=[given], **there)
    api.wait(lambda: lease.end, 60)
    assert lease.end is not None
    assert (lease.end["status"], bytes(lease.streams["stdout"])) == ("completed", b"from the space\n"), lines(lease)
    assert (mine / "runs" / "12" / "a").read_text() == "1\n"
    assert [one["name"] for one in reported(lease)] == ["a"]
    nothing_left(agent, L1)


def test_a_token_that_is_refused(api: Api, agent: Agent) -> None:
    lease = api.assign(L1, [sh("echo no")], storage=onedata(token="revoked-token"), addresses=ANYWHERE)
    api.wait(lambda: lease.end, 40)
    assert lease.end is not None
    assert (lease.end["status"], lease.end["reason"]) == ("failed", FAILED)
    assert lines(lease)[-1] == "Storage could not be mounted: ERROR: Token has been revoked."
    assert not lease.streams["stdout"]
    nothing_left(agent, L1)


def test_a_provider_that_has_no_address(api: Api, agent: Agent) -> None:
    storage = onedata(provider="provider.invalid")
    lease = api.assign(L1, [sh("echo no")], storage=storage, addresses=ANYWHERE)
    api.wait(lambda: lease.end, 60)
    assert lease.end is not None
    assert lease.end["reason"] == FAILED
    assert lines(lease)[-1] == "Storage could not be mounted: provider.invalid has no address"
