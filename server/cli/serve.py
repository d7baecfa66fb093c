"""`cogvideox serve`: starts the server with settings and flags, and prints a banner.

Knows: flags, the banner, exit codes. Does not know: how the server is put together (`server.house`).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.common import fail

if TYPE_CHECKING:
    from server.settings import Settings

TRUST = {
    "SSL_CERT_FILE": "Python (httpx, aiohttp, the standard library), curl, Go",
    "REQUESTS_CA_BUNDLE": "Python (requests)",
    "NODE_EXTRA_CA_CERTS": "Node",
}


def serve(
    host: Annotated[str | None, typer.Option(help="IP address or host name to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 chooses a free one.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model name, Hugging Face id or folder; several, separated by commas.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N, or cuda:0,cuda:1.")] = None,
    memory: Annotated[str | None, typer.Option(help="auto, none, model, group or sequential.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for jobs, inputs and results.")] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Folder with installed models.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Allow listening beyond loopback without any key.")
    ] = None,
    tls: Annotated[
        bool | None, typer.Option("--tls", help="Serve https, with a certificate issued by this server.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Serve https with this certificate chain (PEM).")] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The certificate's private key (PEM), if not in the chain.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Start the server."""
    from server.errors import StartError
    from server.settings import Settings

    try:
        settings = Settings.load(
            host=host,
            port=port,
            model=model,
            device=device,
            memory=memory,
            data_dir=data_dir,
            models_dir=models_dir,
            insecure=insecure,
            tls=tls,
            tls_cert=tls_cert,
            tls_key=tls_key,
            log_level=log_level,
        )
        from server.serve import serve as run  # slow, so it comes after the check of the settings

        run(settings, on_ready=lambda url: _banner(url, settings), on_broken=_broken)
    except StartError as e:
        raise fail(e.message) from None


def _banner(url: str, settings: Settings) -> None:
    from rich.console import Console

    from server.served import REAL_WEIGHTS, choose
    from server.transport.tls import authority
    from weights.catalog import CATALOG

    def line(text: str = "", style: str | None = None) -> None:
        console.print(text, style=style, soft_wrap=True)  # unwrapped, so that URLs and paths can be copied

    console = Console(stderr=True, highlight=False, markup=False)
    served = choose(settings)
    base = settings.public_url or url
    line()
    line(f"cogvideox-server answers on {base}", "bold")
    for task, info in sorted(served.by_task.items()):
        line(f"  {task.value:<15} {info.family.title}")
    line(f"  {'device':<15} {', '.join(served.devices)}")
    line(f"  {'docs':<15} {base}/docs")
    line(f"  {'health':<15} {base}/health")
    line(f"  {'data':<15} {settings.data_dir.absolute()}")
    line(f"  {'keys':<15} {_keys(settings)}")
    known = {CATALOG[info.family.name] for info in served.by_task.values() if info.family.name in CATALOG}
    for terms in sorted({checkpoint.terms for checkpoint in known if checkpoint.terms}):
        line(f"  {'licence':<15} {terms}")
    if trusted := authority(settings):
        line("\nClients trust the server's certificate after")
        for variable, clients in TRUST.items():
            line(f"  export {variable}={shlex.quote(str(trusted))}  # {clients}")
    if base.startswith("https://") and "fal" in settings.served_apis:
        there = base.removeprefix("https://")
        line("\nfal's Python client uses this server, without a change to the program, with")
        line(f"  FAL_RUN_HOST={there}/run FAL_QUEUE_RUN_HOST={there}/queue")
    if served.is_demo:
        line()
        line(REAL_WEIGHTS, "yellow")
    line()


def _broken(reason: str) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    text = f"\nThis server makes no videos: {reason}. It tries again every 30 seconds.\n"
    console.print(text, style="bold red", soft_wrap=True)


def _keys(settings: Settings) -> str:
    from server.cli.keys import counted, issued

    valid, revoked = counted(issued(settings), settings)
    if not valid and not revoked:
        return "none: everybody who reaches this address may use it"
    closed = "" if valid else "; no request is accepted until `cogvideox keys create NAME`"
    return f"{valid} valid, {revoked} revoked{closed}"
