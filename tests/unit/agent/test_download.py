"""A file arrives whole and right whatever its server does on the way, or not at all and with a reason."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_prominence.agent.addresses import AddressRefused, Allowed
from airflow_prominence.agent.staging import download, web
from airflow_prominence.agent.staging.download import Download, DownloadFailed, Fetched, Version
from airflow_prominence.agent.wire import Refused
from tests.agent.fileserver import FileServer

HERE = web.Reach(Allowed(loopback=True))
DATA = random.Random(7).randbytes(1_000_003)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


class Fetch:
    """One download into a file of the test's folder, with the pauses it would have made."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "file"
        self.pauses: list[float] = []
        self.announced: list[int | None] = []

    def __call__(self, url: str, reach: web.Reach = HERE, limit: int = 1 << 30, **more: Any) -> Fetched | None:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

        def target(total: int | None, version: Version) -> int:
            self.announced.append(total)
            return fd

        try:
            return Download(url, reach, target, limit, sleep=self.pauses.append, **more).run()
        finally:
            os.close(fd)

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    return Fetch(tmp_path)


def test_a_whole_file(files: FileServer, fetch: Fetch) -> None:
    found = fetch(files.add("a b/\u00e9.bin", DATA))
    assert found is not None
    assert (found.size, found.tries, found.sha256) == (len(DATA), 1, None)
    assert fetch.data == DATA
    assert fetch.announced == [len(DATA)]
    assert fetch.pauses == []


def test_an_empty_file(files: FileServer, fetch: Fetch) -> None:
    found = fetch(files.add("empty", b""))
    assert found is not None
    assert (found.size, fetch.data) == (0, b"")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_connection_is_taken_up_where_it_broke(files: FileServer, fetch: Fetch, chunked: bool) -> None:
    url = files.add("x", DATA, breaks_after=[300_000, 200_000, 0, 400_000], chunked=chunked)
    found = fetch(url)
    assert found is not None
    assert found.tries == 5
    assert fetch.data == DATA
    assert [asked.status for asked in files.gets("x")] == [200, 206, 206, 206, 206]
    # what was lost is what was on its way when the line was cut
    assert files.bytes_sent("x") < len(DATA) + 500_000
    assert len(fetch.pauses) == 4
    assert all(0 < pause < 5 for pause in fetch.pauses)


def test_a_file_that_changes_meanwhile_is_fetched_anew(files: FileServer, fetch: Fetch) -> None:
    other = b"other" * 100_000
    url = files.add("x", DATA, breaks_after=[500_000], swaps=[other])
    found = fetch(url)
    assert found is not None
    assert fetch.data == other
    assert [asked.status for asked in files.gets("x")] == [200, 200]


@pytest.mark.parametrize("how", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}])
def test_where_nothing_can_be_resumed_it_begins_again(files: FileServer, fetch: Fetch, how: dict[str, Any]) -> None:
    url = files.add("x", DATA, breaks_after=[500_000], **how)
    assert fetch(url) is not None
    assert fetch.data == DATA
    assert [asked.status for asked in files.gets("x")] == [200, 200]


def test_a_date_or_a_checksum_is_enough_to_resume(files: FileServer, fetch: Fetch) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    url = files.add("dated", DATA, breaks_after=[500_000], etag=None, last_modified=date)
    assert fetch(url) is not None
    assert fetch.data == DATA
    assert files.gets("dated")[1].headers["if-range"] == date
    url = files.add("bare", DATA, breaks_after=[500_000], etag=None)
    assert fetch(url, sha256=SHA256) is not None
    assert fetch.data == DATA
    assert files.gets("bare")[1].status == 206


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_refusals_are_tried_again(files: FileServer, fetch: Fetch, status: int) -> None:
    found = fetch(files.add("x", DATA, refusals=[status, status]))
    assert found is not None
    assert (found.tries, fetch.data) == (3, DATA)
    assert fetch.pauses[0] < fetch.pauses[1] * 2


def test_a_server_says_how_long_to_wait(files: FileServer, fetch: Fetch) -> None:
    assert fetch(files.add("x", DATA, refusals=[503], retry_after="17")) is not None
    assert fetch.pauses == [17.0]
    assert fetch(files.add("y", DATA, refusals=[429], retry_after="86400")) is not None
    assert fetch.pauses[1:] == [60.0]


