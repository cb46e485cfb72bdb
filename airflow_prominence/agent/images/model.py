"""Values shared by everything that fetches or runs an image."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

#: The one thing that is known of a Singularity image beside its files, which say all else themselves.
SINGULARITY = "Singularity"


class PullError(Exception):
    """An image that cannot be had; `last_line` is the one sentence a user gets to see."""

    def __init__(self, last_line: str) -> None:
        super().__init__(last_line)
        self.last_line = last_line


@dataclass(frozen=True)
class Credential:
    """What a registry asks for; kept out of every representation, so that no log can show it."""

    username: str
    token: str

    def __repr__(self) -> str:
        return f"Credential(username={self.username!r}, token='***')"


@dataclass(frozen=True)
class Stored:
    """An image file on a job's storage: its path on the node, as whom to read it, and whose storage it is.

    `scope` is the same for those jobs only that give the same credentials for the same storage.
    """

    path: str
    user: Optional[Tuple[int, int]]
    scope: str


@dataclass(frozen=True)
class Wanted:
    """What a task asks for. `url` is where its user's upload is, `stored` where its path leads; else the name says.

    `sha256` (hex) is what the image must be: the file, or in a registry the manifest or configuration.
    """

    name: str
    credential: Optional[Credential] = None
    sha256: Optional[str] = None
    url: Optional[str] = field(default=None, repr=False)
    stored: Optional[Stored] = None


@dataclass(frozen=True)
class Image:
    """A pulled image, ready to run, in the node's cache: `path` is its immutable root file system.

    `sha256` is the cache's name for it; `digest` is what users compare (`Wanted.sha256`), if there is such a thing.
    """

    name: str
    path: str
    sha256: Optional[str]
    config: Dict[str, Any]
    digest: Optional[str] = None

    def _strings(self, key: str) -> List[str]:
        value = self.config.get(key)
        if isinstance(value, str):
            return [value]
        return [str(item) for item in value] if isinstance(value, list) else []

    @property
    def entrypoint(self) -> List[str]:
        return self._strings("Entrypoint")

    @property
    def cmd(self) -> List[str]:
        return self._strings("Cmd")

    @property
    def is_singularity(self) -> bool:
        """Whether its own scripts set its environment and start it, as in a Singularity image."""
        return bool(self.config.get(SINGULARITY))

    @property
    def env(self) -> Dict[str, str]:
        return dict(item.split("=", 1) for item in self._strings("Env") if "=" in item)
