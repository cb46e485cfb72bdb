"""Why the one-machine stack can't go on, in one sentence for a person."""

from __future__ import annotations


class StackError(Exception):
    """A step that can't be done; the text says what is missing and how to get it."""
