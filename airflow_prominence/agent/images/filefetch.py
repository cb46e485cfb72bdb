"""Images that are one file each: at a URL, among their user's uploads, on their job's storage."""

import base64
import hashlib
import os
import subprocess
import sys
import urllib.error
import urllib.parse
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from .. import linux
from .download import Download, Transfer, host_of
from .model import Credential, Image, PullError, Stored, Wanted
from .reference import is_hub, is_loopback
from .shub import locate
from .sources import Sources
from .tree import remove_tree
from .unpacker import Unpacker

if TYPE_CHECKING:
    from .cache import ImageCache

_STAT = ["stat", "--dereference", "--printf=%F\n%s %Y %i"]
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}


class FileFetch:
    """One asking for one file. Another owner gets what is in the cache only if its source gives it to him, too."""

    def __init__(
        self,
        cache: "ImageCache",
        identity: str,
        wanted: Wanted,
        sources: Sources,
        limit_bytes: int,
        log: Callable[[str], None],
    ) -> None:
        self._cache = cache
        self._identity = identity
        self._wanted = wanted
        self._sources = sources
        self._limit = limit_bytes
        self._log = log

    def run(self, unpacker: Unpacker) -> Tuple[Image, str]:
        facts = self._cache.named(self._identity)
        have = self._cache.held(str(facts["sha256"]), self._wanted.name) if facts.get("version") else None
        known = facts.get("version") if have is not None else None
        work = self._cache.temporary()
        try:
            path = os.path.join(work, "image")
            if self._wanted.stored is not None:
                found = self._read(self._wanted.stored, path, known)
            else:
                found = self._download(path, known)
            if found is None and have is not None:
                self._check(str(facts["file"]))
                return replace(have, digest=str(facts["file"])), "cached"
            if found is None:
                raise PullError(f"image: {self._wanted.name} vanished from the node's cache")
            version, sha256 = found
            self._check(sha256)
            image = unpacker.file(path, sha256)
        finally:
            remove_tree(work)
        self._cache.remember(self._identity, {"sha256": image.sha256, "version": version, "file": sha256})
        return replace(image, digest=sha256), "completed"

    def _check(self, sha256: str) -> None:
        if self._wanted.sha256 not in (None, sha256):
            name = self._wanted.name.partition("?")[0]
            raise PullError(f"image: {name} is not the one that imageSha256 names (it is {sha256})")

    # -- at a URL

    def _download(self, path: str, known: Any) -> Optional[Tuple[str, str]]:
        """Version and checksum of what is at `path` now; None if it is still the known version."""
        wanted, url = self._wanted, self._wanted.url
        download = self._sources.download(self._log, ours=url is not None)
        credential = None
        if url is None and is_hub(wanted.name):
            url = locate(wanted.name, download, self._sources.insecure)
        elif url is None:
            url, credential = wanted.name, wanted.credential
        authorization = None if credential is None else self._basic(url, credential)
        what = wanted.name if wanted.url is not None or is_hub(wanted.name) else "the image at " + host_of(url)
        with open(path, "w+b") as out:
            transfer = Transfer(out, self._limit)
            again = _Asking(download, url, authorization, transfer, known, what)
            version = download.again(what, again.once)
        return None if version is None else (version, transfer.sha256)

    def _basic(self, url: str, credential: Credential) -> str:
        host = host_of(url)
        if url.startswith("http://") and not (host in self._sources.insecure or is_loopback(host)):
            raise PullError(
                f"image: {host} is asked without TLS, so imagePullCredential is not sent there "
                "(the node's option --insecure-registries would allow it)"
            )
        pair = f"{credential.username}:{credential.token}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    # -- on the job's storage

    def _read(self, stored: Stored, path: str, known: Any) -> Optional[Tuple[str, str]]:
        """The same of a file that is read as the job's user: what he may not read, no link of his leads to."""
        said = _as_user([*_STAT, "--", stored.path], stored.user)
        kind, _, version = said.stdout.decode("utf-8", "replace").partition("\n")
        if said.returncode != 0:
            raise PullError(f"image: {self._wanted.name} is not on the job's storage, or not readable there")
        if kind not in ("regular file", "regular empty file"):
            raise PullError(f"image: {self._wanted.name} on the job's storage is no file ({kind})")
        if version == known:
            return None
        digest = hashlib.sha256()
        with open(path, "wb") as out, _reading(stored) as process:
            source: IO[bytes] = process.stdout  # type: ignore[assignment]
            size = 0
            for data in iter(lambda: source.read(1 << 18), b""):
                size += len(data)
                if size > self._limit:
                    process.kill()
                    raise PullError(f"image: is larger than {self._limit // 1_000_000} MB")
                digest.update(data)
                out.write(data)
        if process.returncode != 0:
            raise PullError(f"image: {self._wanted.name} can't be read from the job's storage")
        return version, digest.hexdigest()


class _Asking:
    """One file's request, as often as it takes."""

    def __init__(
        self,
        download: Download,
        url: str,
        authorization: Optional[str],
        transfer: Transfer,
        known: Any,
        what: str,
    ) -> None:
        self._download = download
        self._url = url
        self._authorization = authorization
        self._transfer = transfer
        self._known = known
        self._what = what

    def once(self) -> Optional[str]:
        headers = self._transfer.headers()
        if not headers and self._known:
            kind, _, value = str(self._known).partition(" ")
            headers = {"If-None-Match" if kind == "tag" else "If-Modified-Since": value}
        try:
            with self._download.open(self._url, headers, self._authorization) as answer:
                self._transfer.receive(answer)
                tag, modified = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
                return f"tag {tag}" if tag else f"time {modified}" if modified else ""
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 304:
                    return None
                if error.code == 416:
                    raise self._transfer.damaged() from error
                raise PullError(f"image: {self._what}: {_answer(error.code, self._authorization)}") from error


def _answer(code: int, authorization: Optional[str]) -> str:
    if code in (401, 403):
        refused = "the credential was refused" if authorization else "it may not be read without imagePullCredential"
        return f"{refused} ({code})"
    return "there is no such file (404)" if code == 404 else f"the server answered {code}"


def _as_user(argv: List[str], user: Optional[Tuple[int, int]]) -> "subprocess.CompletedProcess[bytes]":
    with _started(argv, user) as process:
        out, _ = process.communicate()
    return subprocess.CompletedProcess(argv, process.returncode, out)


def _reading(stored: Stored) -> "subprocess.Popen[bytes]":
    return _started(["cat", "--", stored.path], stored.user)


def _started(argv: List[str], user: Optional[Tuple[int, int]]) -> "subprocess.Popen[bytes]":
    more: Dict[str, Any] = {}
    if user is not None and os.geteuid() == 0:
        if sys.version_info >= (3, 9):
            more = {"user": user[0], "group": user[1], "extra_groups": []}
        else:
            more = {"preexec_fn": lambda: linux.become(*user)}
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_ENVIRONMENT,
        **more,
    )
