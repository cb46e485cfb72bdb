"""HTTP as staging needs it: to allowed addresses only, redirects followed one by one, errors named by what to do."""

from __future__ import annotations

import http.client
import re
import ssl
import time
import urllib.parse
from dataclasses import dataclass, replace
from typing import IO, Mapping

from ..addresses import EVERYWHERE, Allowed, connection
from ..wire import Refused, Unreachable

CONNECT_S = 10.0
#: A silent or hardly moving connection counts as broken.
STALL_S = 60.0
_SLOWEST_BYTES = 64 * 1024
PIECE = 1 << 18

_REDIRECTS = (301, 302, 303, 307, 308)
_KEEPING_METHOD = (307, 308)
_MOST_REDIRECTS = 10
#: Answers that say nothing about the request itself.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
#: What a URL may have as it is; the rest is quoted, `%` being quoted already.
_SAFE = "%/:=&?~#+!$,;'@()*[]"


class Wait(Unreachable):
    """The server is there and says when it may be asked again."""

    def __init__(self, sentence: str, seconds: float) -> None:
        super().__init__(sentence)
        self.seconds = seconds


class Answer:
    """An answer whose body is read in pieces."""

    def __init__(self, opened: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = opened
        self._response = response
        self._since = time.monotonic()
        self._moved = 0
        self.status = response.status
        self._left = self.length

    def header(self, name: str) -> str:
        return self._response.getheader(name) or ""

    @property
    def length(self) -> int | None:
        """Bytes of the body, if the server has said so."""
        found = self.header("Content-Length")
        return int(found) if found.isdigit() and not self.header("Transfer-Encoding") else None

    def read(self) -> bytes:
        """The next piece; empty at the end, which may come too early. Raises Unreachable."""
        most = PIECE if self._left is None else min(PIECE, self._left)
        if most == 0:
            return b""
        try:
            piece = self._response.read1(most)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(_sentence(error)) from error
        if self._left is not None:
            self._left -= len(piece)
        self._moved += len(piece)
        now = time.monotonic()
        if now - self._since > STALL_S:
            if self._moved < _SLOWEST_BYTES:
                raise Unreachable(f"only {self._moved} bytes came in {now - self._since:.0f} s")
            self._since, self._moved = now, 0
        return piece

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Answer:  # noqa: PYI034 - Self is younger than Python 3.8
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Reach:
    """Where requests may go and whose certificates count there, the system's if `certificates` says nothing.

    A `trusted` request may begin anywhere; what it is redirected to must be allowed all the same.
    """

    allowed: Allowed
    certificates: ssl.SSLContext | None = None
    trusted: bool = False


OURS = Reach(EVERYWHERE)


def certificates(ca_file: str | None) -> ssl.SSLContext | None:
    """Those of the system and of a file; raises Refused if the file can't be used."""
    if ca_file is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Refused(495, f"the node's file of certificates {ca_file} can't be used ({error})") from error
    return context


def get(url: str, headers: Mapping[str, str], reach: Reach) -> Answer:
    """The answer (2xx, 304 or 416) to a GET, behind all redirects.

    Raises Refused for what will not change, Unreachable for what may pass, AddressRefused.
    """
    first = _place(url)
    for _ in range(_MOST_REDIRECTS + 1):
        parts = urllib.parse.urlsplit(url)
        allowed = EVERYWHERE if reach.trusted and _place(url) == first else reach.allowed
        answer = _ask("GET", url, headers, replace(reach, allowed=allowed))
        if answer.status in _REDIRECTS and answer.header("Location"):
            with answer:
                url = urllib.parse.urljoin(url, answer.header("Location"))
            if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
                raise Refused(answer.status, f"{parts.hostname} redirects to something that is no http or https URL")
            continue
        if 200 <= answer.status < 300 or answer.status in (304, 416):
            return answer
        with answer:
            raise _refusal(answer, parts.hostname or "")
    raise Refused(310, f"{urllib.parse.urlsplit(url).hostname} redirects without an end")


def put(url: str, body: IO[bytes], size: int, reach: Reach = OURS) -> None:
    """Store `size` bytes at a URL of ours; the body is read from its beginning. Raises Refused or Unreachable."""
    for _ in range(_MOST_REDIRECTS + 1):
        body.seek(0)
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        with _ask("PUT", url, headers, reach, body) as answer:
            if answer.status in _KEEPING_METHOD and answer.header("Location"):
                url = urllib.parse.urljoin(url, answer.header("Location"))
                continue
            if 200 <= answer.status < 300:
                return
            raise _refusal(answer, urllib.parse.urlsplit(url).hostname or "")
    raise Refused(310, "the object store redirects without an end")


def _ask(method: str, url: str, headers: Mapping[str, str], reach: Reach, body: IO[bytes] | None = None) -> Answer:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(400, f"{url.partition('?')[0]} is no URL") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Refused(400, f"{url.partition('?')[0]} is no http or https URL")
    opened = connection(parts.scheme, host, port, CONNECT_S, reach.allowed, reach.certificates)
    opened.blocksize = PIECE
    target = urllib.parse.quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_SAFE)
    sent = {"Accept-Encoding": "identity", "User-Agent": "prominence-agent", "Connection": "close", **headers}
    try:
        opened.connect()
        opened.sock.settimeout(STALL_S)
        try:
            opened.request(method, target, body, sent)
        except (BrokenPipeError, ConnectionResetError):
            # a server may refuse before it has read all, and its reason is worth having
            if body is None:
                raise
        return Answer(opened, opened.getresponse())
    except ssl.SSLCertVerificationError as error:
        opened.close()
        raise Refused(495, f"the certificate of {host} is not trusted ({error.verify_message})") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        opened.close()
        raise Unreachable(f"{host} does not answer ({_sentence(error)})") from error
    except BaseException:
        opened.close()
        raise


def _refusal(answer: Answer, host: str) -> Exception:
    sentence = f"{host} answered {answer.status}"
    said = _first_line(answer)
    if said:
        sentence += f" ({said})"
    if answer.status in _PASSING:
        wait = answer.header("Retry-After")
        return Wait(sentence, float(wait)) if wait.isdigit() else Unreachable(sentence)
    return Refused(answer.status, sentence)


def _first_line(answer: Answer) -> str:
    """A word of explanation, if the body is one and no page."""
    try:
        text = answer.read()[:2000].decode("utf-8", "replace")
    except Unreachable:
        return ""
    found = re.search(r'"error"\s*:\s*"([^"]{1,200})"|<(?:Code|Message)>([^<]{1,200})</', text)
    return (found[1] or found[2]) if found else ""


def _place(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__
