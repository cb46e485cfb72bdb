"""One mount as guarded work: the tool runs for as long as the mount is needed, and whatever happens it is unmounted."""

from __future__ import annotations

import os
import time
from typing import Callable

from ..cgroup import NO_GROUP
from ..runtimes.base import Launch
from ..runtimes.files import CLEAN
from ..wire import encode
from ..work import Work, execute
from . import fuse
from .model import Place, Tool, Unmountable, Volume

#: Files that are still to be uploaded are given up when nothing has moved for so long (s).
STALLED_S = 60.0
#: What counts as moving: more than the tool writes to its log (bytes).
_PIECE = 64 * 1024


class Mount(Work):
    carries = True

    def __init__(self, tool: Tool, volume: Volume, place: Place, marker: str) -> None:
        self._tool = tool
        self._volume = volume
        self._place = place
        self._marker = marker
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def begin(self) -> Callable[[int], None]:
        try:
            argv, environment = self._tool.command(self._volume, self._place)
        except Unmountable as error:
            sentence = str(error)

            def refuse(out: int) -> None:
                os.write(out, encode({"error": sentence}) + b"\n")
                os._exit(127)

            return refuse

        def child(out: int) -> None:
            # its words are for the job's story, not for the job's output
            log = os.open(log_path(self._place), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                execute(Launch(argv, {**CLEAN, **environment}, None), NO_GROUP, self._marker)
            except OSError as error:
                os.write(out, encode({"error": f"{argv[0]}: {error.strerror}"}) + b"\n")
            os._exit(127)

        return child

    def settled(self, child: int) -> bool:
        left = self._tool.unsaved(self._place)
        if not left:
            return True
        now = time.monotonic()
        seen = (len(left), _written(child) // _PIECE)
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since >= STALLED_S

    def end(self) -> None:
        if not fuse.unmount(self._place.point):
            print(f"{self._place.point}: could not be unmounted")


def log_path(place: Place) -> str:
    return os.path.join(place.folder, "log")


def _written(pid: int) -> int:
    """Bytes that the process has written to anything, sockets too."""
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            for line in file:
                if line.startswith("wchar:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
