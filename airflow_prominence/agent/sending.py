"""A file to where the API has said that it may go: one PUT to a signed URL, with its length and no token."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.parse
from typing import IO

_ANSWER_S = 60.0


class NotSent(Exception):
    """Why not; one sentence without the URL, which is a secret."""


def put(url: str, source: IO[bytes]) -> None:
    """Send the whole file; raises NotSent."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        opened: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=_ANSWER_S, context=ssl.create_default_context()
        )
    elif parts.scheme == "http":
        opened = http.client.HTTPConnection(host, parts.port, timeout=_ANSWER_S)
    else:
        raise NotSent(f"object storage: {parts.scheme!r} addresses are not supported")
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    size = os.fstat(source.fileno()).st_size
    try:
        opened.request("PUT", path, source, {"Content-Length": str(size)})
        answer = opened.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotSent(f"object storage at {host} was not reached: {type(error).__name__}") from error
    finally:
        opened.close()
    if answer.status >= 300:
        raise NotSent(f"object storage at {host} answered {answer.status}")
