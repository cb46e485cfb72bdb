"""A registry over TLS with passwords, as institutes run them: with a certificate of an authority of their own."""

import datetime as dt
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_prominence.agent.addresses import EVERYWHERE
from airflow_prominence.agent.images import download
from airflow_prominence.agent.images.build import Entry, ImageConfig, layer
from airflow_prominence.agent.images.cache import ImageCache
from airflow_prominence.agent.images.model import Credential, PullError, Wanted
from airflow_prominence.agent.images.sources import Sources
from tests.runtimes.registry import Registry


def certificate(path: Path, address: str) -> str:
    """Write a key and a certificate that signs itself for an address; the file's path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")])
    now = dt.datetime.now(dt.timezone.utc)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + built.public_bytes(encoding))
    return str(path)


def test_its_certificate_is_checked_and_its_password_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
    trusted = certificate(tmp_path / "trusted.pem", "127.0.0.1")
    other = certificate(tmp_path / "other.pem", "127.0.0.1")
    mine = Credential("alice", "s3cret")
    registry = Registry(("alice", "s3cret"), bearer=False, certificate=trusted)
    try:
        registry.push("tool:v1", ImageConfig(cmd=["x"]), [layer([Entry("etc/mark", 0o644, b"m")])])
        name = f"{registry.host}/tool:v1"
        for ca_file in (None, other):
            cache = ImageCache(str(tmp_path / "none"), None, Sources(ca_file=ca_file, allowed=EVERYWHERE))
            with pytest.raises(PullError):
                cache.get(Wanted(name, mine), lambda line: None)
        assert registry.seen == []
        cache = ImageCache(str(tmp_path / "cache"), None, Sources(ca_file=trusted, allowed=EVERYWHERE))
        with pytest.raises(PullError, match="may not be pulled: it needs imagePullCredential or does not exist"):
            cache.get(Wanted(name), lambda line: None)
        image, status = cache.get(Wanted(name, mine), lambda line: None)
        assert (image.cmd, status) == (["x"], "completed")
        assert Path(image.path, "etc/mark").read_bytes() == b"m"
        cache.close()
        missing = Sources(ca_file=str(tmp_path / "missing.pem"), allowed=EVERYWHERE)
        with pytest.raises(PullError, match=r"missing\.pem can't be used"):
            ImageCache(str(tmp_path / "missing"), None, missing).get(Wanted(name), lambda line: None)
    finally:
        registry.close()
