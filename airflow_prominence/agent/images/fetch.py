"""Finding one image by what a task asks for: on the node, in its job's storage, at a URL, in a registry."""

import hashlib
import os
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple

from .archive import Archive
from .filefetch import FileFetch
from .model import Image, PullError, Wanted
from .reference import is_hub, is_url, parse
from .registry import Registry
from .sources import Sources
from .tree import remove_tree
from .unpacker import Unpacker

if TYPE_CHECKING:
    from .cache import ImageCache

_FRESH_S = 300.0
_PARALLEL = 3


def identity(wanted: Wanted) -> str:
    """What is remembered of an image is remembered under this: whoever asks for the same thing comes to the same."""
    if wanted.stored is not None:
        return f"storage {wanted.stored.scope} {wanted.name}"
    if wanted.url is not None:
        return "upload " + wanted.url.partition("?")[0]  # what follows signs it, anew for each job
    return wanted.name


def shown(wanted: Wanted) -> str:
    """A name for messages: what follows `?` in a URL may sign it."""
    return wanted.name.partition("?")[0] if is_url(wanted.name) else wanted.name


class Fetch:
    """One asking for one image; the caller holds the lock of its identity."""

    def __init__(
        self,
        cache: "ImageCache",
        wanted: Wanted,
        sources: Sources,
        images_dir: Optional[str],
        limit_bytes: int,
        log: Callable[[str], None],
    ) -> None:
        self._cache = cache
        self._wanted = wanted
        self._name = wanted.name
        self._sources = sources
        self._images_dir = images_dir
        self._limit = limit_bytes
        self._log = log
        self._unpacker = Unpacker(cache, shown(wanted), limit_bytes, log)

    def run(self) -> Tuple[Image, str]:
        wanted = self._wanted
        if wanted.url is not None or wanted.stored is not None or is_url(wanted.name) or is_hub(wanted.name):
            files = FileFetch(self._cache, identity(wanted), wanted, self._sources, self._limit, self._log)
            return files.run(self._unpacker)
        if wanted.name.startswith("/"):
            raise PullError(f"image: {wanted.name} is not on a storage of the job")
        parse(wanted.name)
        local = self._local_archive()
        if local is not None:
            return self._from_archive(local)
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
                    with Archive(path, work, path) as archive:
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

    def _from_archive(self, path: str) -> Tuple[Image, str]:
        try:
            version = _version(path)
        except OSError as error:
            raise PullError(f"image: {path} cannot be read ({error.strerror})") from error
        facts = self._cache.named(self._name)
        have = self._known(facts, version)
        status = "cached"
        if have is None:
            status = "completed"
            have = self._unpacker.archive(path, self._name)
            self._cache.remember(self._name, {"sha256": have.sha256, "version": version})
        self._check([have.sha256])
        return have, status

    def _from_registry(self) -> Tuple[Image, str]:
        credential = self._wanted.credential
        facts = self._cache.named(self._name)
        # What was pulled with somebody's credential is given only to those whom the registry lets in now.
        mine = facts.get("private") is False and credential is None
        reference = parse(self._name)
        recent = bool(reference.digest) or time.time() - float(facts.get("time") or 0) < _FRESH_S
        if mine and recent:
            have = self._known(facts, facts.get("version"))
            if have is not None:
                return self._checked(have, facts), "cached"
        registry = Registry(reference, credential, self._sources.insecure, self._sources.download(self._log))
        try:
            manifest, digests = registry.manifest()
        except PullError as error:
            have = self._known(facts, facts.get("version")) if mine else None
            if have is None or "cannot be reached" not in error.last_line:
                raise
            self._log(f"{error.last_line}; the copy on the node is used")
            return self._checked(have, facts), "cached"
        status = "cached"
        image = self._known(facts, digests[0])
        if image is None:
            status = "completed"
            config = registry.config(manifest)
            sha256 = hashlib.sha256(config).hexdigest()
            self._check([*digests, sha256])
            image = self._cache.held(sha256, self._name)
            if image is None:
                image = self._unpacker.layers(config, self._blobs(registry, manifest["layers"]))
        facts = {"sha256": image.sha256, "version": digests[0], "digests": digests, "private": credential is not None}
        self._cache.remember(self._name, facts)
        return self._checked(image, facts), status

    def _checked(self, image: Image, facts: Dict[str, Any]) -> Image:
        digests = [str(digest) for digest in facts.get("digests") or []]
        self._check([*digests, image.sha256])
        return replace(image, digest=digests[0].partition(":")[2] if digests else None)

    def _check(self, digests: List[Optional[str]]) -> None:
        """Raise PullError if the task names a checksum and it is none of these."""
        wanted = self._wanted.sha256
        if wanted is not None and not {wanted, "sha256:" + wanted} & set(digests):
            raise PullError(f"image: {self._name} is not the one that imageSha256 names (it is {digests[0]})")

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


def _same(tag: str, wanted: str) -> bool:
    try:
        return str(parse(tag)) == wanted
    except PullError:
        return False


def _version(path: str) -> List[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ino]
