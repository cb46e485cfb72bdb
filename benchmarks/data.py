"""What moving data costs beside a copy of the same file, in turns, so that other load strikes both."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from airflow_prominence.agent.images.demo import build_demo_image
from benchmarks.meters import Row, timed
from tests.integration.stacks import Stack

SIZE = 256 << 20
RUNS = 5
#: A server behind a line of 1 Gbit/s, in bytes a second.
LINK = 118 << 20


def transfers(stack: Stack) -> list[Row]:
    """Upload and download of a file, by curl and by the real client: speeds beside `cp` and curl elsewhere."""
    with tempfile.TemporaryDirectory(prefix="prominence-bench-data-") as name, _plain_server(Path(name)) as plain:
        folder = Path(name)
        (folder / "file").write_bytes(os.urandom(1 << 20) * (SIZE >> 20))

        def shell(command: str) -> None:
            subprocess.run(command, shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        def client() -> None:
            done = stack.run_cli("upload", "--name", "bench", "--filename", "file", cwd=folder)
            assert done.stdout == "Success\n", done

        with stack.client() as session:
            to_put = session.post("/data/upload", json={"filename": "bench"}).json()["url"]
        works: dict[str, Callable[[], None]] = {
            "cp on disk": lambda: shell("cp file copy && sync copy"),
            "put": lambda: shell(f"curl -fsS -T file '{to_put}'"),
            "client": client,
            "cp": lambda: shell("cp file copy"),
            "curl": lambda: shell(f"curl -fsS -o copy '{plain}/file'"),
            "get": lambda: shell(f"curl -fsS -o copy '{_to_get(stack)}'"),
        }
        took: dict[str, list[float]] = {what: [] for what in works}
        for _ in range(RUNS):
            for what, work in works.items():
                took[what].append(timed(work))
        with stack.client() as session:
            session.delete("/data/bench")
    middle = {what: statistics.median(seconds) for what, seconds in took.items()}

    def row(what: str, ours: str, floor: str) -> Row:
        speed = (SIZE >> 20) / middle[ours]
        return Row(what, f"{middle[floor] / middle[ours]:.2f} of its speed ({speed:.0f} MB/s)", "-")

    return [
        row(f"upload of {SIZE >> 20} MB beside cp and sync", "put", "cp on disk"),
        row("  by the client, which counts the checksum first", "client", "cp on disk"),
        row(f"download of {SIZE >> 20} MB beside cp", "get", "cp"),
        row("  beside curl from a plain Python server", "get", "curl"),
    ]


def staging(stack: Stack) -> list[Row]:
    """Artifacts on their way into jobs: the speed beside curl's, and the second job on the node beside the first."""
    with tempfile.TemporaryDirectory(prefix="prominence-bench-staging-") as name:
        folder = Path(name)
        (folder / "file").write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
        subprocess.run(["tar", "czf", "file.tgz", "file"], cwd=folder, check=True)
        with _plain_server(folder) as plain, _plain_server(folder, LINK) as slow:
            ours, curl = [], []
            for number in range(RUNS):
                command = ["curl", "-fsS", "-o", "copy", f"{plain}/file"]
                curl.append(timed(lambda command=command: subprocess.run(command, cwd=folder, check=True)))  # type: ignore[misc]
                ours.append(_stage_in(stack, f"{plain}/file?{number}", stack.image))
            rows = [
                _beside(f"artifact of {SIZE >> 20} MB beside curl", statistics.median(ours), statistics.median(curl))
            ]
            for what, server in (("by loopback", plain), (f"by {LINK >> 20} MB/s", slow)):
                image = f"bench-{len(rows)}.tar"
                build_demo_image(str(folder / image), f"bench/{os.urandom(4).hex()}:latest")
                done = stack.run_cli("upload", "--name", image, "--filename", image, cwd=folder)
                assert done.stdout == "Success\n", done
                first, second = (_stage_in(stack, f"{server}/file.tgz", image) for _ in range(2))
                shown = f"{second / first:.2f} of the first ({second:.1f} s after {first:.1f} s)"
                rows.append(Row(f"second job, same image and .tgz of {SIZE >> 20} MB {what}", shown, "<= 0.1"))
                with stack.client() as session:
                    session.delete(f"/data/{image}")
    return rows


def _stage_in(stack: Stack, url: str, image: str) -> float:
    """How long a job's artifact and image took, in seconds."""
    resources = {"cpus": 1, "memory": 1, "disk": 4}
    job = stack.submit(
        {"resources": resources, "artifacts": [{"url": url}], "tasks": [{"image": image, "cmd": "true"}]}
    )
    ended = stack.wait(job, seconds=300)
    assert ended["status"] == "completed", ended
    [task] = ended["execution"]["tasks"]
    return float(ended["execution"]["stageInTime"]) + max(0.0, float(task["imagePullTime"]))


def _beside(what: str, ours: float, floor: float) -> Row:
    return Row(what, f"{floor / ours:.2f} of its speed ({(SIZE >> 20) / ours:.0f} MB/s)", ">= 0.9")


def _to_get(stack: Stack) -> str:
    from airflow_prominence.objects import store_of
    from airflow_prominence.objects.settings import InFolder, StorageSettings

    place = InFolder(stack.places.objects)
    store = store_of(StorageSettings(place, "", stack.url, stack.url, stack.secrets.internal_secret))
    return store.url_to_get("uploads/demo/bench", 600)


class _Quiet(SimpleHTTPRequestHandler):
    most = 0  # bytes a second

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if not self.most:
            super().copyfile(source, outputfile)
            return
        began, sent = time.monotonic(), 0
        while piece := source.read(1 << 18):
            outputfile.write(piece)
            sent += len(piece)
            time.sleep(max(0.0, began + sent / self.most - time.monotonic()))

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def _plain_server(folder: Path, most: int = 0) -> Iterator[str]:
    handler = type("Handler", (_Quiet,), {"most": most})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
