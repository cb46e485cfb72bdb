"""Fetching manifests and blobs from a registry (the distribution protocol)."""

import base64
import json
import re
import urllib.error
import urllib.parse
from http.client import HTTPResponse
from io import BytesIO
from typing import IO, Any, Dict, List, Optional, Sequence, Tuple

from .download import Again, Download, Transfer, server_message
from .model import Credential, PullError
from .platforms import choose
from .reference import Reference, is_loopback

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_ACCEPT = ", ".join(_INDEXES + _MANIFESTS)
_MANIFEST_LIMIT = 4 << 20
_CONFIG_LIMIT = 8 << 20
_CHALLENGE = re.compile(r'([A-Za-z_]+)="([^"]*)"')


class Registry:
    """One image's view of its registry: holds the token for pulling that repository."""

    def __init__(
        self,
        reference: Reference,
        credential: Optional[Credential],
        insecure: Sequence[str],
        download: Download,
    ) -> None:
        self._reference = reference
        self._credential = credential
        self._plain = reference.registry in insecure or is_loopback(reference.registry)
        self._download = download
        self._base = f"https://{reference.api_host}/v2/{reference.repository}"
        self._scheme_known = not self._plain
        self._authorization: Optional[str] = None

    def manifest(self) -> Tuple[Dict[str, Any], List[str]]:
        """The image's manifest for this machine, and the digests of what the name itself points to and of that."""
        document, digest = self._manifest(self._reference.wanted)
        digests = [digest]
        if "manifests" in document:
            document, digest = self._manifest(str(choose(document["manifests"])["digest"]))
            digests.append(digest)
        if not isinstance(document.get("config"), dict) or not isinstance(document.get("layers"), list):
            raise PullError(f"image: {self._reference} has a manifest of an unsupported kind")
        return document, digests

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
        transfer = Transfer(out, limit)

        def once() -> None:
            with self._get("/blobs/" + digest, transfer.headers(fixed=True)) as answer:
                transfer.receive(answer)
            if "sha256:" + transfer.sha256 != digest:
                raise transfer.damaged()

        self._download.again(str(self._reference), once)

    def _manifest(self, wanted: str) -> Tuple[Dict[str, Any], str]:
        out = BytesIO()
        transfer = Transfer(out, _MANIFEST_LIMIT)

        def once() -> None:
            with self._get("/manifests/" + wanted, {"Accept": _ACCEPT}) as answer:
                transfer.receive(answer)
                promised = answer.headers.get("Docker-Content-Digest", "")
            if promised.startswith("sha256:") and promised != "sha256:" + transfer.sha256:
                raise transfer.damaged()

        self._download.again(str(self._reference), once)
        data, digest = out.getvalue(), "sha256:" + transfer.sha256
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
                    raise PullError(self._refusal(error.code) + server_message(error)) from error
        raise AssertionError("unreachable")

    def _open(self, path: str, headers: Dict[str, str]) -> HTTPResponse:
        if self._scheme_known:
            return self._download.open(self._base + path, headers, self._authorization)
        plain = self._base.replace("https://", "http://", 1)
        try:
            answer = self._download.open(self._base + path, headers, self._authorization)
        except (Again, PullError):
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
            raise Again(f"the token service of {self._reference.registry} sent nonsense") from error
        token = document.get("token") or document.get("access_token")
        return f"Bearer {token}" if token else None
