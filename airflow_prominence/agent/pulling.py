"""Getting the images of a job's tasks, each with an account of how it went."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, Callable

from .assignment import Task
from .images.cache import ImageCache
from .images.model import Credential, Image, PullError, Stored, Wanted
from .images.sources import Sources
from .node import Node
from .runtimes.base import RuntimeUnavailable

_LINES = 20


@dataclass(frozen=True)
class Pulled:
    """How a pull went: `image` is None if it failed, and then `why` is the last that was said."""

    image: Image | None
    status: str
    seconds: float
    why: str = ""
    lines: tuple[str, ...] = ()

    def execution(self) -> dict[str, Any]:
        """What the job's execution says of it; a cached image took no time, which is written as -1."""
        found: dict[str, Any] = {"imagePullStatus": self.status, "imagePullTime": round(self.seconds, 3)}
        if self.digest is not None:
            found["imageSha256"] = self.digest
        if self.image is None:
            found["imagePullError"] = self.why
        return found

    def report(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = {"task": index, "status": self.status, "seconds": round(self.seconds, 3)}
        if self.digest is not None:
            found["sha256"] = self.digest
        return found

    @property
    def digest(self) -> str | None:
        return None if self.image is None else self.image.digest or self.image.sha256


class Images:
    """The images of one job, in use until `close`.

    `guarded` does work that may block in a process of its own; `stored` finds what a path on the job's storage is on
    the node, None where the job has no storage there.
    """

    def __init__(
        self,
        node: Node,
        sources: Sources,
        guarded: Callable[[Callable[[], dict[str, Any]]], dict[str, Any]],
        stored: Callable[[str], Stored | None],
    ) -> None:
        self._node = node
        self._sources = sources
        self._guarded = guarded
        self._stored = stored
        self._cache: ImageCache | None = None
        self._known: dict[tuple[str, str, str | None], Image] = {}

    def pull(self, task: Task, command: str) -> Pulled:
        """Have the image of a task ready for the runtime `command`."""
        key = (task.image, command, task.sha256)
        if key in self._known:
            return Pulled(self._known[key], "cached", -1)
        if task.image_refusal is not None:
            return Pulled(None, "failed", 0.0, task.image_refusal)
        if self._cache is None:
            self._cache = self._node.cache(self._sources)
        cache = self._cache

        def pull() -> dict[str, Any]:
            lines: list[str] = []
            try:
                image, status = self._node.runtime(command).pull(self._wanted(task), cache, lines.append)
            except PullError as error:
                return {"failed": error.last_line, "lines": lines[-_LINES:]}
            except RuntimeUnavailable as error:
                return {"failed": str(error), "lines": lines[-_LINES:]}
            return {"image": dataclasses.asdict(image), "status": status, "lines": lines[-_LINES:]}

        began = time.monotonic()
        result = self._guarded(pull)
        seconds = time.monotonic() - began
        answer = result["answer"]
        lines = tuple(str(line) for line in answer.get("lines") or ())
        if "image" not in answer:
            why = answer.get("failed") or result["error"] or "the pull ended with {}".format(result["code"])
            return Pulled(None, "failed", seconds, str(why), lines)
        image = Image(**answer["image"])
        if image.sha256:
            # the one who pulled is gone, and its hold on the image with it
            held = cache.held(image.sha256, image.name)
            image = image if held is None else dataclasses.replace(held, digest=image.digest)
        self._known[key] = image
        status = str(answer["status"])
        return Pulled(image, status, -1 if status == "cached" else seconds, "", lines)

    def _wanted(self, task: Task) -> Wanted:
        credential = task.credential
        return Wanted(
            task.image,
            None if credential is None else Credential(credential.username, credential.token),
            task.sha256,
            task.image_url,
            self._stored(task.image) if task.image.startswith("/") else None,
        )

    def close(self) -> None:
        """Say that this job's images may be evicted."""
        if self._cache is not None:
            self._cache.close()
