"""At startup, the server refuses bad files for its own secrets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from server.errors import DataDirUnwritable, StartError
from server.signing import SECRET_BYTES, Signing
from server.transport import tls
from tests.rigs.house import plain

SECRETS = ("hmac", "ed25519")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:16])


def _long(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def _blank(path: Path) -> None:
    path.write_bytes(bytes(SECRET_BYTES))


def _open_to_all(path: Path) -> None:
    path.chmod(0o604)


def _writable_by_all(path: Path) -> None:
    path.chmod(0o602)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_empty, _short, _long, _blank, _open_to_all, _writable_by_all, _folder])
@pytest.mark.parametrize("name", SECRETS)
def test_a_bad_secret_is_refused(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    Signing(tmp_path / "keys")
    damage(tmp_path / "keys" / name)
    before = [path.read_bytes() for path in (tmp_path / "keys").iterdir() if path.is_file()]
    with pytest.raises(DataDirUnwritable, match=name) as caught:
        Signing(tmp_path / "keys")
    assert "\n" not in caught.value.message
    assert [path.read_bytes() for path in (tmp_path / "keys").iterdir() if path.is_file()] == before


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_the_group_may_read_is_taken(tmp_path: Path, name: str) -> None:
    """A container platform may assign a volume to a group at each start, so the group may read the file."""
    first = Signing(tmp_path / "keys")
    (tmp_path / "keys" / name).chmod(0o660)
    assert Signing(tmp_path / "keys").jwks() == first.jwks()


@pytest.mark.parametrize("name", ["authority.pem", "server.pem"])
def test_a_private_key_that_every_user_can_read_is_refused(tmp_path: Path, name: str) -> None:
    settings = plain(data_dir=tmp_path, tls=True)
    tls.issued(settings)
    (tmp_path / "tls" / name).chmod(0o644)
    with pytest.raises(StartError, match=f"{name} holds a secret and is open to every user"):
        tls.issued(settings)
