"""Which part of an object a request wants (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

_ONE_RANGE = re.compile(r"bytes=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*")


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` up to but not including ``end``."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


class Unsatisfiable(Exception):
    """The range begins past the object's end."""


def wanted_span(header: str | None, size: int) -> Span | None:
    """Return the span that a Range header asks for, ``None`` for the whole; raise :class:`Unsatisfiable`.

    What is no single range of bytes is passed over, as the standard allows.
    """
    found = _ONE_RANGE.fullmatch(header) if header else None
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        length = int(last)
        if not length or not size:
            raise Unsatisfiable
        return Span(max(0, size - length), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return Span(start, min(size, int(last) + 1) if last else size)


def is_unchanged(headers: Mapping[str, str], etag: str) -> bool:
    """Tell whether the client has this version already (``If-None-Match``)."""
    known = headers.get("if-none-match")
    return known is not None and (known.strip() == "*" or etag in [part.strip() for part in known.split(",")])


def range_holds(headers: Mapping[str, str], etag: str, modified: float) -> bool:
    """Tell whether a range may be answered: the rest must be of the same version (``If-Range``)."""
    condition = headers.get("if-range")
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition == etag
    try:
        return parsedate_to_datetime(condition).timestamp() == int(modified)
    except ValueError:
        return False


def http_date(at: float) -> str:
    """Return epoch seconds as HTTP writes dates."""
    return formatdate(int(at), usegmt=True)
