"""All settings with their defaults, by topic: the second half of `cogvideox serve --help`.

Knows: the topic of each setting, the page's format. Does not know: what the settings do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from server.cli.help import Command

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

# a setting in none of these lists is shown after its predecessor in `Settings`
TOPICS: dict[str, tuple[str, ...]] = {
    "Network": ("host", "port", "public_url", "trusted_proxies", "tls", "tls_cert", "tls_key"),
    "Access": ("api_keys", "insecure", "allow_private_urls"),
    "Limits": ("rate_limit", "max_queue", "jobs_per_key", "daily_jobs_per_key", "min_free_mb"),
    "APIs": ("apis", "segmind_response", "replicate_output", "modelslab_status"),
    "Models": ("models_dir", "model", "device", "memory", "rife_weights", "upscaler", "extend"),
    "LoRAs": ("loras_dir", "max_lora_mb", "lora_pull", "lora_pickle"),
    "Prompts": ("prompt_help", "prompt_help_url", "prompt_help_model", "prompt_help_key", "prompt_help_seconds"),
    "Storage": (
        *("data_dir", "database_url", "storage_url", "storage_redirect"),
        *("keep_results_days", "max_storage_mb", "max_storage_per_key_mb", "max_uploads_per_key_mb", "keep_jobs_days"),
        "keep_latents_mb",
    ),
    "Operation": ("drain_seconds", "silence_seconds", "max_run_seconds", "log_level", "log_format"),
}
HIDDEN_DEFAULTS = ("api_keys", "prompt_help_key", "database_url")


class ServeCommand(Command):
    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        super().format_help(ctx, formatter)
        print_settings()


def by_topic() -> dict[str, list[str]]:
    """The names of all settings, by topic."""
    from server.settings import Settings

    topic_of = {name: topic for topic, names in TOPICS.items() for name in names}
    pages: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    topic = next(iter(TOPICS))
    for name in Settings.model_fields:
        topic = topic_of.get(name, topic)
        pages[topic].append(name)
    return pages


def print_settings() -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from server.settings import Settings, variable

    typer.echo("Settings: flags override environment variables, which override a .env file in the working directory.")
    console = Console(highlight=False)
    for topic, names in by_topic().items():
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=topic, title_justify="left")
        table.title_style = "bold"
        table.add_column(no_wrap=True)
        table.add_column()
        for name in names:
            field = Settings.model_fields[name]
            default = field.get_default(call_default_factory=True)
            text = Text(field.description or "")
            if default is not None and name not in HIDDEN_DEFAULTS:
                shown = str(default).lower() if isinstance(default, bool) else str(default)
                text.append(f" [default: {shown}]", style="dim")
            table.add_row(variable(name), text)
        console.print()
        console.print(table)
