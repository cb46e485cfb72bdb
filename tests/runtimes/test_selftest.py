"""A runtime that does not keep its promise is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_prominence.agent import selftest
from airflow_prominence.agent.runtimes import ContainerSpec, Launch, Runtime
from airflow_prominence.agent.runtimes.bubblewrap import Bubblewrap
from airflow_prominence.agent.runtimes.files import CLEAN, run_as

LYING_PROOT = """#!/bin/sh
# Takes proot's options and translates nothing: the program runs on the host's own files.
while [ $# -gt 0 ]; do
    case $1 in
    -r | -b | -w | -k | -i | -q | -n | -p | -v) shift 2 ;;
    -*) shift ;;
    *) break ;;
    esac
done
exec "$@"
"""


class Liar(Runtime):
    """Runs what it is given on the host."""

    name = "liar"

    def probe(self) -> str:
        return "1"

    def prepare(self, spec: ContainerSpec) -> None:
        """Nothing."""

    def launch(self, spec: ContainerSpec) -> Launch:
        return Launch(spec.command(), dict(CLEAN, **spec.env), run_as(spec))

    def inside(self, spec: ContainerSpec, argv: list[str], more: dict[str, str], guard: int) -> Launch | None:
        return None


class Rooted(Bubblewrap):
    """Lets the job be root inside."""

    def _options(self, spec: ContainerSpec) -> list[str]:
        return [*super()._options(spec), "--uid", "0", "--gid", "0"]


class Leaky(Bubblewrap):
    """Shows the host's /tmp and more."""

    def _options(self, spec: ContainerSpec) -> list[str]:
        return [*super()._options(spec), "--ro-bind", "/tmp", "/tmp"]


class Loose(Bubblewrap):
    """Forgets what each job wrote, or lets it write where it should not: swaps the two promises."""

    def _options(self, spec: ContainerSpec) -> list[str]:
        options = super()._options(spec)
        return (
            [option for option in options if option != "--remount-ro"] if spec.writable else [*options, "--tmpfs", "/"]
        )


@pytest.fixture
def state(place: Path, request: pytest.FixtureRequest) -> str:
    folder = place / f"state-{request.node.name}"
    folder.mkdir()
    folder.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Liar, "does not see the image's files"),
        (Rooted, "uid 0"),
        (Leaky, "sees files of the host"),
        (Loose, "not for singularity"),
    ],
)
def test_liars_are_refused(
    kind: type[Runtime], reason: str, state: str, engine_dir: str, usable: Callable[[str], str]
) -> None:
    usable("bubblewrap")
    with selftest.Examination(state) as examination:
        words, detail = examination.words(kind(engine_dir))
    assert "singularity" not in words
    assert reason in detail
    assert not any(os.path.exists(path) for path in examination.markers)


def test_a_lying_proot_is_refused(state: str, engine_dir: str, usable: Callable[[str], str]) -> None:
    usable("udocker")
    engines = Path(state, "engine")
    shutil.copytree(Path(engine_dir, "udocker"), engines / "udocker")
    for name in ("proot-x86_64", "proot-x86_64-4_8_0"):
        (engines / "udocker" / "bin" / name).write_text(LYING_PROOT)
    with pytest.raises(ValueError, match=r"udocker cannot serve udocker.*does not see the image's files"):
        selftest.admit({"udocker": "udocker"}, state, str(engines))
    table, info = selftest.choose(state, str(engines), "udocker=bubblewrap")
    assert table == {"udocker": "bubblewrap"}
    assert info["bubblewrap"]["admitted"] is True


def test_the_honest_are_admitted_and_remembered(
    state: str, engine_dir: str, usable: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = usable("bubblewrap")
    table, info = selftest.choose(state, engine_dir, "auto")
    assert table == {"singularity": "bubblewrap", "udocker": "bubblewrap"}
    assert info["bubblewrap"]["version"] == version
    monkeypatch.setattr(selftest.Examination, "__enter__", lambda self: pytest.fail("tested again"))
    assert selftest.choose(state, engine_dir, "auto")[0] == table
    stored = json.loads(Path(state, "selftest.json").read_text())
    stored["bubblewrap"]["key"] = "another kernel"
    Path(state, "selftest.json").write_text(json.dumps(stored))
    with pytest.raises(pytest.fail.Exception):
        selftest.choose(state, engine_dir, "auto")


@pytest.mark.parametrize("name", ["podman", "udocker"])
def test_others_that_are_honest(name: str, state: str, engine_dir: str, usable: Callable[[str], str]) -> None:
    usable(name)
    assert selftest.choose(state, engine_dir, f"udocker={name}", trusted=True)[0] == {"udocker": name}


def test_what_isolates_nothing_is_only_for_who_trust_each_other(
    state: str, engine_dir: str, usable: Callable[[str], str]
) -> None:
    usable("udocker")
    with pytest.raises(ValueError, match="--trusted-users-only"):
        selftest.choose(state, engine_dir, "udocker=udocker")
    _, info = selftest.choose(state, engine_dir, "udocker=udocker", trusted=True)
    assert info["udocker"]["isolates"] is False
    assert selftest.choose(state, engine_dir, "auto", trusted=True)[0]["udocker"] == "bubblewrap"


class Glass(Bubblewrap):
    """bwrap as it runs where the host forbids a new /proc: what it starts sees the host's processes."""

    def _features(self) -> dict[str, bool]:
        return {**super()._features(), "proc": False}


def test_a_container_that_sees_the_agents_secrets_is_no_wall(
    state: str, engine_dir: str, usable: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usable("bubblewrap")
    monkeypatch.setattr(selftest, "load", lambda name, engine_dir: Glass(engine_dir))
    # As root the job has a user of its own, who cannot look; so the agent is made to run as that user.
    watched = subprocess.Popen(["sleep", "60"], user=selftest._UID) if os.geteuid() == 0 else None
    try:
        if watched is not None:
            monkeypatch.setattr(selftest.os, "getpid", lambda: watched.pid)
        with pytest.raises(ValueError, match="isolates nothing"):
            selftest.choose(state, engine_dir, "singularity=bubblewrap")
    finally:
        if watched is not None:
            watched.kill()
            watched.wait()


def test_udocker_has_no_read_only_root(state: str, engine_dir: str, usable: Callable[[str], str]) -> None:
    usable("udocker")
    with pytest.raises(ValueError, match="no read-only root"):
        selftest.choose(state, engine_dir, "singularity=udocker")


@pytest.mark.parametrize("text", ["x", "singularity=nothing", "docker=bubblewrap", "singularity"])
def test_refused_settings(text: str, state: str, engine_dir: str) -> None:
    with pytest.raises(ValueError, match="runtimes: "):
        selftest.choose(state, engine_dir, text)


def test_nothing_at_all(state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "load", lambda name, engine_dir: Bubblewrap(str(tmp_path / "none")))
    monkeypatch.setattr(Bubblewrap, "binary", lambda self: "/no/such/bwrap")
    with pytest.raises(ValueError, match=r"no container runtime that passes the self-test .bubblewrap: "):
        selftest.choose(state, str(tmp_path), "auto")


def test_the_command(state: str, engine_dir: str, usable: Callable[[str], str]) -> None:
    usable("bubblewrap")
    argv = ["-m", "airflow_prominence.agent", "selftest", "--state", state, "--engine-dir", engine_dir, "--json"]
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bubblewrap"]["serves"] == ["singularity", "udocker"]
