"""Fetching over HTTP with patience: what may pass is tried again, and what broke off goes on where it stopped."""

import hashlib
import json
import random
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import IO, Any, Callable, Dict, Optional

from ..addresses import EVERYWHERE, AddressRefused, Allowed, opener
from .model import PullError

Log = Callable[[str], None]

_ATTEMPTS = 6
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_SILENCE_S = 30.0
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_MESSAGE = 200
_PIECE = 1 << 18


class Again(Exception):
    """Worth another attempt, after `pause` seconds if the server said how long."""

    def __init__(self, sentence: str, pause: Optional[float] = None) -> None:
        super().__init__(sentence)
        self.pause = pause


class Download:
    """GET requests to what `allowed` lets the agent reach; what goes wrong is told to `log` and tried again."""

    def __init__(
        self,
        log: Log,
        allowed: Allowed = EVERYWHERE,
        context: Optional[ssl.SSLContext] = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._log = log
        self._sleep = sleep
        self._opener = opener(allowed, context)

    def again(self, what: str, once: Callable[[], Any]) -> Any:
        """The result of `once`, tried with growing pauses while it raises Again; then PullError."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return once()
            except Again as error:
                if attempt == _ATTEMPTS:
                    raise PullError(f"image: {what}: {error}") from error
                wanted = _PAUSE_S * 2 ** (attempt - 1) if error.pause is None else error.pause
                # Not all who were turned away at one moment shall come back at one moment.
                pause = min(wanted, _LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)  # noqa: S311
                self._log(f"{what}: {error}; trying again in {pause:.0f} s")
                self._sleep(pause)
        raise AssertionError("unreachable")

    def open(self, url: str, headers: Dict[str, str], authorization: Optional[str] = None) -> HTTPResponse:
        """The answer to a GET; HTTPError for a lasting refusal, Again for what may pass."""
        request = urllib.request.Request(url, headers=dict(headers))
        if authorization:
            # Unredirected: blobs live on other hosts, which must not see what the registry is owed.
            request.add_unredirected_header("Authorization", authorization)
        host = host_of(url)
        try:
            answer: HTTPResponse = self._opener.open(request, timeout=_SILENCE_S)
            return answer
        except AddressRefused as error:
            raise PullError(f"image: {error}") from error
        except urllib.error.HTTPError as error:
            if error.code not in _TEMPORARY:
                raise
            with error:
                raise Again(_complaint(error), _retry_after(error)) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise PullError(f"image: the certificate of {host} is not trusted") from error
            raise Again(f"{host} cannot be reached ({error.reason})") from error
        except (HTTPException, OSError) as error:
            raise Again(f"{host} does not answer ({str(error) or type(error).__name__})") from error


def _complaint(error: urllib.error.HTTPError) -> str:
    said = server_message(error)
    if error.code == 429:
        return f"the rate limit of {host_of(error.url or '')} is reached{said}"
    return f"the server answered {error.code}{said}"


def _retry_after(error: urllib.error.HTTPError) -> Optional[float]:
    wait = error.headers.get("Retry-After", "")
    return float(wait) if wait.isdigit() else None


def server_message(error: urllib.error.HTTPError) -> str:
    """What a registry says in its own words, in brackets with a space before; empty if it says nothing."""
    try:
        said = json.loads(error.read(1 << 16))["errors"][0]["message"]
    except (HTTPException, OSError, ValueError, KeyError, IndexError, TypeError):
        return ""
    line = " ".join(str(said).split())
    return f" ({line[:_LONGEST_MESSAGE]})" if line and line.isprintable() else ""


def host_of(url: str) -> str:
    """The host of a URL, for messages: paths and queries of image URLs may be secrets."""
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


class Transfer:
    """One body on its way into a file, over as many connections as it takes."""

    def __init__(self, out: IO[bytes], limit: int) -> None:
        self._out = out
        self._limit = limit
        self._tag = ""
        self._start_over()

    def _start_over(self) -> None:
        self._out.seek(0)
        self._out.truncate()
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def headers(self, *, fixed: bool = False) -> Dict[str, str]:
        """What to ask for next: the rest, if it is sure to be the rest of the same (`fixed`: it never changes)."""
        if self.size and fixed:
            return {"Range": f"bytes={self.size}-"}
        if self.size and self._tag:
            return {"Range": f"bytes={self.size}-", "If-Range": self._tag}
        return {}

    def receive(self, answer: HTTPResponse) -> None:
        """Take an answer's body; Again when it breaks off, PullError when it is too large."""
        if answer.status != 206:
            self._start_over()
        elif not self._goes_on(answer):
            self._start_over()
            raise Again("the server sent another part than the one asked for")
        tag = answer.headers.get("ETag") or ""
        self._tag = "" if tag.startswith("W/") else tag
        length = answer.headers.get("Content-Length", "")
        whole = self.size + int(length) if length.isdigit() else None
        if whole is not None and whole > self._limit:
            raise self._too_large()
        while True:
            try:
                data = answer.read(_PIECE)
            except (HTTPException, OSError) as error:
                raise Again(f"the transfer broke off ({str(error) or type(error).__name__})") from error
            if not data:
                break
            self.size += len(data)
            if self.size > self._limit:
                raise self._too_large()
            self._digest.update(data)
            self._out.write(data)
        # http.client takes a connection that ends early for a body that does.
        if whole is not None and self.size < whole:
            raise Again(f"the transfer broke off after {self.size} of {whole} bytes")

    def _goes_on(self, answer: HTTPResponse) -> bool:
        found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        return found is not None and int(found[1]) == self.size

    def damaged(self) -> Again:
        """What to raise when all has come and it is not what it should be."""
        self._start_over()
        return Again("what arrived is damaged")

    def _too_large(self) -> PullError:
        return PullError(f"image: is larger than {self._limit // 1_000_000} MB")
