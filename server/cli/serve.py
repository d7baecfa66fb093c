"""`cogvideox serve`: the server, from settings and flags, with a banner that says what is served.

Knows: flags, the banner, exit codes. Does not know: how the server is put together (`server.app`).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from server.errors import StartError
from server.jobs.served import REAL_WEIGHTS, choose
from server.settings import PREFIX, Settings

console = Console(stderr=True, highlight=False)
TRUST = {
    "SSL_CERT_FILE": "Python (httpx, aiohttp, the standard library), curl, Go",
    "REQUESTS_CA_BUNDLE": "Python (requests)",
    "NODE_EXTRA_CA_CERTS": "Node",
}


def _settings_help() -> str:
    """Every setting by its variable: the flags below are a few of them."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if name == "api_keys" or default is None else f" [default: {default}]"
        lines.append(f"{PREFIX}{name.upper()}: {field.description}{shown}")
    return "\n\n".join(lines)


HELP = (
    "Start the server.\n\nSettings come from flags, then environment variables, then a .env file here:\n\n"
    + _settings_help()
)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint name or folder; a comma list for one per task.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N, or cuda:0,cuda:1.")] = None,
    memory: Annotated[str | None, typer.Option(help="auto, none, model, group, sequential.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for jobs, inputs and results.")] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Folder with pulled checkpoints.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Listen beyond loopback without any key.", show_default=False)
    ] = None,
    tls: Annotated[
        bool | None,
        typer.Option("--tls", help="Answer https, with a certificate of our own authority.", show_default=False),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Answer https with this certificate chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM), where the chain lacks it.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
) -> None:
    from server.serve import serve as run

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
        run(settings, on_ready=lambda url: _banner(url, settings))
    except StartError as e:
        typer.echo(f"cogvideox: {e.message}", err=True)
        raise typer.Exit(2) from None


def _banner(url: str, settings: Settings) -> None:
    from server.cli.keys import issued
    from server.tls import authority

    served = choose(settings)
    base = settings.public_url or url
    console.print(f"\n[bold]cogvideox-server[/bold] answers on {base}")
    for task, info in sorted(served.by_task.items()):
        console.print(f"  {task.value:<15} {info.family.title}")
    console.print(f"  {'device':<15} {', '.join(served.devices)}")
    console.print(f"  {'what it speaks':<15} {base}/  (schemas: {base}/docs, state: {base}/health)")
    if not settings.keys and not issued(settings):
        console.print(f"  {'keys':<15} none: everybody who reaches this address may use it")
    if trusted := authority(settings):
        console.print("\nClients trust its certificate after")
        for variable, clients in TRUST.items():
            console.print(f"  export {variable}={shlex.quote(str(trusted))}  # {clients}", soft_wrap=True)
    if served.is_demo:
        console.print(f"\n[yellow]{REAL_WEIGHTS}[/yellow]")
    console.print()
