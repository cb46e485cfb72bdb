"""Objects in a bucket, reached with an Airflow connection; users and nodes go to the bucket itself (presigned URLs)."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from airflow_prominence.objects.keys import check_key, is_key
from airflow_prominence.objects.model import (
    BadKey,
    ChecksumMismatch,
    Infos,
    NoSuchObject,
    ObjectInfo,
    ObjectStore,
    PutTarget,
    StoreUnavailable,
)

#: Under this name the original service kept a checksum, too.
_CHECKSUM = "prominence_sha256"
#: No service signs for longer (version 4 of the signature); what needs a URL for longer asks for a new one.
_LONGEST_S = 7 * 86400
_PIECE = 8 << 20
#: s3fs takes what follows for a version.
_VERSION_MARK = "?versionId="


class S3Store(ObjectStore):
    """Objects below ``prefix`` of a bucket; a checksum is verified by the service, which refuses what does not fit."""

    def __init__(self, connection: str, bucket: str, prefix: str, endpoint: str) -> None:
        self._connection, self._bucket, self._prefix, self._endpoint = connection, bucket, prefix, endpoint

    def url_to_get(self, key: str, lifetime_s: float, *, to_node: bool = False) -> str:  # noqa: ARG002
        """Return a presigned URL of the bucket; the same for users and nodes."""
        return self._presigned("get_object", key, lifetime_s)

    def url_to_put(
        self,
        key: str,
        lifetime_s: float,
        sha256: str | None = None,
        *,
        to_node: bool = False,  # noqa: ARG002
    ) -> PutTarget:
        """Return a presigned PUT, or with a checksum a form: a PUT would need a header that nobody knows of."""
        if sha256 is None:
            return PutTarget(self._presigned("put_object", key, lifetime_s))
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        fields = {"x-amz-checksum-sha256": checksum, f"x-amz-meta-{_CHECKSUM}": sha256}
        with self._asking():
            form = _wait_for(
                self._signing,
                lambda client: client.generate_presigned_post(
                    self._bucket,
                    self._name(key),
                    Fields=dict(fields),
                    Conditions=[{name: value} for name, value in fields.items()],
                    ExpiresIn=_lifetime(lifetime_s),
                ),
            )
        return PutTarget(form["url"], form["fields"])

    def _presigned(self, method: str, key: str, lifetime_s: float) -> str:
        parameters = {"Bucket": self._bucket, "Key": self._name(key)}
        with self._asking():
            url = _wait_for(
                self._signing,
                lambda client: client.generate_presigned_url(method, parameters, _lifetime(lifetime_s)),
            )
        return str(url)

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object; its checksum if the service was told it at the upload."""
        name = self._name(key)
        try:
            with self._asking():
                found = self._files.call_s3("head_object", Bucket=self._bucket, Key=name)
        except NoSuchObject:
            return None
        checksum = found.get("Metadata", {}).get(_CHECKSUM)
        return ObjectInfo(key, found["ContentLength"], found["LastModified"].timestamp(), checksum)

    def list(self, prefix: str) -> Infos:
        """Return all objects below a folder."""
        folder = prefix.rstrip("/")
        check_key(folder)
        start = self._name(folder) + "/"
        infos = []
        for entry in self._entries(start):
            key = folder + "/" + entry["Key"][len(start) :]
            # Some tools make objects that stand for folders.
            if is_key(key):
                infos.append(ObjectInfo(key, entry["Size"], entry["LastModified"].timestamp()))
        return sorted(infos, key=lambda info: info.key)

    def _entries(self, start: str) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            try:
                with self._asking():
                    page = self._files.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=start, **more)
            except NoSuchObject:
                raise StoreUnavailable(f"there is no bucket {self._bucket}") from None
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        """Delete an object."""
        with contextlib.suppress(NoSuchObject), self._asking():
            self._files.call_s3("delete_object", Bucket=self._bucket, Key=self._name(key))

    def delete_below(self, prefix: str) -> None:
        """Delete all objects below a folder, one by one."""
        for info in self.list(prefix):
            self.delete(info.key)

    def open_read(self, key: str) -> BinaryIO:
        """Open an object; what is not read is not fetched."""
        path = f"{self._bucket}/{self._name(key)}"
        with self._asking():
            # A stale size from an earlier listing would cut an object that has grown.
            self._files.invalidate_cache()
            return cast(BinaryIO, self._files.open(path, "rb", block_size=1 << 20, cache_type="readahead"))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return a part of an object, fetched as it is asked for."""
        with self._asking():
            return super().read(key, offset, length)

    def write(self, key: str, data: bytes | BinaryIO, sha256: str | None = None) -> ObjectInfo:
        """Store an object, in parts if it is large; nothing is seen of it before its checksum was compared."""
        path = f"{self._bucket}/{self._name(key)}"
        told = sha256.lower() if sha256 else None
        if isinstance(data, bytes):
            told = told or hashlib.sha256(data).hexdigest()
        metadata = {} if told is None else {_CHECKSUM: told}
        digest, size = hashlib.sha256(), 0
        with self._asking():
            target = self._files.open(path, "wb", block_size=_PIECE, autocommit=False, Metadata=metadata)
            try:
                for piece in _pieces(data):
                    digest.update(piece)
                    size += len(piece)
                    target.write(piece)
                target.close()
                if told is not None and digest.hexdigest() != told:
                    raise ChecksumMismatch(
                        f"The checksum of what arrived is {digest.hexdigest()}, not {told}: nothing was kept"
                    )
                target.commit()
            except BaseException:
                target.discard()
                raise
        info = self.stat(key)
        if info is None:
            raise StoreUnavailable(f"the object storage has lost {key} at once")
        return ObjectInfo(key, size, info.modified, digest.hexdigest())

    def _name(self, key: str) -> str:
        check_key(key)
        if _VERSION_MARK in key:
            raise BadKey(f"holds {_VERSION_MARK}, which S3 takes for a version")
        return f"{self._prefix}/{key}" if self._prefix else key

    @functools.cached_property
    def _files(self) -> Any:
        from airflow.sdk import BaseHook, ObjectStoragePath

        # The hook itself would only warn, and go on with whatever credentials this machine has.
        BaseHook.get_connection(self._connection)
        return ObjectStoragePath(f"s3://{self._bucket}", conn_id=self._connection).fs

    @functools.cached_property
    def _signing(self) -> Any:
        """The same service at the address that users and nodes know, for signatures that all services accept."""
        from s3fs import S3FileSystem

        config = {"signature_version": "s3v4", **self._files.config_kwargs}
        endpoint = self._endpoint or self._files.endpoint_url
        return S3FileSystem(
            session=self._files.session, config_kwargs=config, endpoint_url=endpoint, skip_instance_cache=True
        )

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Tell apart what is missing from what does not work."""
        from airflow.sdk.exceptions import AirflowException
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except FileNotFoundError:
            raise NoSuchObject("There is no such object") from None
        except (OSError, BotoCoreError, ClientError, AirflowException) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error


def _wait_for(files: Any, ask: Any) -> Any:
    """Ask the file system's own client for something, in the loop in which it lives."""
    from fsspec.asyn import sync

    async def asking() -> Any:
        return await ask(await files.set_session())

    return sync(files.loop, asking)


def _lifetime(lifetime_s: float) -> int:
    return int(min(lifetime_s, _LONGEST_S))


def _pieces(data: bytes | BinaryIO) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    while piece := data.read(_PIECE):
        yield piece