def test_five_tries_without_progress_are_the_end(files: FileServer, fetch: Fetch) -> None:
    url = files.add("x", DATA, refusals=[500] * 50)
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1 answered 500; given up after 5 tries"):
        fetch(url)
    assert len(files.gets("x")) == 5
    with pytest.raises(DownloadFailed, match="does not answer"):
        fetch("http://127.0.0.1:9/x")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_lasting_refusals_are_not(files: FileServer, fetch: Fetch, status: int) -> None:
    with pytest.raises(Refused, match=f"127.0.0.1 answered {status}"):
        fetch(files.add("x", DATA, refusals=[status]))
    assert len(files.gets("x")) == 1


def test_less_than_was_announced_is_no_file(files: FileServer, fetch: Fetch) -> None:
    url = files.add("x", DATA, announced=len(DATA) + 10, ranges=False)
    with pytest.raises(DownloadFailed, match=f"the connection broke after {len(DATA)} of {len(DATA) + 10} bytes"):
        fetch(url)


def test_a_wrong_checksum_is_tried_once_more(files: FileServer, fetch: Fetch) -> None:
    damaged = DATA[:-1] + b"?"
    found = fetch(files.add("x", damaged, swaps=[DATA]), sha256=SHA256)
    assert found is not None
    assert (found.sha256, fetch.data) == (SHA256, DATA)
    with pytest.raises(DownloadFailed, match=f"its sha256 is .*, not {SHA256}"):
        fetch(files.add("y", damaged), sha256=SHA256)
    assert len(files.gets("y")) == 2


@pytest.mark.parametrize("chunked", [False, True])
def test_no_more_than_there_is_room_for(files: FileServer, fetch: Fetch, chunked: bool) -> None:
    with pytest.raises(DownloadFailed, match="left of the job's disk"):
        fetch(files.add("x", DATA, chunked=chunked), limit=len(DATA) - 1)
    assert len(fetch.data) < len(DATA)
    assert fetch(files.url("x"), limit=len(DATA)) is not None


def test_what_is_known_is_not_fetched(files: FileServer, fetch: Fetch) -> None:
    url = files.add("x", DATA)
    first = fetch(url)
    assert first is not None
    assert fetch(url, known=first.version) is None
    files.files["/x"].ignores_conditions = True
    assert fetch(url, known=first.version) is None
    files.files["/x"].data = b"new"
    changed = fetch(url, known=first.version)
    assert changed is not None
    assert fetch.data == b"new"


def test_a_connection_that_hardly_moves_counts_as_broken(
    files: FileServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "STALL_S", 0.3)
    monkeypatch.setattr(download, "TRIES", 2)
    url = files.add("x", b"abc" * 100, piece=1, pause_s=0.02, etag=None)
    with pytest.raises(DownloadFailed, match=r"only \d+ bytes came in 0 s"):
        fetch(url)
    files.add("silent", DATA, piece=100, pause_s=1.0)
    with pytest.raises(DownloadFailed, match="timed out"):
        fetch(files.url("silent"))


def test_redirects_are_followed_one_by_one(files: FileServer, fetch: Fetch) -> None:
    files.add("x", DATA)
    files.add("there", b"", redirect="/x")
    assert fetch(files.add("here", b"", redirect=files.url("there"))) is not None
    assert fetch.data == DATA
    with pytest.raises(Refused, match="redirects without an end"):
        fetch(files.add("loop", b"", redirect="/loop"))
    with pytest.raises(Refused, match="no http or https"):
        fetch(files.add("local", b"", redirect="file:///etc/passwd"))
    with pytest.raises(AddressRefused, match=r"169\.254\.169\.254 is a link-local or metadata address"):
        fetch(files.add("meta", b"", redirect="http://169.254.169.254/latest/meta-data"))


def test_a_trusted_url_may_be_anywhere_but_not_lead_there(files: FileServer, fetch: Fetch) -> None:
    nowhere, trusted = web.Reach(Allowed()), web.Reach(Allowed(), trusted=True)
    url = files.add("x", DATA)
    with pytest.raises(AddressRefused, match="loopback_sites"):
        fetch(url, nowhere)
    assert files.asked == []
    assert fetch(url, trusted) is not None
    with FileServer("127.0.0.9") as other:
        with pytest.raises(AddressRefused, match=r"127\.0\.0\.9 is a loopback"):
            fetch(files.add("there", b"", redirect=other.add("y", DATA)), trusted)
        assert other.asked == []
