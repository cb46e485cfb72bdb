"""Values shared by everything that fetches or runs an image."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional


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
class Image:
    """A pulled image, ready to run, in the node's cache: `path` is its immutable root file system."""

    name: str
    path: str
    sha256: Optional[str]
    config: Dict[str, Any]

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
    def env(self) -> Dict[str, str]:
        return dict(item.split("=", 1) for item in self._strings("Env") if "=" in item)
