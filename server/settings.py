"""The settings: COGVIDEOX_* variables, the same names in a `.env` file, or command-line flags.

Knows: each setting, its default, its valid values, and a one-line message for an invalid value.
Does not know: what the settings are used for, how flags are parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.errors import BadSetting
from server.setting_names import PREFIX, check_names
from server.setting_types import (
    APIS,
    ApiKeys,
    Apis,
    Connections,
    Count,
    Days,
    DrainSeconds,
    FilePath,
    HelpSeconds,
    Host,
    Mebibytes,
    Networks,
    Port,
    Rate,
    Seconds,
    SomeMebibytes,
    StorageUrl,
    Text,
    TextList,
    Url,
    listed,
)
from server.text_file import encoding_of
from weights.catalog import default_models_dir

ENV_FILE = Path(".env")
# values that messages do not quote, because they are or may contain secrets
HIDDEN = ("api_keys", "database_url", "storage_url", "prompt_help_url", "prompt_help_key")

# settings with a flag in some command
FLAGS = (
    *("host", "port", "model", "device", "memory", "data_dir", "models_dir", "loras_dir"),
    *("insecure", "tls", "tls_cert", "tls_key", "log_level", "upscaler"),
)


class Settings(BaseSettings):
    """Use `load`: it raises BadSetting with a one-line message, but the constructor raises pydantic's
    ValidationError."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
    )

    host: Host = Field("127.0.0.1", description="IP address or host name to listen on")
    port: Port = Field(8000, description="port to listen on; 0 chooses a free one")
    public_url: Url | None = Field(
        None,
        description="base URL of this server as clients reach it, used for links to results (default: the request's"
        " Host header)",
    )
    data_dir: FilePath = Field(Path("data"), description="folder for the job table, inputs and results")
    database_url: SecretStr | None = Field(
        None,
        description="job table in PostgreSQL: postgresql://user:password@host/name (default: SQLite in data_dir)",
    )
    storage_url: StorageUrl | None = Field(
        None,
        description="s3://bucket/prefix for results and uploads; endpoint, region and credentials come from the AWS_*"
        " variables (default: in data_dir)",
    )
    storage_redirect: bool = Field(False, description="redirect downloads to a signed S3 URL that is valid for an hour")
    keep_results_days: Days | None = Field(
        None, description="days to keep results that set no expiry of their own (default: forever)"
    )
    max_uploads_per_key_mb: Mebibytes = Field(
        10_240,
        description="maximum size in MiB of one API key's uploads and fetched files per day, and of its stored uploads"
        " without an expiry; 0: no limit",
    )
    keep_jobs_days: Days = Field(30, description="days to keep jobs that ended without a video in the job table")
    max_storage_mb: SomeMebibytes | None = Field(
        None,
        description="maximum size of all results and uploads in MiB; when exceeded, the oldest are deleted, results"
        " first, none younger than an hour (default: no limit)",
    )
    max_storage_per_key_mb: SomeMebibytes | None = Field(
        None, description="the same limit for the files of each API key, in MiB (default: no limit)"
    )
    models_dir: FilePath = Field(default_factory=default_models_dir, description="folder with installed models")
    loras_dir: FilePath | None = Field(None, description="folder with installed LoRAs (default: `loras` in models_dir)")
    max_lora_mb: Mebibytes = Field(
        1024, description="maximum size in MiB of a LoRA that a request names by URL; 0 disables fetching"
    )
    lora_pull: bool = Field(
        False, description="fetch a LoRA from the Hugging Face Hub when a request names one that is not installed"
    )
    lora_pickle: bool = Field(
        False, description="accept pickled LoRAs (.pt, .bin) that hold plain tensors only; they become safetensors"
    )
    model: TextList | None = Field(
        None,
        description="model to serve: a name from `cogvideox weights list`, a Hugging Face id or a folder; several,"
        " separated by commas, for several tasks (default: the best one installed on a GPU, otherwise the demo)",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda|cuda:[0-9]+(,cuda:[0-9]+)*)$",
        description="auto, cpu, cuda, cuda:N, or several cuda:N separated by commas; one worker each",
    )
    memory: Literal["auto", "none", "model", "group", "sequential"] = Field(
        "auto",
        description="parts to move out of GPU memory between uses: nothing, whole models, groups of layers, or single"
        " layers; auto chooses by free memory",
    )
    rife_weights: FilePath | None = Field(
        None,
        description="RIFE weights file (4.6 to 4.26) for frame interpolation (default: the one stored by `cogvideox"
        " weights import`, otherwise the small built-in network)",
    )
    upscaler: FilePath | None = Field(
        None,
        description="Real-ESRGAN file (.safetensors, .pth) for sizes above the model's own; needs the extra `upscale`"
        " (default: plain resizing)",
    )
    extend: bool = Field(
        False,
        description="make videos longer than the model's maximum from several clips, each continued by the"
        " image-to-video model, instead of slowing one clip down; a request may decide otherwise",
    )
    prompt_help: Literal["asked", "always"] = Field(
        "asked",
        description="asked: rewrite prompts only when the request asks for it; always: rewrite all except"
        " video-to-video",
    )
    prompt_help_url: Url | None = Field(
        None, description="base URL of an OpenAI-compatible chat API that rewrites prompts (default: no rewriting)"
    )
    prompt_help_model: Text | None = Field(None, description="name of the chat model at prompt_help_url")
    prompt_help_key: SecretStr | None = Field(None, description="API key for prompt_help_url, if it needs one")
    prompt_help_seconds: HelpSeconds = Field(
        20, description="seconds to wait for a rewritten prompt; then the original is used"
    )
    api_keys: ApiKeys = Field(
        SecretStr(""),
        description="API keys to accept, separated by commas; with no key at all, everybody who reaches the server may"
        " use it, and it listens on loopback only",
    )
    insecure: bool = Field(False, description="allow listening beyond loopback without any key")
    allow_private_urls: bool = Field(
        False, description="let requests name images, clips, LoRAs and webhooks at private and loopback addresses"
    )
    apis: Apis = Field(",".join(APIS), description="APIs to enable, separated by commas")
    trusted_proxies: Networks = Field(
        "127.0.0.1,::1",
        description="addresses or networks, separated by commas, whose X-Forwarded-For, -Proto, -Host and -Prefix"
        " headers are trusted; none for no proxy",
    )
    max_connections: Connections = Field(
        2048, description="maximum number of open connections; fewer where the limit of open files is lower"
    )
    max_connections_per_address: Connections = Field(
        256,
        description="maximum number of open connections from one address (IPv6: one /64); no limit for trusted_proxies",
    )
    tls: bool = Field(False, description="serve https, with a certificate issued by this server unless tls_cert is set")
    tls_cert: FilePath | None = Field(None, description="certificate chain (PEM) to serve https with")
    tls_key: FilePath | None = Field(
        None, description="private key (PEM) of tls_cert; not needed when that file holds it too"
    )
    segmind_response: Literal["auto", "json", "binary"] = Field(
        "auto", description="response format of the Segmind API"
    )
    replicate_output: Literal["auto", "url", "data"] = Field(
        "auto",
        description="output of a Replicate prediction: the video's URL or a data URI; auto sends data to clients that"
        " cannot read a URL: Replicate's run() over plain http, the AI SDK at a private address",
    )
    modelslab_status: Literal["ok", "real"] = Field(
        "ok", description="HTTP status of errors in the ModelsLab API: ok sends 200, real the matching code"
    )
    drain_seconds: DrainSeconds = Field(
        20, description="seconds that running jobs get to save and pause when the server stops"
    )
    silence_seconds: Seconds = Field(1800, description="seconds without a sign of life before a worker is replaced")
    max_run_seconds: Seconds | None = Field(
        None, description="maximum seconds for one attempt at a job (default: no limit)"
    )
    keep_latents_mb: Mebibytes = Field(
        256,
        description="space in MiB for the latents of finished videos; the same video in another frame rate, size or"
        " format then needs no sampling",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="text: for people; json: one object per line; auto: text on a terminal, otherwise json"
    )
    rate_limit: Rate | None = Field(
        None,
        description="maximum requests per client address and per key, such as 600/minute (default: no limit)",
    )
    max_queue: Count = Field(100, description="maximum number of waiting jobs; further ones are refused")
    jobs_per_key: Count | None = Field(
        None, description="maximum number of waiting and running jobs per key (default: no limit)"
    )
    daily_jobs_per_key: Count | None = Field(
        None, description="maximum number of jobs per key and UTC day (default: no limit)"
    )
    min_free_mb: Mebibytes = Field(
        256, description="free disk space in MiB below which new jobs and uploads are refused"
    )

    _names: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        return listed(self.api_keys.get_secret_value())

    @property
    def database(self) -> Path | str:
        """Where the job table is: a SQLite file, or a URL."""
        return (
            self.data_dir.absolute() / "jobs.db" if self.database_url is None else self.database_url.get_secret_value()
        )

    @property
    def served_apis(self) -> tuple[str, ...]:
        return listed(self.apis)

    @property
    def lora_folder(self) -> Path:
        return self.models_dir / "loras" if self.loras_dir is None else self.loras_dir

    @property
    def max_lora_bytes(self) -> int:
        return self.max_lora_mb * 2**20

    @property
    def min_free_bytes(self) -> int:
        return self.min_free_mb * 2**20

    @property
    def keep_results_seconds(self) -> float | None:
        return None if self.keep_results_days is None else self.keep_results_days * 86_400

    @property
    def max_storage_bytes(self) -> int | None:
        return None if self.max_storage_mb is None else self.max_storage_mb * 2**20

    @property
    def max_storage_per_key_bytes(self) -> int | None:
        return None if self.max_storage_per_key_mb is None else self.max_storage_per_key_mb * 2**20

    @property
    def keep_jobs_seconds(self) -> float:
        return self.keep_jobs_days * 86_400

    @property
    def max_uploads_per_key_bytes(self) -> int | None:
        return self.max_uploads_per_key_mb * 2**20 or None

    def named(self, name: str) -> str:
        """The setting's name as the user gave it: `--model` for a flag, otherwise its variable."""
        return self._names.get(name, variable(name))

    def shown(self, name: str) -> str:
        """The setting's name and value for a message: `--model=cogvideox-5b`."""
        return f"{self.named(name)}={plain(getattr(self, name))}"

    @classmethod
    def load(cls, *, names: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Settings from the environment and `.env`; `given` holds the values of flags, which override these; None
        stands for a flag that is not given. Raises BadSetting.

        `names`: other names for settings in messages, where neither the flag nor the variable fits.
        """
        given = {k: v for k, v in given.items() if v is not None}
        called = {name: f"--{name.replace('_', '-')}" for name in given if name in FLAGS} | dict(names or {})
        check_names(cls.model_fields, ENV_FILE)
        given["_env_file_encoding"] = _encoding(ENV_FILE)
        try:
            settings = cls(**given)
        except ValidationError as e:
            raise BadSetting("; ".join(_complaint(cls, error, called) for error in e.errors())) from None
        settings._names.update(called)
        return settings


def _encoding(file: Path) -> str:
    return encoding_of(file.read_bytes() if file.is_file() else b"")


def variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def plain(value: object) -> str:
    """At most 200 printable characters on one line."""
    text = str(value)
    shown = text if len(text) <= 200 else text[:200] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def _complaint(settings: type[Settings], error: Any, called: Mapping[str, str]) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    field = settings.model_fields.get(name)
    reason = str(error["msg"]).removeprefix("Value error, ").replace("Input should be ", "must be ")
    if field is not None:
        if error["type"] == "string_pattern_mismatch":
            reason = f"must be {field.description}"
        elif error["type"].startswith("bool"):
            reason = "must be true or false"
        elif error["type"] == "string_unicode":
            reason = "must be plain text: it is not valid UTF-8"
    shown = "" if name in HIDDEN else f"={plain(error['input'])}"
    return f"{called.get(name, variable(name))}{shown}: {reason}"
