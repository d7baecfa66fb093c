"""`cogvideox clients`: ready-to-run programs that use this server with its APIs' clients.

Knows: the command, the choice of APIs, the server's URL. Does not know: the programs (each façade has its own).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from server.cli.common import fail

if TYPE_CHECKING:
    from server.facades.facade import Facade
    from server.settings import Settings

KEY = "YOUR_API_KEY"
COMMENT = {"python": "#", "sh": "#", "js": "//", "yaml": "#", "json": "//"}


def clients(
    vendors: Annotated[
        list[str] | None, typer.Argument(metavar="API", help="fal, segmind, ...; by default all that are enabled.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The server's URL; by default the URL in the settings.")] = None,
    key: Annotated[str, typer.Option(help="An API key of the server.")] = KEY,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as in the README.")] = False,
) -> None:
    """Print client code for this server, ready to run."""
    from server.errors import StartError
    from server.settings import Settings

    try:
        settings = Settings.load()
        names = _chosen(vendors or [], settings)
        address = _checked(url) if url is not None else _address(settings)
    except StartError as e:
        raise fail(e.message) from None
    from server.facades.registry import FACADES

    if markdown:
        typer.echo("\n".join(_section(FACADES[name], address, key) for name in names))
        return
    snippets = [snippet for name in names for snippet in FACADES[name].clients]
    typer.echo("\n".join(f"{COMMENT[s.language]} {s.title}\n\n{s.filled(address, key)}" for s in snippets), nl=False)


def _section(facade: Facade, address: str, key: str) -> str:
    programs = [f"{s.title}:\n\n```{s.language}\n{s.filled(address, key)}```\n" for s in facade.clients]
    return f"<details><summary>{facade.title}</summary>\n\n" + "\n".join(programs) + "\n</details>\n"


def _chosen(vendors: list[str], settings: Settings) -> tuple[str, ...]:
    from server.errors import BadSetting

    for name in vendors:
        if name not in settings.served_apis:
            raise BadSetting(f"API: {name} is not enabled here; enabled: {', '.join(settings.served_apis)}")
    return tuple(dict.fromkeys(vendors)) or settings.served_apis


def _checked(url: str) -> str:
    from server.errors import BadSetting

    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise BadSetting(f"--url={url:.80}: must look like https://video.example.org")
    return url.rstrip("/")


def _address(settings: Settings) -> str:
    """The URL of a server with these settings."""
    if settings.public_url:
        return settings.public_url
    host = settings.host.strip("[]")
    try:
        if (address := ip_address(host)).is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    except ValueError:
        pass  # a host name
    scheme = "https" if settings.tls or settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
