"""The certificate for https: the operator's certificate, or a certificate issued by the server's own authority in the
data folder.

Knows: certificates, the host names of this server, the files. Does not know: sockets, which clients trust it.

    authority.pem  the authority's key and certificate     ca.pem  its certificate, for clients to trust
    server.pem     the server's key and certificate, reissued when it is about to expire or the names change
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import psutil
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from server.datadir import read_secret, write_atomically
from server.errors import BadSetting, ServerError, StartError
from server.private import private_folder
from server.settings import Settings, plain

# hosts that clients of the clouds call; the client machine's hosts file can direct these names to this server
VENDOR_HOSTS = (
    *("fal.run", "queue.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media"),
    *("api.segmind.com", "open.bigmodel.cn", "api.z.ai", "api.302.ai", "modelslab.com"),
    *("api.replicate.com", "api.openai.com"),
)
LIFE = timedelta(days=800)  # some clients reject certificates that are valid for more than 825 days
# renewed this long before expiry, because a certificate is checked only when the server starts
RENEW = timedelta(days=200)


@dataclass(frozen=True)
class Certificate:
    """PEM files. `key` is None when `chain` holds the private key too."""

    chain: Path
    key: Path | None = None


def wanted(settings: Settings) -> bool:
    return settings.tls or settings.tls_cert is not None


def authority(settings: Settings) -> Path | None:
    """The certificate that clients must trust; None without https, or when the operator provides a certificate."""
    return _folder(settings.data_dir) / "ca.pem" if settings.tls and settings.tls_cert is None else None


def given(settings: Settings) -> Certificate | None:
    """The operator's certificate, None when none is set. Raises BadSetting for a certificate that cannot be used."""
    if settings.tls_cert is None:
        if settings.tls_key is not None:
            raise BadSetting(f"{settings.named('tls_key')}: a private key needs its certificate (COGVIDEOX_TLS_CERT)")
        return None
    certificate = Certificate(settings.tls_cert, settings.tls_key)
    for name, path in (("tls_cert", settings.tls_cert), ("tls_key", settings.tls_key)):
        try:
            if path is not None:
                path.read_bytes()
        except OSError as e:
            raise BadSetting(f"{settings.shown(name)}: cannot be read: {e.strerror}") from None
    try:
        context(certificate)
    except (ssl.SSLError, ValueError) as e:
        reason = str(getattr(e, "reason", None) or e).lower().replace("_", " ")
        pair = f" with {plain(settings.tls_key)}" if settings.tls_key else ""
        raise BadSetting(
            f"{settings.shown('tls_cert')}{pair}: not a certificate and its private key in PEM ({reason})"
        ) from None
    return certificate


def issued(settings: Settings, now: datetime | None = None) -> Certificate:
    """Returns a certificate of our own authority, for all names of this server; creates the authority and the
    certificate if missing. Raises StartError.

    The caller must hold the data folder's lock: two servers would create two authorities.
    """
    folder = _folder(settings.data_dir)
    now = now or datetime.now(UTC)
    try:
        private_folder(folder)
        ca, hosts = _authority(folder), names(settings)
        certificate = Certificate(folder / "server.pem")
        if certificate.chain.exists():
            read_secret(certificate.chain)
        if not _good(certificate, ca, hosts, now):
            leaf = ca.issue_cert(
                *hosts,
                organization_name="cogvideox-server",
                organization_unit_name="server",
                not_before=now - timedelta(days=1),  # clients' clocks may be slow
                not_after=now + LIFE,
            )
            write_atomically(certificate.chain, leaf.private_key_and_cert_chain_pem.bytes())
        return certificate
    except (OSError, ServerError) as e:
        raise StartError(f"cannot keep certificates in {folder}: {getattr(e, 'strerror', None) or e}") from None


def names(settings: Settings) -> list[str]:
    """All names and addresses by which clients may call this server, in a certificate's form."""
    found = ["localhost", "127.0.0.1", "::1", settings.host.strip("[]"), socket.gethostname()]
    if settings.public_url:
        found.append(urlsplit(settings.public_url).hostname or "")
    if _is_unspecified(settings.host):
        found += [address.address for at in psutil.net_if_addrs().values() for address in at]
    return list(dict.fromkeys(name for name in (_written(name) for name in (*found, *VENDOR_HOSTS)) if name))


def _folder(data_dir: Path) -> Path:
    return data_dir.absolute() / "tls"


def _authority(folder: Path) -> trustme.CA:
    kept = folder / "authority.pem"
    if kept.exists():
        pem = read_secret(kept)
        try:
            ca = trustme.CA.from_pem(pem, pem)
        except ValueError:
            raise StartError(
                f"{kept.name} is damaged; if you delete it, a new authority is created, which clients must trust anew"
            ) from None
    else:
        host = _written(socket.gethostname()) or "a machine without a name"
        unit = f"made on {host[:30]}, {datetime.now(UTC):%Y-%m-%d}"  # 64 characters at most
        ca = trustme.CA(organization_name="cogvideox-server", organization_unit_name=unit)
        write_atomically(kept, ca.private_key_pem.bytes() + ca.cert_pem.bytes())
    shown = folder / "ca.pem"
    if not shown.exists() or shown.read_bytes() != ca.cert_pem.bytes():
        write_atomically(shown, ca.cert_pem.bytes())
    return ca


def _good(certificate: Certificate, ca: trustme.CA, wanted: list[str], now: datetime) -> bool:
    """Whether the stored certificate is usable: issued by `ca`, complete, for these names and not about to expire."""
    try:
        pem = certificate.chain.read_bytes()
        leaf = x509.load_pem_x509_certificate(pem)
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.cert_pem.bytes()))
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        load_pem_private_key(pem, None)
        context(certificate)
    except Exception:  # after any error, a new certificate is issued
        return False
    held = {str(name.value) for name in alternatives}
    return held == set(wanted) and leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc - RENEW


def context(certificate: Certificate) -> ssl.SSLContext:
    """The TLS context of a server with this certificate. Raises SSLError, ValueError for an unusable certificate."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(certificate.chain, certificate.key, password=_no_password)
    return found


def _no_password() -> NoReturn:
    # without this function, OpenSSL would ask for the password on the terminal
    raise ValueError("the key is locked with a password")


def _is_unspecified(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def _written(name: str) -> str | None:
    """`name` in a certificate's form; None for a name that a certificate cannot hold."""
    try:
        address = ip_address(name)
    except ValueError:
        pass
    else:
        return None if address.is_unspecified or address.is_link_local else str(address)
    try:
        text = name.encode("idna").decode().lower()
    except UnicodeError:
        return None
    fits = all(part and part.replace("-", "").isalnum() for part in text.split("."))
    return text if fits else None
