"""Long steps show that they go on: one line a step, with the seconds it has taken."""

from __future__ import annotations

import sys
import time


class Progress:
    """Prints steps. On a terminal the seconds of the running step count up in place; elsewhere a line every ten."""

    def __init__(self) -> None:
        self._step: str | None = None
        self._since = 0.0
        self._said = 0.0
        self._terminal = sys.stdout.isatty()

    def show(self, step: str) -> None:
        """Say which step is running; call it again and again while it is."""
        now = time.monotonic()
        if step != self._step:
            self.done()
            self._step, self._since, self._said = step, now, now
            self._write(f"  {step} ...", end="" if self._terminal else "\n")
            return
        if self._terminal and now - self._said >= 1:
            self._said = now
            self._write(f"\r  {step} ... {now - self._since:.0f} s", end="")
        elif not self._terminal and now - self._said >= 10:
            self._said = now
            self._write(f"  {step} ... {now - self._since:.0f} s")

    def done(self) -> None:
        """End the running step's line, if a step is running."""
        if self._step is None:
            return
        seconds = time.monotonic() - self._since
        self._write(f"{chr(13) if self._terminal else ''}  {self._step}: {seconds:.1f} s")
        self._step = None

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self.done()
        self._write(line)

    @staticmethod
    def _write(text: str, end: str = "\n") -> None:
        sys.stdout.write(text + end)
        sys.stdout.flush()
