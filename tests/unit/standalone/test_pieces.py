"""Ports, settings, secrets, records and places of the one-machine stack."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import stat
import subprocess
from pathlib import Path

import jwt
import pytest
from packaging.requirements import Requirement

from airflow_prominence import tokens
from airflow_prominence.standalone import control, envfile, node, ports, secretfiles, settings
from airflow_prominence.standalone.database import Database
from airflow_prominence.standalone.errors import StackError
from airflow_prominence.standalone.places import Places, reachable_by_others
from airflow_prominence.standalone.records import read_json, write_json, write_text

PORTS = {"api": 8081, "database": 5434, "worker log": 8795, "trigger log": 8796}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path, tmp_path)


def test_a_port_in_use_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert not ports.is_free(port)
        assert ports.choose({"api": port})["api"] > port


def test_a_port_that_another_stack_has_chosen_is_passed_over() -> None:
    mine: list[socket.socket] = []
    chosen = ports.choose({"api": 23556}, mine)["api"]
    assert ports.choose({"api": chosen})["api"] > chosen
    for claimed in mine:
        claimed.close()
    assert ports.choose({"api": chosen})["api"] == chosen


def test_two_names_never_get_one_port() -> None:
    chosen = ports.choose({"a": 23456, "b": 23456, "c": 23456})
    assert len(set(chosen.values())) == 3


def test_no_port_left_is_a_sentence() -> None:
    with pytest.raises(StackError, match="no port from 65536"):
        ports.choose({"api": 65536})


def test_secrets_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    made = secretfiles.load(tmp_path)
    assert secretfiles.load(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert len({made.fernet_key, made.jwt_secret, made.api_secret_key, made.internal_secret}) == 4
    assert set(json.loads(made.passwords_json)) == {"admin", "demo", "demo2"}


def test_half_written_record_is_none(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    path.write_text('{"a": ')
    assert read_json(path) is None
    assert read_json(tmp_path / "none.json") is None


def test_written_text_has_its_mode_and_leaves_no_other_file(tmp_path: Path) -> None:
    write_text(tmp_path / "env", "x")
    assert stat.S_IMODE((tmp_path / "env").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["env"]


def test_users_own_airflow_does_not_leak_in() -> None:
    found = settings.own_environment(
        {"AIRFLOW__CORE__EXECUTOR": "X", "AIRFLOW_HOME": "/x", "PYTHONPATH": "/x", "HOME": "/home/u", "PATH": "/bin"}
    )
    assert not [name for name in found if name.startswith("AIRFLOW") or name == "PYTHONPATH"]
    assert found["HOME"] == "/home/u"
    assert "127.0.0.1" in found["no_proxy"]


def test_tuned_settings_are_all_there(places: Places) -> None:
    found = settings.airflow_settings(places, PORTS, secretfiles.load(places.secrets))
    assert found["AIRFLOW__CORE__PARALLELISM"] == "32"
    assert found["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"] == "1"
    assert found["AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY"] == "0"
    assert found["AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD"] == "15"
    assert found["AIRFLOW__API__PORT"] == "8081"
    assert found["AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT"] == "8796"
    bundles = json.loads(found["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert [bundle["name"] for bundle in bundles] == ["dags-folder", "documents"]
    assert found["AIRFLOW__PROMINENCE__DOCUMENTS_FOLDER"] == str(places.documents)


def test_an_admins_settings_go_before_the_stacks_own(places: Places) -> None:
    places.overrides.write_text("# comment\n\nAIRFLOW__CORE__PARALLELISM=5\n")
    found = settings.airflow_settings(places, PORTS, secretfiles.load(places.secrets))
    assert found["AIRFLOW__CORE__PARALLELISM"] == "5"


def test_a_bad_line_of_settings_is_named(places: Places) -> None:
    places.overrides.write_text("AIRFLOW__CORE__PARALLELISM=5\nPARALLELISM\n")
    with pytest.raises(StackError, match="line 2"):
        settings.read_overrides(places.overrides)


def test_what_a_shell_sources_is_what_we_read(tmp_path: Path) -> None:
    write_text(tmp_path / "env", "export A='1 2'\nexport B='x=y'\n")
    assert control.read_env(tmp_path / "env") == {"A": "1 2", "B": "x=y"}
    assert control.read_env(tmp_path / "none") == {}


def test_a_shell_that_sources_the_file_finds_the_client_and_nothing_else_of_ours(places: Places) -> None:
    places.make()
    write_text(places.env_file, envfile.text({"A": "1 2"}, envfile.link_client(places)))
    told = subprocess.run(
        ["bash", "-c", f". '{places.env_file}'; . '{places.env_file}'; echo \"$A|$PATH\""],
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == f"1 2|{places.programs}:/usr/bin:/bin\n"
    assert os.listdir(places.programs) == ["prominence"]
    assert control.read_env(places.env_file) == {"A": "1 2"}


def test_a_closed_folder_is_not_reachable_by_others(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    inner.parent.chmod(0o700)
    assert not reachable_by_others(inner)
    assert not reachable_by_others(inner / "not there yet")


def test_node_token_names_node_and_site_and_is_the_owners_alone(tmp_path: Path) -> None:
    service = node.Node("n1", "s1", "http://127.0.0.1:1/x", tmp_path, tmp_path / "images", tmp_path / "engines")
    service.prepare("s" * 40)
    token = service.token_file.read_text().strip()
    claims = tokens.check(token, tokens.NODE, "s" * 40)
    assert (claims["sub"], claims["site"]) == ("n1", "s1")
    assert stat.S_IMODE(service.token_file.stat().st_mode) == 0o600
    assert token not in " ".join(service.argv)
    with pytest.raises(tokens.TokenRefused):
        tokens.check(token, tokens.USER, "s" * 40)
    assert jwt.get_unverified_header(token)["alg"] == "HS256"


def test_constraints_hold_versions_and_nothing_else() -> None:
    text = (Path(__file__).parents[3] / "constraints.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        # no requirement is an option, such as the address of an index
        entry = Requirement(line)
        pinned = re.fullmatch(r"==[0-9][0-9a-z.+!]*", str(entry.specifier))
        assert (entry.url, entry.extras, bool(pinned)) == (None, set(), True), line
        assert re.fullmatch(r"[a-z0-9.-]+", entry.name), line


def test_places_do_not_change_with_the_way_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Places.of(Path("home")) == Places.of(tmp_path / "home")
    assert dataclasses.asdict(Places.of(Path("home")))["home"] == tmp_path / "home"


def test_data_that_outlived_its_secrets_is_told_and_set_aside(tmp_path: Path) -> None:
    server = Database(tmp_path / "postgres", tmp_path, 5433, "first", None)
    other = dataclasses.replace(server, password="second")
    server.data.mkdir()
    (server.data / "PG_VERSION").write_text("18\n")
    server.note_password()
    assert server.knows_password()
    assert not other.knows_password()
    assert other.set_aside() == tmp_path / "postgres.old"
    assert not server.initialised()
    assert (tmp_path / "postgres.old" / "PG_VERSION").exists()
