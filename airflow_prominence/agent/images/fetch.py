"""Finding one image by its name: on the node, in a local archive, at a URL, in a registry."""

import hashlib
import json
import os
import stat
import tempfile
import time
import urllib.error
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from .archive import Archive, ArchivedImage
from .model import Credential, Image, PullError
from .reference import is_archive, is_url, parse
from .registry import Download, Registry, copy_verified, host_of
from .tree import remove_tree
from .unpack import Budget, add_mountpoints, unpack_layer

if TYPE_CHECKING:
    from .cache import ImageCache

_FRESH_S = 300.0
_PARALLEL = 3


class Fetch:
    """One asking for one name; the caller holds the name's lock."""

    def __init__(
        self,
        cache: "ImageCache",
        name: str,
        credential: Optional[Credential],
        insecure: Sequence[str],
        images_dir: Optional[str],
        limit_bytes: int,
        log: Callable[[str], None],
    ) -> None:
        self._cache = cache
        self._name = name
        self._credential = credential
        self._insecure = insecure
        self._images_dir = images_dir
        self._limit = limit_bytes
        self._log = log

    def run(self) -> Tuple[Image, str]:
        if is_url(self._name):
            return self._from_url()
        if is_archive(self._name):
            _refuse_private(self._name)
            return self._from_file(self._name, None)
        parse(self._name)
        local = self._local_archive()
        if local is not None:
            return self._from_file(local, self._name)
        return self._from_registry()

    def _known(self, facts: Dict[str, Any], version: Any) -> Optional[Image]:
        """The image that the name was last time, if the source still says the same version."""
        if not facts.get("sha256") or not version or facts.get("version") != version:
            return None
        return self._cache.held(str(facts["sha256"]), self._name)

    def _local_archive(self) -> Optional[str]:
        try:
            entries = sorted(os.listdir(self._images_dir)) if self._images_dir else []
        except FileNotFoundError:
            return None
        for entry in entries:
            if not entry.endswith((".tar", ".tgz", ".tar.gz")):
                continue
            path = os.path.join(str(self._images_dir), entry)
            version = _version(path)
            facts = self._cache.named("archive " + path)
            if facts.get("version") != version:
                work = self._cache.temporary()
                try:
                    with Archive(path, work) as archive:
                        facts = {"version": version, "tags": [tag for image in archive.images() for tag in image.tags]}
                except PullError as error:
                    self._log(f"{entry} is passed over: {error}")
                    facts = {"version": version, "tags": []}
                finally:
                    remove_tree(work)
                self._cache.remember("archive " + path, facts)
            wanted = str(parse(self._name))
            if any(_same(tag, wanted) for tag in facts["tags"]):
                return path
        return None

    def _from_file(self, path: str, tag: Optional[str]) -> Tuple[Image, str]:
        try:
            version = _version(path)
        except OSError as error:
            raise PullError(f"image: {path} cannot be read ({error.strerror})") from error
        facts = self._cache.named(self._name)
        have = self._known(facts, version)
        if have is not None:
            return have, "cached"
        image = self._unpack_archive(path, tag)
        self._cache.remember(self._name, {"sha256": image.sha256, "version": version})
        return image, "completed"

    def _from_url(self) -> Tuple[Image, str]:
        facts = self._cache.named(self._name)
        headers = {}
        if facts.get("version") and self._cache.held(str(facts.get("sha256")), self._name) is not None:
            headers["If-None-Match"] = str(facts["version"])
        shown = host_of(self._name)
        work = self._cache.temporary()
        path = os.path.join(work, "archive")
        download = Download()

        def once() -> Optional[str]:
            try:
                with download.open(self._name, headers) as answer, open(path, "wb") as out:
                    copy_verified(answer, out, self._limit)
                    return answer.headers.get("ETag") or ""
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 304:
                        return None
                    raise PullError(f"image: {shown} answered {error.code} for the archive") from error

        try:
            etag = download.again("archive at " + shown, once)
            if etag is None:
                have = self._known(facts, facts.get("version"))
                if have is not None:
                    return have, "cached"
                raise PullError(f"image: the archive at {shown} vanished from the node's cache")
            image = self._unpack_archive(path, None)
        finally:
            remove_tree(work)
        self._cache.remember(self._name, {"sha256": image.sha256, "version": etag})
        return image, "completed"

    def _unpack_archive(self, path: str, tag: Optional[str]) -> Image:
        work = self._cache.temporary()
        try:
            with Archive(path, work) as archive:
                found = archive.find(tag)
                if found is None:
                    raise PullError(f"image: {tag} is not in {path}")
                return self._store(found.config, _archived(archive, found))
        finally:
            remove_tree(work)

    def _from_registry(self) -> Tuple[Image, str]:
        facts = self._cache.named(self._name)
        # What was pulled with somebody's credential is given only to those whom the registry lets in now.
        mine = facts.get("private") is False and self._credential is None
        reference = parse(self._name)
        recent = bool(reference.digest) or time.time() - float(facts.get("time") or 0) < _FRESH_S
        if mine and recent:
            have = self._known(facts, facts.get("version"))
            if have is not None:
                return have, "cached"
        patient = Download()
        registry = Registry(reference, self._credential, self._insecure, patient)
        try:
            manifest, digest = registry.manifest()
        except PullError as error:
            have = self._known(facts, facts.get("version")) if mine else None
            if have is None or "cannot be reached" not in error.last_line:
                raise
            self._log(f"{error.last_line}; the copy on the node is used")
            return have, "cached"
        status = "cached"
        image = self._known(facts, digest)
        if image is None:
            status = "completed"
            config = registry.config(manifest)
            image = self._cache.held(hashlib.sha256(config).hexdigest(), self._name)
            if image is None:
                image = self._store(config, self._blobs(registry, manifest["layers"]))
        self._cache.remember(
            self._name, {"sha256": image.sha256, "version": digest, "private": self._credential is not None}
        )
        return image, status

    def _store(self, config: bytes, layers: Iterator[IO[bytes]]) -> Image:
        sha256 = hashlib.sha256(config).hexdigest()
        try:
            diff_ids = [str(item) for item in json.loads(config)["rootfs"]["diff_ids"]]
        except (ValueError, KeyError, TypeError) as error:
            raise PullError(f"image: {self._name} has a configuration of an unsupported kind") from error

        def unpack(rootfs: str) -> int:
            budget = Budget(self._limit)
            count = 0
            for stream in layers:
                with stream:
                    if count == len(diff_ids):
                        raise PullError(f"image: {self._name} has more layers than its configuration names")
                    # Checked against the configuration, since that is the cache's key: no image can pose as another.
                    unpack_layer(stream, rootfs, budget, diff_ids[count])
                count += 1
            if count != len(diff_ids):
                raise PullError(f"image: {self._name} has fewer layers than its configuration names")
            add_mountpoints(rootfs)
            return budget.used

        return self._cache.store(sha256, self._name, config, unpack, self._log)

    def _blobs(self, registry: Registry, layers: List[Dict[str, Any]]) -> Iterator[IO[bytes]]:
        """The layers in their order, the next ones being fetched while one is unpacked."""
        work = self._cache.temporary()

        def fetch(layer: Dict[str, Any]) -> IO[bytes]:
            out = tempfile.TemporaryFile(dir=work)
            registry.blob(layer, out, self._limit)
            out.seek(0)
            return out

        pool = ThreadPoolExecutor(_PARALLEL)
        try:
            waiting: List[Future[IO[bytes]]] = [pool.submit(fetch, layer) for layer in layers]
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()
            pool.shutdown()
            remove_tree(work)


def _archived(archive: Archive, image: ArchivedImage) -> Iterator[IO[bytes]]:
    for layer in image.layers:
        yield archive.open_layer(layer)


def _same(tag: str, wanted: str) -> bool:
    try:
        return str(parse(tag)) == wanted
    except PullError:
        return False


def _version(path: str) -> List[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _refuse_private(path: str) -> None:
    """A path comes from a job's document, so only what every user of the host may read can be named."""
    here = os.path.realpath(path)
    try:
        if not os.stat(here).st_mode & stat.S_IROTH:
            raise PullError(f"image: {path} is not readable by all users of the node")
        while here != "/":
            here = os.path.dirname(here)
            if not os.stat(here).st_mode & stat.S_IXOTH:
                raise PullError(f"image: {path} is not readable by all users of the node")
    except OSError as error:
        raise PullError(f"image: {path} cannot be read ({error.strerror})") from error
