"""Jobs that go every way a job can go, all at once: what became of each is then looked at by several tests.

Runs that are started in Airflow, not by us, go beside them.

"By hand" means what a user can do in Airflow's own pages, which call the same routes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.integration.airflows import Airflow
from tests.integration.stacks import Stack, until

CPUS = 64


@dataclass
class Played:
    """One job, while it is played and after."""

    stack: Stack
    airflow: Airflow
    job: int
    run: str
    state: str = ""
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> dict[str, str | None]:
        return self.airflow.tasks(self.run)

    @property
    def described(self) -> dict[str, Any]:
        return self.stack.describe(self.job)

    def log(self, task: str, try_number: int = 1) -> str:
        return self.airflow.log(self.run, task, try_number)

    def until_it_runs(self) -> None:
        """Wait until the containers run and the trigger of ``run`` watches them."""
        self.stack.wait(self.job, "running", seconds=120)
        self.airflow.until_task(self.run, "run", "deferred")
        # The trigger has to have found its job, or its on_kill has nothing to tell.
        time.sleep(2)

    def until_it_waits(self) -> None:
        self.airflow.until_task(self.run, "provision", "deferred")
        until(lambda: self.described.get("statusReason"), 60, what="the job waits for room")
        time.sleep(1)

    def delete(self) -> None:
        with self.stack.client() as http:
            answer = http.delete(f"/jobs/{self.job}")
        assert answer.status_code == 200, answer.text


@dataclass(frozen=True)
class Row:
    """A way a job can go: how its document differs from a small one, and what is done to it."""

    cmd: str = "echo hello"
    image: str = ""
    resources: dict[str, int] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    act: Callable[[Played], None] | None = None


def document(stack: Stack, row: Row, name: str = "truth") -> dict[str, Any]:
    """The document of a row."""
    return {
        "name": name,
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1, **row.resources},
        "tasks": [{"image": row.image or stack.image, "runtime": "singularity", "cmd": row.cmd}],
        "policies": {"priority": 1, **row.policies},
    }


def _delete_waiting(played: Played) -> None:
    played.until_it_waits()
    played.delete()


def _delete_running(played: Played) -> None:
    played.until_it_runs()
    played.delete()


def _fail_waiting(played: Played) -> None:
    played.until_it_waits()
    played.airflow.fail_run(played.run)


def _fail_running(played: Played) -> None:
    played.until_it_runs()
    played.airflow.fail_run(played.run)


def _fail_task_run(played: Played) -> None:
    played.until_it_runs()
    played.airflow.fail_task(played.run, "run")


def _clear_after_failure(played: Played) -> None:
    played.seen["first"] = played.airflow.ended(played.run)
    # From here on the command succeeds.
    until(lambda: time.time() > played.seen["succeeds_at"], 60)
    played.airflow.clear(played.run, "run")
    played.airflow.until_task(played.run, "run", "deferred")


def _clear_all(played: Played) -> None:
    played.seen["first"] = played.airflow.ended(played.run)
    played.airflow.clear(played.run)
    played.airflow.until_task(played.run, "provision", "success")


def _clear_stage_out(played: Played) -> None:
    played.airflow.ended(played.run)
    played.airflow.clear(played.run, "stage_out")
    until(lambda: played.tasks["stage_out"] != "success", 10)


def _clear_running(played: Played) -> None:
    played.until_it_runs()
    played.airflow.clear(played.run, "run")
    leases = "SELECT state FROM prominence_lease WHERE job_id = %s ORDER BY attempt"
    until(
        lambda: [state for (state,) in played.stack.psql(leases, played.job)] == ["ended", "started"],
        60,
        what="the first attempt is over and the second has begun",
    )
    played.until_it_runs()
    played.seen["described"] = played.described
    played.delete()


_ALL = {"cpus": CPUS}
# So that those who want all don't hold up the others.
_LAST = {"priority": 0}
_SUCCEEDS_AFTER_S = 40

ROWS: dict[str, Row] = {
    # First those that take longest.
    "walltime": Row("sleep 300", resources={"walltime": 1}),
    "cleared after failure": Row(f"sh -c 'test $(date +%s) -gt {{{_SUCCEEDS_AFTER_S}}}'", act=_clear_after_failure),
    "cleared while running": Row("sleep 300", act=_clear_running),
    "cleared all": Row(act=_clear_all),
    "cleared stage_out": Row(act=_clear_stage_out),
    "all fine": Row("sh -c 'echo hello; sleep 1'"),
    "exit 3": Row("sh -c 'echo some; sleep 1; echo boom >&2; exit 3'"),
    "exit 3 that counts as success": Row("sh -c 'exit 3'", policies={"reportJobSuccessOnTaskFailure": True}),
    "retried": Row("sh -c 'exit 1'", policies={"maximumRetries": 1}),
    "no such image": Row(image="127.0.0.1:9/no/such-image:latest"),
    "no such node": Row(resources={"cpus": CPUS + 1}),
    "deleted while waiting": Row(resources=_ALL, policies=_LAST, act=_delete_waiting),
    "deleted while running": Row("sleep 300", act=_delete_running),
    "run failed by hand while waiting": Row(resources=_ALL, policies=_LAST, act=_fail_waiting),
    "run failed by hand while running": Row("sleep 300", act=_fail_running),
    "task run failed by hand": Row("sleep 300", act=_fail_task_run),
}


class Rows:
    """All rows, each played in a thread of its own."""

    def __init__(self, stack: Stack, airflow: Airflow) -> None:
        self.stack, self.airflow = stack, airflow
        # It takes room from those who want all, until they have been dealt with.
        self.occupant = stack.submit(document(stack, Row("sleep 240"), "occupant"))
        stack.wait(self.occupant, "running")
        self.started = self._start_in_airflow()
        self._pool = ThreadPoolExecutor(len(ROWS))
        self._played: dict[str, Future[Played]] = {
            name: self._pool.submit(self._play, row) for name, row in ROWS.items()
        }

    def __getitem__(self, name: str) -> Played:
        return self._played[name].result()

    def end(self) -> None:
        """Wait for the end of all."""
        self._pool.shutdown()
        with self.stack.client() as http:
            # It can be deleted: no run that was given its number has ended it.
            assert http.delete(f"/jobs/{self.occupant}").status_code == 200

    def _start_in_airflow(self) -> dict[str, str]:
        """Start runs as the trigger form does, by what was typed into it."""
        confs: dict[str, dict[str, Any]] = {
            "document": {"job": document(self.stack, Row(), "from-the-form")},
            "nothing": {},
            "number": {"job_id": self.occupant},
        }
        answers = {name: self.airflow.trigger(conf) for name, conf in confs.items()}
        assert [answer.status_code for answer in answers.values()] == [200, 200, 200]
        return {name: str(answer.json()["dag_run_id"]) for name, answer in answers.items()}

    def _play(self, row: Row) -> Played:
        succeeds_at = int(time.time()) + _SUCCEEDS_AFTER_S
        made = document(self.stack, row)
        made["tasks"][0]["cmd"] = row.cmd.replace(f"{{{_SUCCEEDS_AFTER_S}}}", str(succeeds_at))
        job = self.stack.submit(made)
        played = Played(self.stack, self.airflow, job, self.airflow.run_of(job), seen={"succeeds_at": succeeds_at})
        if row.act is not None:
            row.act(played)
        played.state = self.airflow.ended(played.run, 180)
        return played
