"""One artifact on its way into a job's home: fetched or taken from the node's cache, unpacked, put in its place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import posixpath
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

from .. import linux
from ..addresses import AddressRefused, Allowed
from ..assignment import Artifact
from ..users import User
from ..wire import Refused
from . import web
from .asuser import ChildDied, as_user
from .cache import ArtifactCache, Facts, Kept, Workplace
from .download import Download, DownloadFailed, Fetched, Version
from .tree import FOLDER, Tree, Unsafe, copy_tree, parts_of
from .unpack import Budget, Unpacked, UnpackFailed, kind_of, unpack

DOWNLOAD_FAILED = "Artifact download failed"
UNPACK_FAILED = "Artifact uncompress failed"

#: Free space that is left to others when room is made for an artifact, in bytes.
_MARGIN = 64 << 20
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class StagingFailed(Exception):
    """The job cannot have this artifact: the contract's reason, and a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Place:
    """Where one job's artifacts go and what may be taken for them; `left` are the bytes left of the job's disk."""

    home: str
    scratch: str
    user: User
    owner: str
    allowed: Allowed
    ca_file: str | None
    left: int


@dataclass
class Times:
    """How long each part took, in seconds; None for what was not done."""

    waited: bool = False
    fetch_s: float | None = None
    tries: int = 1
    unpack_s: float | None = None
    all_s: float = 0.0


