"""What the node's service has found out about its machine and left for the runners."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Mapping

from .images.cache import ImageCache
from .images.sources import PUBLIC, Sources
from .paths import read_json, write_atomic
from .runtimes.base import Runtime
from .runtimes.loading import load
from .staging.cache import ArtifactCache

#: The parts of its file system that the caches may keep: the rest is for the jobs.
CACHE_PART = 5
ARTIFACTS_PART = 10


@dataclass(frozen=True)
class Node:
    """`runtimes` maps a document's word to the command that serves it; `info` is what the self-test said of each."""

    state: str
    runtimes: Mapping[str, str]
    info: Mapping[str, Any]
    images_dir: str | None
    engine_dir: str | None
    #: Hosts of images that may be asked over plain HTTP, and a file of CAs to trust beside the system's.
    insecure: tuple[str, ...] = ()
    ca_file: str | None = None

    @classmethod
    def read(cls, state: str) -> Node:
        found = read_json(os.path.join(state, "node.json"))
        if found is None:
            raise FileNotFoundError(f"{state}: no agent has served this folder yet")
        return cls(
            state,
            found["runtimes"],
            found["info"],
            found["images_dir"],
            found["engine_dir"],
            tuple(found.get("insecure") or ()),
            found.get("ca_file"),
        )

    def write(self) -> None:
        facts = {
            "runtimes": dict(self.runtimes),
            "info": dict(self.info),
            "images_dir": self.images_dir,
            "engine_dir": self.engine_dir,
            "insecure": list(self.insecure),
            "ca_file": self.ca_file,
        }
        write_atomic(os.path.join(self.state, "node.json"), json.dumps(facts))

    def runtime(self, command: str) -> Runtime:
        return load(command, self.engine_dir)

    def version(self, command: str) -> str:
        return str(self.info.get(command, {}).get("version") or "")

    def cache(self, sources: Sources = PUBLIC) -> ImageCache:
        images = self.images_dir or os.path.join(self.state, "images")
        return ImageCache(os.path.join(self.state, "cache"), images, sources)

    def artifacts(self) -> ArtifactCache:
        return ArtifactCache(os.path.join(self.state, "cache", "artifacts"), self._part(ARTIFACTS_PART))

    def trim_cache(self) -> list[str]:
        """Remove what was used longest ago beyond the caches' parts, and what killed pulls left; what it was."""
        gone = [f"image {name}" for name in self.cache().trim(self._part(CACHE_PART))]
        return gone + [f"artifact {name}" for name in self.artifacts().trim()]

    def _part(self, number: int) -> int:
        space = os.statvfs(self.state)
        return space.f_blocks * space.f_frsize // number
