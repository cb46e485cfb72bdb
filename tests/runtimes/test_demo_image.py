"""The demo image runs, whether made of a busybox or of the machine's own tools."""

from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_prominence.agent.images import demo
from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.images.model import PullError
from airflow_prominence.agent.runtimes import load
from tests.runtimes.jobs import Job

TOUR = """
set -e
echo hello | grep -q hell; seq 3 | tail -n 1; ls / >/dev/null; id -u >/dev/null; env | sed -n 's/^HOME=//p'
date +%Y >/dev/null; dd if=/dev/zero bs=10 count=2 2>/dev/null | wc -c; printf abc | head -c 1; echo
mkdir -p d; touch d/f; rm d/f; echo x | sha256sum | cat; pwd; true; ! false; sleep 0.01
sleep 5 & kill $!; nohup true >/dev/null 2>&1; setsid true
"""
EXPECTED = "3\n/home/user\n20\na\n73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac  -\n/home/user\n"


@pytest.mark.parametrize("source", ["busybox", "host"])
def test_demo_image(
    source: str,
    place: Path,
    engine_dir: str,
    usable: Callable[[str], str],
    install: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usable("bubblewrap")
    if source == "busybox" and demo.find_busybox() is None:
        install("busybox")
    if source == "host":
        monkeypatch.setattr(demo, "find_busybox", lambda: None)
    folder = place / f"demo-{source}"
    (folder / "images").mkdir(parents=True)
    folder.chmod(0o755)
    first = demo.build_demo_image(str(folder / "images" / "demo.tar"))
    bytes_of_first = (folder / "images" / "demo.tar").read_bytes()
    assert demo.build_demo_image(str(folder / "images" / "demo.tar")) == first
    assert (folder / "images" / "demo.tar").read_bytes() == bytes_of_first
    cache = ImageCache(str(folder / "cache"), str(folder / "images"))
    job = Job(load("bubblewrap", engine_dir), cache, str(folder / "job"), writable=False)
    done = job.run(demo.DEMO_NAME, ["sh", "-c", TOUR])
    assert (done.code, done.text) == (0, EXPECTED), done.err.decode()
    cache.close()


def test_a_machine_without_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_busybox", lambda: None)
    monkeypatch.setattr(demo, "REQUIRED", (*demo.REQUIRED, "no-such-tool"))
    with pytest.raises(PullError, match="has no `no-such-tool`; install busybox-static"):
        demo.build_demo_image(str(tmp_path / "demo.tar"))
