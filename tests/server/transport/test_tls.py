"""The server speaks https with a certificate from its own authority, or with its owner's certificate. Tests names,
renewal and trust."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from server.errors import BadSetting, StartError
from server.transport import tls
from tests.rigs import pace
from tests.rigs.house import plain


def settings(folder: Path, **given: Any) -> Any:
    (folder / "data").mkdir(exist_ok=True)
    return plain(data_dir=folder / "data", tls=True, **given)


def held(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names_in(path: Path) -> set[str]:
    found = held(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


# the certificate


def test_has_every_name_of_the_server_and_of_the_clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "GPU-box")
    given = settings(tmp_path, host="192.168.7.9", public_url="https://video.example.org/here")
    names = names_in(tls.issued(given).chain)
    assert names >= {"localhost", "127.0.0.1", "::1", "192.168.7.9", "gpu-box", "video.example.org"}
    assert names >= {"fal.run", "queue.fal.run", "rest.fal.ai", "v3.fal.media", "api.segmind.com", "open.bigmodel.cn"}
    assert names >= {"api.z.ai", "api.302.ai", "modelslab.com", "api.replicate.com", "api.openai.com"}


@pytest.mark.parametrize(
    ("host", "machine", "there", "not_there"),
    [
        ("0.0.0.0", "x", "127.0.0.1", "0.0.0.0"),
        ("[::1]", "x", "::1", "[::1]"),
        ("127.0.0.1", "not a name", "localhost", "not a name"),
        ("127.0.0.1", "", "localhost", ""),
        ("127.0.0.1", "bücher", "xn--bcher-kva", "bücher"),
    ],
)
def test_odd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, machine: str, there: str, not_there: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: machine)
    names = names_in(tls.issued(settings(tmp_path, host=host)).chain)
    assert there in names
    assert not_there not in names


def test_everywhere_means_this_machines_addresses_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class At:
        def __init__(self, address: str) -> None:
            self.address = address

    there = {"eth0": [At("192.168.1.5"), At("fe80::1%eth0"), At("02:00:5e:10:00:01")], "lo": [At("127.0.0.1")]}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: there)
    assert "192.168.1.5" in tls.names(settings(tmp_path, host="0.0.0.0"))
    assert "192.168.1.5" not in tls.names(settings(tmp_path, host="127.0.0.1"))
    assert not any(name.startswith(("fe80", "02:")) for name in tls.names(settings(tmp_path, host="::")))


def test_only_its_owner_may_read_the_files(tmp_path: Path) -> None:
    tls.issued(settings(tmp_path))
    folder = tmp_path / "data" / "tls"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert files == {"authority.pem": 0o600, "ca.pem": 0o600, "server.pem": 0o600}
    assert b"PRIVATE" not in (folder / "ca.pem").read_bytes()


def changed(tmp_path: Path, then: Callable[[Path], None] = lambda folder: None, **later: Any) -> tuple[bool, bool]:
    """Starts twice; returns whether the second start changed the authority, and whether it changed the certificate."""
    folder = tmp_path / "data" / "tls"
    tls.issued(settings(tmp_path))
    before = [held(folder / name).serial_number for name in ("ca.pem", "server.pem")]
    then(folder)
    now = later.pop("now", None)
    tls.issued(settings(tmp_path, **later), now)
    after = [held(folder / name).serial_number for name in ("ca.pem", "server.pem")]
    held(folder / "server.pem").verify_directly_issued_by(held(folder / "ca.pem"))
    return before[0] != after[0], before[1] != after[1]


def test_both_stay(tmp_path: Path) -> None:
    assert changed(tmp_path) == (False, False)
    assert changed(tmp_path, now=datetime.now(UTC) + timedelta(days=500)) == (False, False)


def test_a_certificate_is_made_anew_before_its_end(tmp_path: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=700)
    assert changed(tmp_path, now=later) == (False, True)
    assert held(tmp_path / "data" / "tls" / "server.pem").not_valid_after_utc > later + timedelta(days=700)


def test_a_certificate_is_made_anew_for_other_names(tmp_path: Path) -> None:
    assert changed(tmp_path, public_url="https://video.example.org") == (False, True)
    assert "video.example.org" in names_in(tmp_path / "data" / "tls" / "server.pem")


@pytest.mark.parametrize("text", [b"", b"nothing of the kind", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_certificate_is_made_anew(tmp_path: Path, text: bytes) -> None:
    def damage(folder: Path) -> None:
        (folder / "server.pem").write_bytes(text)

    assert changed(tmp_path, damage) == (False, True)


def test_a_certificate_of_another_authority_is_made_anew(tmp_path: Path) -> None:
    def lose(folder: Path) -> None:
        (folder / "authority.pem").unlink()

    assert changed(tmp_path, lose) == (True, True)


def test_the_file_to_trust_comes_back(tmp_path: Path) -> None:
    assert changed(tmp_path, lambda folder: (folder / "ca.pem").write_text("gone")) == (False, False)


def test_a_damaged_authority_is_not_replaced_in_silence(tmp_path: Path) -> None:
    tls.issued(settings(tmp_path))
    (tmp_path / "data" / "tls" / "authority.pem").write_text("damaged")
    with pytest.raises(StartError, match=r"authority\.pem is damaged"):
        tls.issued(settings(tmp_path))
    assert (tmp_path / "data" / "tls" / "authority.pem").read_text() == "damaged"


def test_a_folder_that_cannot_be_had(tmp_path: Path) -> None:
    given = settings(tmp_path)
    (tmp_path / "data" / "tls").write_text("a file")
    with pytest.raises(StartError, match="cannot keep certificates in"):
        tls.issued(given)


# the owner's certificate


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Returns a folder with `chain.pem`, `key.pem`, `both.pem` (chain and key), `ca.pem` (authority) and bad files."""
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert("localhost").private_key_pem.write_to_path(str(tmp_path / "other.pem"))
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    (tmp_path / "locked.pem").write_bytes(locked)
    (tmp_path / "text.pem").write_text("no certificate")
    return tmp_path


