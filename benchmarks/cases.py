"""What is measured, one function a case; each but the last leaves the stack idle."""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.images.model import Wanted
from airflow_prominence.agent.runtimes.base import ContainerSpec
from airflow_prominence.agent.runtimes.loading import load
from benchmarks.meters import CONTROLLERS, Row, cpu_s, memory_mb, spread, timed
from tests.integration.stacks import Stack, until

BURST = 200
LIST = 10_000
WAITING = 1_000


def document(stack: Stack, cmd: str, cpus: int = 1, name: str = "bench") -> dict[str, Any]:
    """A small job."""
    return {
        "name": name,
        "resources": {"cpus": cpus, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": cmd}],
    }


def floor(stack: Stack, runs: int = 30) -> list[Row]:
    """The same container run by hand, with nothing of ours around it but the runtime's own command line."""
    with tempfile.TemporaryDirectory(prefix="prominence-bench-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        base.chmod(0o755)
        cache = ImageCache(str(base / "cache"), images_dir=str(stack.places.images))
        image, _ = cache.get(Wanted(stack.image), lambda _: None)
        runtime = load("bubblewrap", str(stack.places.engines))
        took = [timed(lambda: _by_hand(runtime, image, base)) for _ in range(runs)]
        cache.close()
    return [Row("floor: the container by hand, start to exit", spread(took), "-")]


def _by_hand(runtime: Any, image: Any, base: Path) -> None:
    import os
    import subprocess

    work = Path(tempfile.mkdtemp(dir=base))
    work.chmod(0o755)
    for name in ("home", "tmp", "scratch"):
        (work / name).mkdir(mode=0o777)
    spec = ContainerSpec(
        name="bench",
        image=image,
        argv=["echo", "x"],
        env={},
        workdir="/home/user",
        home=str(work / "home"),
        tmp=str(work / "tmp"),
        binds=[],
        uid=os.getuid() or 65534,
        gid=os.getgid() or 65534,
        memory_mb=512,
        cpus=1,
        writable=False,
        scratch=str(work / "scratch"),
    )
    for name in ("home", "tmp", "scratch"):
        if os.getuid() == 0:
            os.chown(work / name, spec.uid, spec.gid)
    runtime.prepare(spec)
    launch = runtime.launch(spec)
    user = {} if launch.run_as is None else {"user": launch.run_as[0], "group": launch.run_as[1], "extra_groups": []}
    done = subprocess.run(launch.argv, env=launch.env, capture_output=True, check=True, **user)
    assert done.stdout == b"x\n"
    runtime.cleanup(spec)
    shutil.rmtree(work, ignore_errors=True)


def posts(stack: Stack, runs: int = 60) -> list[Row]:
    """POST, one after the other, while the jobs before it run: the stack is busy with about a dozen."""
    with stack.client() as client:
        ids: list[int] = []

        def post() -> None:
            ids.append(client.post("/jobs", json=document(stack, "true")).json()["id"])

        took = []
        for _ in range(runs):
            took.append(timed(post))
            time.sleep(0.15)
    wait_all(stack, ids)
    return [Row("POST /jobs while others run", spread(took), "-")]


def first_line(stack: Stack, runs: int = 12) -> list[Row]:
    """From POST to the container's first line, as a user sees it, each on an idle stack."""
    posted, whole, after_placing = [], [], []
    with stack.client() as client:
        for _ in range(runs):
            began, began_wall = time.perf_counter(), time.time()
            job_id = client.post("/jobs", json=document(stack, "echo x")).json()["id"]
            posted.append(time.perf_counter() - began)
            until(lambda job_id=job_id: client.get(f"/jobs/{job_id}/stdout").content, 30, 0.01)
            seconds = time.perf_counter() - began
            [(placed,)] = stack.psql(
                "SELECT min(time) FROM prominence_event WHERE job_id = %s AND kind = 'placed'", job_id
            )
            whole.append(seconds)
            after_placing.append(began_wall + seconds - placed)
            wait_all(stack, [job_id])
            until(lambda job_id=job_id: _run_over(stack, job_id), 60, 0.2)
    return [
        Row("POST /jobs on an idle stack", spread(posted), "p50 <= 30 ms"),
        Row("POST to the container's first line", spread(whole), "<= 2000 ms"),
        Row("  of which after the job was placed", spread(after_placing), "<= 700 ms"),
    ]


def burst(stack: Stack) -> list[Row]:
    """Two hundred jobs at once: accepted, all finished, and what they cost."""
    before = {part: cpu_s(stack, [part]) for part in (*CONTROLLERS, "postgres")}
    began = time.perf_counter()
    body = document(stack, "true")

    def post(_: int) -> int:
        with_client = clients.pop()
        try:
            return int(with_client.post("/jobs", json=body).json()["id"])
        finally:
            clients.append(with_client)

    clients: list[httpx.Client] = [stack.client() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(post, range(BURST)))
    accepted = time.perf_counter() - began
    wait_all(stack, ids)
    finished = time.perf_counter() - began
    until(lambda: all_runs_over(stack, ids), 300, 0.5)
    over = time.perf_counter() - began
    for client in clients:
        client.close()
    each = {part: (cpu_s(stack, [part]) - then) / BURST for part, then in before.items()}
    return [
        Row(f"{BURST} jobs at once: accepted", f"{BURST / accepted:.0f}/s", ">= 60/s"),
        Row("  all jobs ended after", f"{finished:.1f} s ({BURST / finished:.1f} jobs/s)", "-"),
        Row("  all runs in Airflow over after", f"{over:.1f} s", "-"),
        Row("  CPU of Airflow and the API", f"{sum(each[part] for part in CONTROLLERS):.3f} s a job", "<= 0.35 s"),
        *(Row(f"    of which {part}", f"{each[part]:.3f} s a job", "-") for part in CONTROLLERS),
        Row("  CPU of PostgreSQL beside them", f"{each['postgres']:.3f} s a job", "-"),
    ]


def long_list(stack: Stack, runs: int = 20) -> list[Row]:
    """``GET /jobs?all`` of a user with ten thousand jobs."""
    with stack.client() as client:
        model = client.post("/jobs", json=document(stack, "true", name="model")).json()["id"]
        wait_all(stack, [model])
        columns = [
            name
            for (name,) in stack.psql(
                "SELECT column_name FROM information_schema.columns WHERE table_name = 'prominence_job'"
            )
            if name not in ("id", "run_id", "uid")
        ]
        listed = ", ".join(f'"{name}"' for name in columns)
        stack.psql(
            f"INSERT INTO prominence_job (id, run_id, uid, {listed}) "
            f"SELECT nextval('prominence_id_seq'), 'bench-' || n, md5('bench' || n), {listed} "
            "FROM prominence_job, generate_series(1, %s) n WHERE id = %s",
            LIST,
            model,
        )
        stack.psql("ANALYZE prominence_job")
        found = len(client.get("/jobs?all=true").json())
        took = [timed(lambda: client.get("/jobs?all=true")) for _ in range(runs)]
        stack.psql("DELETE FROM prominence_job WHERE run_id LIKE 'bench-%%' AND %s > 0", LIST)
    return [Row(f"GET /jobs?all with {found} jobs", spread(took), "p50 <= 150 ms")]


def waiting(stack: Stack) -> list[Row]:
    """A thousand jobs that wait for room: what the triggerer needs to remember them."""
    cpus = stack.psql("SELECT max(cpus) FROM prominence_node WHERE state = 'up'")[0][0]
    with stack.client() as client:
        blocker = client.post("/jobs", json=document(stack, "sleep 3600", cpus=cpus)).json()["id"]
        stack.wait(blocker, "running")
        before = memory_mb(stack, "triggerer")
        body = document(stack, "true", cpus=cpus)
        ids = [client.post("/jobs", json=body).json()["id"] for _ in range(WAITING)]
        began = time.perf_counter()
        until(lambda: _waiting(stack) >= WAITING, 300, 0.5, "all wait")
        settled = time.perf_counter() - began
        time.sleep(5)
        after = memory_mb(stack, "triggerer")
        for start in range(0, len(ids), 100):
            client.delete("/jobs?id=" + ",".join(map(str, ids[start : start + 100])))
        client.delete(f"/jobs/{blocker}")
    return [
        Row(f"triggerer's memory for {WAITING} waiting jobs", f"+{after - before:.0f} MB", "<= +150 MB"),
        Row("  all of them waiting after", f"{settled:.1f} s", "-"),
    ]


def _waiting(stack: Stack) -> int:
    return int(stack.psql("SELECT count(*) FROM prominence_job WHERE phase = 'queued' AND reason <> ''")[0][0])


def wait_all(stack: Stack, ids: list[int]) -> None:
    """Wait until the jobs have ended in our tables."""
    query = "SELECT count(*) FROM prominence_job WHERE id = ANY(%s) AND phase = 'done'"
    until(lambda: stack.psql(query, ids)[0][0] == len(ids), 600, 0.2, "all jobs end")


def _run_over(stack: Stack, job_id: int) -> bool:
    return all_runs_over(stack, [job_id])


def all_runs_over(stack: Stack, ids: list[int]) -> bool:
    """Tell whether the jobs' runs in Airflow have ended, too."""
    query = (
        "SELECT count(*) FROM dag_run r JOIN prominence_job j ON j.run_id = r.run_id AND j.dag_id = r.dag_id "
        "WHERE j.id = ANY(%s) AND r.state IN ('success', 'failed')"
    )
    return bool(stack.psql(query, ids)[0][0] == len(ids))
