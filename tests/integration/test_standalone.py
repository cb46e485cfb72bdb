"""The one-machine stack itself: what it writes down, what it starts again, what it leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from airflow_prominence.standalone import control, demo
from airflow_prominence.standalone.parts import ALL, MARK
from airflow_prominence.standalone.processes import marked, working_in
from airflow_prominence.standalone.progress import Progress
from tests.integration.stacks import Stack, until


def test_env_file_is_the_owners_alone_and_complete(stack: Stack) -> None:
    assert stat.S_IMODE(stack.places.env_file.stat().st_mode) == 0o600
    assert set(stack.env) == {
        "PROMINENCE_URL",
        "PROMINENCE_TOKEN",
        "PROMINENCE_TOKEN2",
        "AIRFLOW_URL",
        "AIRFLOW_USER",
        "AIRFLOW_PASSWORD",
        "PROMINENCE_DEMO_IMAGE",
    }


def test_real_client_works_after_sourcing_the_env_file(stack: Stack) -> None:
    listed = stack.run_cli("list")
    assert listed.code == 0, listed
    assert "Error" not in listed.stdout


def test_login_with_the_written_password(stack: Stack) -> None:
    with stack.airflow_client() as session:
        assert session.get("/api/v2/dags/prominence_job").status_code == 200


def test_secrets_can_be_read_by_their_owner_only(stack: Stack) -> None:
    files = [path for path in stack.places.secrets.rglob("*") if path.is_file()]
    assert files
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in files} == {0}
    assert stat.S_IMODE(stack.places.secrets.stat().st_mode) == 0o700


def test_nothing_runs_postgres_as_root(stack: Stack) -> None:
    for pid in stack.pids("postgres"):
        assert os.stat(f"/proc/{pid}").st_uid != 0


def test_node_has_none_of_airflows_settings(stack: Stack) -> None:
    environment = Path(f"/proc/{stack.leader('node').pid}/environ").read_bytes()
    assert b"AIRFLOW" not in environment
    assert stack.secrets.database_password.encode() not in environment


@pytest.mark.parametrize("part", ["scheduler", "triggerer", "dag-processor", "api-server", "postgres", "node"])
def test_killed_part_is_started_again_without_its_orphans(stack: Stack, part: str) -> None:
    before = set(stack.pids(part))
    stack.restart(part)
    kept = set() if part == "node" else before & set(stack.pids(part))
    assert kept == set()
    until(lambda: _healthy(stack), 60, what="all components are healthy")


def _healthy(stack: Stack) -> bool:
    try:
        health = httpx.get(f"{stack.airflow_url}/api/v2/monitor/health", timeout=5).json()
    except httpx.HTTPError:
        return False
    return all(component["status"] == "healthy" for component in health.values())


def test_up_takes_over_what_a_killed_supervisor_left(stack: Stack) -> None:
    daemon = control.supervisor(stack.places)
    assert daemon
    before = stack.steady()
    assert set(before) == set(ALL)
    os.kill(daemon.pid, signal.SIGKILL)
    until(lambda: control.supervisor(stack.places) is None, 10)
    stack.up()
    assert {part: stack.leader(part) for part in ALL} == before
    assert control.supervisor(stack.places) not in (None, daemon)


def test_up_twice_is_up_once(stack: Stack) -> None:
    daemon = control.supervisor(stack.places)
    stack.up()
    assert control.supervisor(stack.places) == daemon


def test_check_config_finds_nothing(stack: Stack) -> None:
    checked = stack.run_airflow("prominence", "check-config")
    # who is not root can't keep jobs from a cloud's metadata service, and is told so where there is one
    told = [line for line in checked.stdout.splitlines() if os.geteuid() == 0 or "metadata service" not in line]
    assert (checked.code == 0 and told) or (not told and checked.code == 1), checked.stdout
    assert all(line == "The configuration suits PROMINENCE." for line in told), checked.stdout


def test_token_command_prints_a_token_that_the_client_accepts_until_it_is_revoked(stack: Stack) -> None:
    made = stack.run_airflow("prominence", "token", "carol", "--days", "2", "--groups", "a,b")
    assert made.code == 0, made.stderr
    token = made.stdout.strip()
    assert len(token.split(".")) == 3
    assert "\n" not in token
    assert token not in made.stderr
    assert "expires" in made.stderr
    listed = stack.run_cli("list", token=token)
    assert listed.code == 0, listed
    jti = made.stderr.partition("Token ")[2].split()[0]
    assert jti in stack.run_airflow("prominence", "token", "--list", "carol").stdout
    assert stack.run_airflow("prominence", "token", "--revoke", jti).code == 0
    with stack.client(token) as session:
        assert session.get("/jobs").status_code == 401


def test_revoking_all_tokens_of_a_user(stack: Stack) -> None:
    made = [stack.run_airflow("prominence", "token", "dave") for _ in range(2)]
    for token in (done.stdout.strip() for done in made):
        assert stack.run_cli("list", token=token).code == 0
    nobody = stack.run_airflow("prominence", "token", "--revoke-all")
    assert (nobody.code, nobody.stderr.splitlines()[-1]) == (
        1,
        "Name the user: airflow prominence token USER --revoke-all.",
    )
    done = stack.run_airflow("prominence", "token", "dave", "--revoke-all")
    assert (done.code, done.stdout) == (0, ""), done
    assert "2 tokens of dave revoked." in done.stderr
    assert "not over" not in done.stderr
    for token in (each.stdout.strip() for each in made):
        listed = stack.run_cli("list", token=token)
        assert (listed.code, listed.stdout) == (1, "Error: authentication failed\n")


def test_reparse_has_a_new_file_parsed_at_once(stack: Stack) -> None:
    empty = stack.run_airflow("prominence", "reparse")
    assert empty.code == 0, empty
    assert empty.stdout.endswith("There is no DAG file to parse.\n"), empty
    (stack.places.dags / "mine.py").write_text(
        "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator\n"
        "with DAG('mine'):\n    EmptyOperator(task_id='t')\n"
    )
    asked = stack.run_airflow("prominence", "reparse")
    assert asked.code == 0, asked
    assert "Asked for 1 of 1 files" in asked.stdout
    # Ten seconds are a loop or two of the dag-processor; of its own accord it looks every thirty.
    until(lambda: stack.psql("SELECT 1 FROM dag WHERE dag_id = 'mine' AND NOT is_stale"), 10)


@pytest.fixture
def second_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="prominence-second-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home, ignore_errors=True)


def test_second_stack_takes_other_ports_and_leaves_nothing(stack: Stack, second_home: Path) -> None:
    second = Stack(second_home)
    second.places.ports.write_text(stack.places.ports.read_text())
    try:
        second.up()
        assert not set(second.ports.values()) & set(stack.ports.values())
        assert second.answers()
        assert stack.answers()
        leaders = [second.leader(part) for part in ALL]
    finally:
        second.stop()
    second.stop()
    assert not [leader for leader in leaders if leader.alive()]
    assert not working_in(second.places.database)
    assert not [process for part in ALL for process in marked(MARK, f"{second.places.home}:{part}")]
    assert stack.answers()


def test_the_demo_runs_a_first_job_one_with_data_and_a_workflow(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.run_jobs(stack.places, Progress()) == 0
    said = capsys.readouterr().out
    for line in (
        r"\$ prominence create --name hello prominence/demo:latest .*",
        r"Job created with id \d+",
        r" +\d+\.\d s  completed",
        r"Hello from job \d+ in a container",
        r"I have 1 CPU and 1 GB of memory, and I am user \d+ in /home/user",
        r"\$ prominence upload --filename my-image\.tar --name my-image\.tar",
        r"Success",
        r"\$ prominence create --name data --input numbers\.txt --output sorted\.txt my-image\.tar .*",
        r"\$ prominence download \d+",
        r"Current status \(complete/total\) = 1/1",
        r"\$ head -3 sorted\.txt\n10\n9\n8",
        r"\$ prominence run squares\.json",
        r"Workflow created with id \d+",
        r"  its graph: http://127\.0\.0\.1:\d+/dags/workflow-\d+\.squares/runs/workflow-\d+",
        r" +\d+\.\d s  completed, 5 of 5 jobs done",
        r"\d+ +squares/square/3 .*",
        r"square/3/square\.txt: 16",
        r"The sum of the squares is 30",
    ):
        assert re.search(f"^{line}$", said, re.MULTILINE), (line, said)
    with stack.client() as client:
        [image] = [item for item in client.get("/data").json() if item["name"] == "my-image.tar"]
        assert image["size"] == (stack.places.images / "demo.tar").stat().st_size
        assert client.delete("/data/my-image.tar").status_code == 204