def shown_size(size: float) -> str:
    """Bytes as people say them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} bytes"


class StageIn:
    """The way of one artifact; `run` is called in a process of its own, which may be killed at any moment."""

    def __init__(self, artifact: Artifact, place: Place, cache: ArtifactCache) -> None:
        self._artifact = artifact
        self._place = place
        self._cache = cache
        self._kind = kind_of(artifact.filename)
        self._times = Times()
        self._work: Workplace | None = None
        self._packed = ""  # where the file is while it is being fetched
        self._kept = True  # whether it goes into the cache
        self._fd = -1

    def run(self) -> dict[str, Any]:
        """`lines` for the job's story and `size`, the bytes of the job's disk it takes; else `reason` and `failed`."""
        shown = "Artifact " + posixpath.join(self._artifact.folder, self._artifact.filename)
        try:
            return self._stage(shown)
        except StagingFailed as failure:
            reason, sentence = failure.reason, str(failure)
        except (AddressRefused, DownloadFailed) as error:
            reason, sentence = DOWNLOAD_FAILED, str(error)
        except Refused as error:
            reason, sentence = DOWNLOAD_FAILED, error.sentence
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the node's disk is full" if full else error.strerror or str(error)
            reason, sentence = DOWNLOAD_FAILED, f"it can't be stored on the node, {why}"
        return {"reason": reason, "failed": f"{shown}: {sentence}"}

    def _stage(self, shown: str) -> dict[str, Any]:
        if self._artifact.missing is not None:
            raise StagingFailed(DOWNLOAD_FAILED, self._artifact.missing)
        key = self._key()
        began = time.monotonic()
        with self._cache.lock(key, self._waits):
            found = self._from_cache(key)
        if isinstance(found, Kept):
            with found:
                facts = found.facts
                self._place_tree(found)
        else:
            facts = found
        if self._artifact.executable:
            self._make_executable()
        self._times.all_s = time.monotonic() - began
        return {"lines": self._lines(shown, facts), "size": facts.size}

    def _waits(self) -> None:
        self._times.waited = True

    def _key(self) -> str:
        url = self._artifact.url
        # The query of a URL of ours is its signature, new each time, and what it leads to is this owner's.
        whose = [self._place.owner, url.partition("?")[0]] if self._artifact.ours else ["", url]
        return hashlib.sha256(json.dumps([*whose, self._artifact.filename]).encode()).hexdigest()

    def _from_cache(self, key: str) -> Kept | Facts:
        """The artifact in the cache, or what is known of one that is too large for it and in its place already."""
        kept = self._cache.find(key)
        if kept is not None and self._artifact.sha256 and kept.facts.sha256 == self._artifact.sha256:
            return kept
        with self._cache.workplace() as work:
            self._work = work
            try:
                fetched = self._fetch(Version() if kept is None else kept.facts.version)
                if fetched is None and kept is not None:
                    return kept
                if fetched is None:
                    raise StagingFailed(DOWNLOAD_FAILED, "its server says that it has not changed, but it is not here")
                if kept is not None:
                    kept.close()
                if self._kept:
                    return self._cache.keep(key, work, self._unpacked(fetched, work))
                return self._put_straight(fetched)
            finally:
                if self._fd >= 0:
                    os.close(self._fd)

    # -- fetching

    def _fetch(self, known: Version) -> Fetched | None:
        reach = web.Reach(self._place.allowed, web.certificates(self._place.ca_file), trusted=self._artifact.ours)
        download = Download(
            self._artifact.url,
            reach,
            self._open_target,
            self._place.left,
            sha256=self._artifact.sha256,
            known=known,
        )
        began = time.monotonic()
        fetched = download.run()
        if fetched is not None:
            self._times.fetch_s, self._times.tries = time.monotonic() - began, fetched.tries
        return fetched

    def _open_target(self, total: int | None, version: Version) -> int:
        """Into the cache, unless the file would take most of it or nobody could tell whether it is still the same."""
        work = self._work
        can_be_told = bool(version) or self._artifact.sha256 is not None
        self._kept = work is not None and can_be_told and (total or 0) <= self._cache.keep_bytes
        if self._kept and work is not None:
            self._packed = work.packed
        else:
            self._packed = os.path.join(self._place.scratch, "artifact")
        self._cache.make_room((total or 0) * 2 + _MARGIN)
        self._fd = os.open(self._packed, _NEW, 0o600)
        return self._fd

    # -- unpacking and placing

    def _unpacked(self, fetched: Fetched, work: Workplace) -> Facts:
        """Make the workplace's `data`: what the job gets."""
        os.mkdir(work.data, 0o700)
        if self._kind is None:
            os.fchmod(self._fd, 0o644)
            os.rename(work.packed, os.path.join(work.data, self._artifact.filename))
            return self._facts(fetched, Unpacked(1, fetched.size))
        self._give(work.data)
        folder = os.open(work.data, FOLDER)
        try:
            done = self._unpack(folder, self._place.left)
        finally:
            os.close(folder)
        os.unlink(work.packed)
        return self._facts(fetched, done)

    def _put_straight(self, fetched: Fetched) -> Facts:
        """Put a fetched file into the job's home without a copy of it for others."""
        home = self._open_folder()
        try:
            if self._kind is None:
                self._give(self._packed)
                os.fchmod(self._fd, 0o644)
                os.rename(self._packed, self._artifact.filename, dst_dir_fd=home)
                return self._facts(fetched, Unpacked(1, fetched.size))
            done = self._unpack(home, self._place.left - fetched.size)
        except IsADirectoryError as error:
            raise StagingFailed(UNPACK_FAILED, "there is a folder of its name in the job's home") from error
        finally:
            os.close(home)
        os.unlink(self._packed)
        return self._facts(fetched, done)

    def _unpack(self, folder: int, left: int) -> Unpacked:
        kind, packed = self._kind, self._fd
        assert kind is not None

        def work() -> dict[str, Any]:
            try:
                with open(packed, "rb", closefd=False) as source:
                    source.seek(0)
                    done = unpack(source, kind, folder, Budget(left))
            except UnpackFailed as error:
                return {"failed": str(error)}
            except OSError as error:
                return {"failed": f"it can't be unpacked, {error.strerror}"}
            return {"files": done.files, "size": done.size, "left_out": done.left_out[:20]}

        began = time.monotonic()
        try:
            answer = as_user(self._place.user, work, [packed, folder])
        except ChildDied as error:
            raise StagingFailed(UNPACK_FAILED, f"unpacking broke off, {error}") from error
        if "failed" in answer:
            raise StagingFailed(UNPACK_FAILED, str(answer["failed"]))
        self._times.unpack_s = time.monotonic() - began
        return Unpacked(**answer)

    def _give(self, path: str) -> None:
        if self._place.user.own:
            os.chown(path, self._place.user.uid, self._place.user.gid, follow_symlinks=False)

    def _place_tree(self, kept: Kept) -> None:
        """Copy what the cache holds into the job's home."""
        if kept.facts.size > self._place.left:
            size, left = shown_size(kept.facts.size), shown_size(self._place.left)
            raise StagingFailed(
                DOWNLOAD_FAILED, f"it takes {size}, more than the {left} that are left of the job's disk"
            )
        source, home = kept.open(), self._open_folder()
        tree = Tree(home, self._owner())
        try:
            copy_tree(source, tree)
        except Unsafe as error:
            raise StagingFailed(UNPACK_FAILED, str(error)) from error
        finally:
            tree.close()
            os.close(source)
            os.close(home)

    def _owner(self) -> tuple[int, int] | None:
        user = self._place.user
        return (user.uid, user.gid) if user.own else None

    def _open_folder(self) -> int:
        """Open the folder of the job's home that the artifact goes into; made where it is missing."""
        home = os.open(self._place.home, FOLDER)
        if not self._artifact.folder:
            return home
        tree = Tree(home, self._owner())
        try:
            return tree.open_folder(parts_of(self._artifact.folder))
        except Unsafe as error:
            raise StagingFailed(UNPACK_FAILED, str(error)) from error
        finally:
            tree.close()
            os.close(home)

    def _make_executable(self) -> None:
        """Of a single file only: an archive's files have their own modes."""
        name = self._artifact.filename
        if self._kind is not None:
            name = self._kind.plain
        if not name:
            return
        path = os.path.join(self._place.home, *parts_of(self._artifact.folder), *parts_of(name))
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.fchmod(fd, 0o755)
        os.close(fd)

    # -- telling

    def _lines(self, shown: str, facts: Facts) -> list[str]:
        times = self._times
        if times.fetch_s is None:
            line = f"{shown}: {shown_size(facts.fetched)} taken from the node's cache in {times.all_s:.1f} s"
            if times.waited:
                line += ", for which another job had fetched it"
        else:
            host = "the object store" if self._artifact.ours else urllib.parse.urlsplit(self._artifact.url).netloc
            rate = shown_size(facts.fetched / max(times.fetch_s, 1e-3))
            tries = f" in {times.tries} tries" if times.tries > 1 else ""
            line = (
                f"{shown}: {shown_size(facts.fetched)} fetched from {host}{tries} in {times.fetch_s:.1f} s ({rate}/s)"
            )
        if self._kind is not None:
            line += f", unpacked to {facts.files} file{'' if facts.files == 1 else 's'} of {shown_size(facts.size)}"
            if times.unpack_s is not None:
                line += f" in {times.unpack_s:.1f} s"
        lines = [line]
        if facts.left_out:
            lines.append(f"{shown}: left out, since no job can have devices or pipes: {', '.join(facts.left_out)}")
        return lines

    def _facts(self, fetched: Fetched, done: Unpacked) -> Facts:
        return Facts(
            name=self._artifact.filename,
            version=fetched.version,
            sha256=fetched.sha256,
            fetched=fetched.size,
            size=done.size,
            files=done.files,
            left_out=done.left_out,
            boot=linux.boot_id(),
        )
