"""A volume of a real WebDAV server, mounted as the agent mounts it, for containers to work on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from airflow_prominence.agent.addresses import EVERYWHERE
from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.paths import LeasePaths
from airflow_prominence.agent.runtimes import Runtime
from airflow_prominence.agent.storage import folders, fuse
from airflow_prominence.agent.storage.model import Place, parse
from airflow_prominence.agent.storage.rclone import Rclone
from tests.runtimes import conformance
from tests.runtimes.jobs import Job, job_user
from tests.webdav import WebDav, need_mounts

WORK = """
cat given && ./tool && echo one >made && echo two >>made && mkdir -p d/e && mv made d/e/kept && cat d/e/kept &&
stat -c '%u %a' . given | sort -u
"""


@contextmanager
def volume(folder: Path) -> Iterator[tuple[str, Path]]:
    """Where on this machine the volume is mounted for the jobs' user, and the server's own folder of it."""
    need_mounts()
    server = WebDav(folder / "dav")
    server.start()
    paths = LeasePaths(str(folder), "lease")
    uid, gid = job_user()
    folders.make(paths, gid)
    place = Place(paths.volume, paths.storage, uid, gid, EVERYWHERE, fuse.everybody())
    argv, environment = Rclone().command(parse(server.storage()), place)
    process = subprocess.Popen(argv, env=environment)
    try:
        end = time.monotonic() + 30
        while not fuse.points(paths.volume):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        yield paths.volume, server.data
    finally:
        process.terminate()
        process.wait(30)
        assert folders.remove(paths)
        server.kill()


def check(runtime: Runtime, images: str, folder: Path, mountpoint: str, writable: bool) -> None:
    """A container reads, runs, writes and moves what is on the volume, and the server has it."""
    folder.mkdir()
    folder.chmod(0o711)
    cache = ImageCache(str(folder / "cache"), images)
    job = Job(runtime, cache, str(folder / "job"), writable)
    with closing(cache), volume(folder) as (point, data):
        (data / "given").write_text("given\n")
        (data / "tool").write_text("#!/bin/sh\necho ran\n")
        done = job.run(conformance.IMAGE, ["sh", "-ec", WORK], workdir=mountpoint, binds=[(point, mountpoint)])
        uid = job_user()[0]
        assert (done.text, done.code) == (f"given\nran\none\ntwo\n{uid} 700\n", 0), done
        made = job.run(conformance.IMAGE, ["pwd"], workdir="/data/made", binds=[(point, "/data")])
        assert (made.text, made.code) == ("/data/made\n", 0), made
        assert (data / "made").is_dir()
        end = time.monotonic() + 20
        while not (data / "d" / "e" / "kept").exists() or (data / "d" / "e" / "kept").read_text() != "one\ntwo\n":
            assert time.monotonic() < end
            time.sleep(0.1)
