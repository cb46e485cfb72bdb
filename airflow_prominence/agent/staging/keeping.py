"""What keeps a job's outputs: the object store, or the job's own storage in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod

NOT_STORED = "Unable to stageout output to object storage"

#: How often one file is sent before it is given up.
TRIES = 5


class StageOutFailed(Exception):
    """The output can't be stored: the contract's reason, and a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Keeper(ABC):
    """Stores open files, each with as many tries as it needs."""

    @abstractmethod
    def store(self, file: str, source: int) -> tuple[int, str, int]:
        """Size in bytes, SHA-256 and tries. Raises StageOutFailed."""

    @abstractmethod
    def shown(self, file: str) -> str:
        """Where the user finds the file, as the job's story says it."""


class Destination(ABC):
    """Where outputs go; opened by the process that stores them, which is the job's user's."""

    @abstractmethod
    def open(self) -> Keeper:
        """What stores them there. Raises StageOutFailed or Refused."""
