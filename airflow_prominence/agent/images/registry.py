"""Fetching manifests and blobs from a registry (the distribution protocol)."""

import base64
import hashlib
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from typing import IO, Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..addresses import EVERYWHERE, AddressRefused, Allowed, opener
from .model import Credential, PullError
from .platforms import choose
from .reference import Reference

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_ACCEPT = ", ".join(_INDEXES + _MANIFESTS)
_MANIFEST_LIMIT = 4 << 20
_CONFIG_LIMIT = 8 << 20
_ATTEMPTS = 5
_LONGEST_PAUSE_S = 30.0
_CHALLENGE = re.compile(r'([A-Za-z_]+)="([^"]*)"')
_TEMPORARY = (429, 500, 502, 503, 504)


class _Again(Exception):
    """Worth another attempt, after `pause` seconds if the server said how long."""

    def __init__(self, sentence: str, pause: Optional[float] = None) -> None:
        super().__init__(sentence)
        self.pause = pause


def is_loopback(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]")
    return name in ("localhost", "::1") or bool(re.fullmatch(r"127\.\d+\.\d+\.\d+", name))


class Download:
    """HTTP with patience: temporary failures are tried again with growing pauses."""

    def __init__(
        self,
        timeout: float = 30.0,
        pause: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
        allowed: Allowed = EVERYWHERE,
    ) -> None:
        self._timeout = timeout
        self._pause = pause
        self._sleep = sleep
        self._opener = opener(allowed)

    def again(self, what: str, once: Callable[[], Any]) -> Any:
        for attempt in range(_ATTEMPTS):
            try:
                return once()
            except _Again as error:
                if attempt == _ATTEMPTS - 1:
                    raise PullError(f"image: {what}: {error}") from error
                pause = error.pause if error.pause is not None else self._pause * 2**attempt
                self._sleep(min(pause, _LONGEST_PAUSE_S))
        raise AssertionError("unreachable")

    def open(self, url: str, headers: Dict[str, str], authorization: Optional[str] = None) -> HTTPResponse:
        """The answer to a GET; HTTPError for a lasting refusal, _Again for what may pass."""
        request = urllib.request.Request(url, headers=dict(headers))
        if authorization:
            # Unredirected: blobs live on other hosts, which must not see what the registry is owed.
            request.add_unredirected_header("Authorization", authorization)
        try:
            answer: HTTPResponse = self._opener.open(request, timeout=self._timeout)
            return answer
        except AddressRefused as error:
            raise PullError(f"image: {error}") from error
        except urllib.error.HTTPError as error:
            if error.code not in _TEMPORARY:
                raise
            wait = error.headers.get("Retry-After", "")
            error.close()
            raise _Again(f"the server answered {error.code}", float(wait) if wait.isdigit() else None) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise PullError(f"image: the certificate of {host_of(url)} is not trusted") from error
            raise _Again(f"{host_of(url)} cannot be reached ({error.reason})") from error
        except (HTTPException, OSError) as error:
            raise _Again(f"{host_of(url)} does not answer ({str(error) or type(error).__name__})") from error


def host_of(url: str) -> str:
    """The host of a URL, for messages: paths and queries of image URLs may be secrets."""
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def copy_verified(source: IO[bytes], out: IO[bytes], limit: int) -> Tuple[str, int]:
    """Copy a body; its sha256 and size."""
    digest = hashlib.sha256()
    size = 0
    while True:
        try:
            data = source.read(1 << 18)
        except (HTTPException, socket.timeout, OSError) as error:
            raise _Again(f"the transfer broke off ({str(error) or type(error).__name__})") from error
        if not data:
            return digest.hexdigest(), size
        size += len(data)
        if size > limit:
            raise PullError(f"image: a part is larger than {limit // 1_000_000} MB")
        digest.update(data)
        out.write(data)