def test_the_owners_certificate_is_taken(own: Path) -> None:
    found = tls.given(plain(tls_cert=own / "chain.pem", tls_key=own / "key.pem"))
    assert found == tls.Certificate(own / "chain.pem", own / "key.pem")
    assert tls.given(plain(tls_cert=own / "both.pem")) == tls.Certificate(own / "both.pem")
    assert tls.given(plain(tls=True)) is None
    assert tls.wanted(plain(tls_cert=own / "both.pem"))
    assert tls.authority(plain(tls=True, tls_cert=own / "both.pem")) is None


@pytest.mark.parametrize(
    ("chain", "key", "said"),
    [
        ("missing.pem", "key.pem", "TLS_CERT=.*missing.pem: cannot be read: No such file"),
        ("chain.pem", "missing.pem", "TLS_KEY=.*missing.pem: cannot be read: No such file"),
        ("text.pem", "key.pem", "TLS_CERT=.*text.pem"),
        ("chain.pem", "text.pem", "TLS_CERT=.*text.pem"),
        ("chain.pem", "other.pem", "mismatch"),
        ("chain.pem", None, "TLS_CERT=.*chain.pem: not a certificate and its private key"),
        ("chain.pem", "locked.pem", "locked with a password"),
        (None, "key.pem", "TLS_KEY: a private key needs its certificate"),
        (".", "key.pem", "TLS_CERT=.*: Is a directory"),
    ],
)
def test_a_certificate_that_does_not_serve(own: Path, chain: str | None, key: str | None, said: str) -> None:
    given = {"tls_cert": chain and own / chain, "tls_key": key and own / key}
    with pytest.raises(BadSetting, match=said) as error:
        tls.given(plain(**given))
    assert "\n" not in error.value.message


def test_a_certificate_that_does_not_serve_is_one_line_on_the_terminal(own: Path) -> None:
    flags = ["--tls-cert", "chain.pem", "--tls-key", "other.pem", "--data-dir", "data"]
    program = [sys.executable, "-m", "server.cli", "serve", *flags]
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        program,
        cwd=own,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=pace.seconds(60),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("cogvideox: --tls-cert=chain.pem with other.pem: ")
    assert done.stderr.count("\n") == 1
    assert not (own / "data").exists()