class Registry:
    """One image's view of its registry: holds the token for pulling that repository."""

    def __init__(
        self,
        reference: Reference,
        credential: Optional[Credential],
        insecure: Sequence[str] = (),
        download: Optional[Download] = None,
    ) -> None:
        self._reference = reference
        self._credential = credential
        self._plain = reference.registry in insecure or is_loopback(reference.registry)
        self._download = download or Download()
        self._base = f"https://{reference.api_host}/v2/{reference.repository}"
        self._scheme_known = not self._plain
        self._authorization: Optional[str] = None

    def manifest(self) -> Tuple[Dict[str, Any], str]:
        """The image's manifest for this machine, and the digest of what the name itself points to."""
        document, digest = self._manifest(self._reference.wanted)
        top = digest
        if "manifests" in document:
            document, _ = self._manifest(str(choose(document["manifests"])["digest"]))
        if not isinstance(document.get("config"), dict) or not isinstance(document.get("layers"), list):
            raise PullError(f"image: {self._reference} has a manifest of an unsupported kind")
        return document, top

    def config(self, manifest: Dict[str, Any]) -> bytes:
        out = BytesIO()
        self.blob(manifest["config"], out, _CONFIG_LIMIT)
        return out.getvalue()

    def layers(self, manifest: Dict[str, Any]) -> List[Dict[str, Any]]:
        return list(manifest["layers"])

    def blob(self, descriptor: Dict[str, Any], out: IO[bytes], limit: int) -> None:
        """Write a blob to `out`; what arrives is what the manifest's digest says or it is an error."""
        digest = str(descriptor["digest"])
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise PullError(f"image: {self._reference} has a digest of an unsupported kind ({digest})")

        def once() -> None:
            out.seek(0)
            out.truncate()
            with self._get("/blobs/" + digest, {}) as answer:
                found, _ = copy_verified(answer, out, limit)
            if "sha256:" + found != digest:
                raise _Again("a part arrived damaged")

        self._download.again(str(self._reference), once)

    def _manifest(self, wanted: str) -> Tuple[Dict[str, Any], str]:
        def once() -> bytes:
            with self._get("/manifests/" + wanted, {"Accept": _ACCEPT}) as answer:
                try:
                    return answer.read(_MANIFEST_LIMIT)
                except (HTTPException, OSError) as error:
                    raise _Again(f"the transfer broke off ({error})") from error

        data: bytes = self._download.again(str(self._reference), once)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if wanted.startswith("sha256:") and digest != wanted:
            raise PullError(f"image: {self._reference}: the registry sent another manifest than {wanted}")
        try:
            document = json.loads(data)
        except ValueError as error:
            raise PullError(f"image: {self._reference}: the registry sent no JSON manifest") from error
        if not isinstance(document, dict):
            raise PullError(f"image: {self._reference}: the registry sent no JSON manifest")
        return document, digest

    def _get(self, path: str, headers: Dict[str, str]) -> HTTPResponse:
        for challenged in (False, True):
            try:
                return self._open(path, headers)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 401 and not challenged:
                        self._authorization = self._answer(error.headers.get("WWW-Authenticate", ""))
                        continue
                    raise PullError(self._refusal(error.code)) from error
        raise AssertionError("unreachable")

    def _open(self, path: str, headers: Dict[str, str]) -> HTTPResponse:
        if self._scheme_known:
            return self._download.open(self._base + path, headers, self._authorization)
        plain = self._base.replace("https://", "http://", 1)
        try:
            answer = self._download.open(self._base + path, headers, self._authorization)
        except (_Again, PullError):
            self._base = plain
            answer = self._download.open(plain + path, headers, self._authorization)
        self._scheme_known = True
        return answer

    def _refusal(self, code: int) -> str:
        if code == 404:
            return f"image: {self._reference} was not found in its registry"
        if code in (401, 403):
            hint = (
                "the credential was refused" if self._credential else "it needs imagePullCredential or does not exist"
            )
            return f"image: {self._reference} may not be pulled: {hint}"
        return f"image: {self._reference}: the registry answered {code}"

    def _basic(self) -> Optional[str]:
        if self._credential is None:
            return None
        pair = f"{self._credential.username}:{self._credential.token}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def _answer(self, challenge: str) -> Optional[str]:
        scheme = challenge.split(" ", 1)[0].lower()
        if scheme == "basic":
            return self._basic()
        if scheme != "bearer":
            return None
        fields = dict(_CHALLENGE.findall(challenge))
        realm = fields.pop("realm", "")
        if not (realm.startswith("https://") or (self._plain and realm.startswith("http://"))):
            raise PullError(f"image: {self._reference}: its registry names no safe address for tokens")
        fields.pop("error", None)
        fields.setdefault("scope", f"repository:{self._reference.repository}:pull")
        url = realm + ("&" if "?" in realm else "?") + urllib.parse.urlencode(fields)
        try:
            with self._download.open(url, {}, self._basic()) as answer:
                document = json.loads(answer.read(1 << 20))
        except urllib.error.HTTPError as error:
            with error:
                raise PullError(self._refusal(error.code)) from error
        except (ValueError, OSError) as error:
            raise _Again(f"the token service of {self._reference.registry} sent nonsense") from error
        token = document.get("token") or document.get("access_token")
        return f"Bearer {token}" if token else None
