"""What can be set from outside: COGVIDEOX_* variables, or the same names in a `.env` file.

Knows: each setting, its default, what it may be, and how to say in one line what is wrong with a value.
Does not know: what the settings are used for, command line flags.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from limits import parse
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.errors import BadSetting
from weights.catalog import default_models_dir

PREFIX = "COGVIDEOX_"


def _public_url(value: str) -> str:
    parts = urlsplit(value)
    plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not plain:
        raise ValueError("must look like https://video.example.org, without user or query")
    return value.rstrip("/")


APIS = ("fal", "segmind", "zhipu", "modelslab", "openai", "replicate", "huggingface")


def _listed(value: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in value.split(",")) if part)


def _apis(value: str) -> str:
    if unknown := [name for name in _listed(value) if name not in APIS]:
        raise ValueError(f"{unknown[0]} is none of {', '.join(APIS)}")
    return value


def _networks(value: str) -> str:
    """`none` for nobody; an empty value would be the default."""
    if value.strip().lower() == "none":
        return ""
    for part in _listed(value):
        ip_network(part, strict=False)
    return value


def _storage_url(value: str) -> str:
    if not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,62}(/[A-Za-z0-9._-]+)*/?", value):
        raise ValueError("must look like s3://bucket/prefix")
    return value.rstrip("/")


def _rate(value: str) -> str:
    try:
        parse(value)
    except ValueError:
        raise ValueError("must look like 600/minute") from None
    return value


class Settings(BaseSettings):
    """Raises pydantic's ValidationError when built directly; `load` raises the named one-line error instead."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", env_ignore_empty=True, frozen=True
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    public_url: Annotated[str, AfterValidator(_public_url)] | None = Field(
        None, description="the server's own base URL as clients see it, for links to results (default: the Host asked)"
    )
    data_dir: Path = Field(Path("data"), description="folder for the job table, inputs and results")
    database_url: SecretStr | None = Field(
        None, description="postgresql://user:password@host/name for the job table (default: a SQLite file in data_dir)"
    )
    storage_url: Annotated[str, AfterValidator(_storage_url)] | None = Field(
        None,
        description="s3://bucket/prefix for results and uploads; endpoint, region and credentials are those of the"
        " AWS_* variables (default: in data_dir)",
    )
    storage_redirect: bool = Field(
        False, description="send who downloads a file on to storage_url, with a signed address good for an hour"
    )
    keep_results_days: float | None = Field(
        None, gt=0, description="days that a result is kept whose request says nothing of it (default: for ever)"
    )
    max_storage_mb: int | None = Field(
        None,
        ge=1,
        description="room for results and uploads, in 2**20 bytes: beyond it the oldest go, results first, none within"
        " an hour (default: no limit)",
    )
    max_storage_per_key_mb: int | None = Field(
        None, ge=1, description="the same for the files of each API key (default: no limit)"
    )
    max_uploads_per_key_mb: int = Field(
        10_240,
        ge=0,
        description="what one API key may upload or have fetched within a day, in 2**20 bytes: more is refused, and of"
        " its older uploads that have no time of their own, so much is kept; 0: no limit",
    )
    keep_jobs_days: float = Field(
        30, gt=0, le=36_500, description="days that a job without a video is kept in the job table after its end"
    )
    models_dir: Path = Field(default_factory=default_models_dir, description="folder with pulled checkpoints")
    loras_dir: Path | None = Field(None, description="folder with LoRA files (default: loras in models_dir)")
    max_lora_mb: int = Field(
        1024,
        ge=0,
        description="largest LoRA that is fetched for a request which names its address, in 2**20 bytes; 0: none is",
    )
    lora_pull: bool = Field(
        False, description="fetch a LoRA that a request names from the Hugging Face Hub when it is not installed"
    )
    lora_pickle: bool = Field(
        False, description="take pickled LoRAs (.pt, .bin) too: plain tensors in them are turned into safetensors"
    )
    model: str | None = Field(
        None,
        description="checkpoint name or folder to serve, or a comma list with one per task"
        " (default: the best one installed on a GPU, else the demo)",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda|cuda:\d+(,cuda:\d+)*)$",
        description="auto, cpu, cuda, cuda:N, or a comma list of cuda:N; one worker for each",
    )
    memory: Literal["auto", "none", "model", "group", "sequential"] = Field(
        "auto", description="what is offloaded from the GPU between uses; auto chooses by free memory"
    )
    rife_weights: Path | None = Field(
        None,
        description="IFNet weights file (RIFE 4.6 to 4.26) for frame interpolation"
        " (default: what `cogvideox weights import` stored, else the small network that ships with the project)",
    )
    upscaler: Path | None = Field(
        None,
        description="Real-ESRGAN file (.safetensors, .pth) for sizes above the model's own, needs the extra `upscale`;"
        " without it they are resized plainly",
    )
    extend: bool = Field(
        False,
        description="what is longer than the model's longest clip is made of further clips by the image-to-video"
        " checkpoint, instead of being slowed down, unless a request says otherwise",
    )
    prompt_help: Literal["asked", "always"] = Field(
        "asked",
        description="which prompts the model at prompt_help_url rewords: those of requests that ask for it, or all but"
        " video-to-video's",
    )
    prompt_help_url: Annotated[str, AfterValidator(_public_url)] | None = Field(
        None, description="base URL of an OpenAI-compatible chat API that may reword prompts (default: none is)"
    )
    prompt_help_model: str | None = Field(None, description="the model to ask there")
    prompt_help_key: SecretStr | None = Field(None, description="API key for it, if it wants one")
    prompt_help_seconds: float = Field(20, gt=0, le=120, description="seconds after which the prompt stays as it is")
    api_keys: SecretStr = Field(
        SecretStr(""), description="comma list of accepted keys; empty: no key needed, and only loopback may be bound"
    )
    insecure: bool = Field(False, description="allow an address other than loopback without any key")
    allow_private_urls: bool = Field(
        False, description="fetch pictures and clips from private and loopback addresses too"
    )
    apis: Annotated[str, AfterValidator(_apis)] = Field(
        ",".join(APIS), description="comma list of the clouds whose requests are answered"
    )
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "127.0.0.1,::1",
        description="comma list of addresses or networks whose X-Forwarded-For, -Proto, -Host are believed, or none",
    )
    max_connections: int = Field(
        2048, ge=1, le=30_000, description="connections at a time, fewer where the limit of open files is lower"
    )
    max_connections_per_address: int = Field(
        256,
        ge=1,
        le=30_000,
        description="connections at a time from one address (IPv6: one /64); trusted_proxies may have any number",
    )
    tls: bool = Field(
        False, description="answer https, with a certificate of our own authority unless tls_cert names another"
    )
    tls_cert: Path | None = Field(None, description="certificate chain (PEM) to answer https with")
    tls_key: Path | None = Field(None, description="its private key (PEM); left out when tls_cert holds it too")
    segmind_response: Literal["auto", "json", "binary"] = Field(
        "auto", description="what the Segmind endpoints answer with"
    )
    replicate_output: Literal["auto", "url", "data"] = Field(
        "auto",
        description="what a Replicate prediction's output is: the film's address or a data URI; auto gives"
        " Replicate's own clients the data over plain http, which they cannot read otherwise",
    )
    modelslab_status: Literal["ok", "real"] = Field(
        "ok", description="HTTP status of what the ModelsLab endpoints refuse: ok is 200, real the code that fits"
    )
    drain_seconds: float = Field(
        20, ge=0, le=3600, description="seconds that running jobs are given to save and pause when the server stops"
    )
    silence_seconds: float = Field(
        1800, gt=0, description="seconds without a word after which a worker is taken to hang and replaced"
    )
    max_run_seconds: float | None = Field(
        None, gt=0, description="seconds that one attempt at a job may last (default: no limit)"
    )
    keep_latents_mb: int = Field(
        256,
        ge=0,
        description="room for the latents of finished videos, in 2**20 bytes: the same video at another rate, size or"
        " format then needs no sampling",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    rate_limit: Annotated[str, AfterValidator(_rate)] | None = Field(
        None, description="requests that one address, and one key, may send, such as 600/minute (default: no limit)"
    )
    max_queue: int = Field(100, ge=1, le=1_000_000, description="jobs that may wait before new ones are refused")
    jobs_per_key: int | None = Field(
        None, ge=1, description="jobs that one key may have waiting or running at a time (default: no limit)"
    )
    daily_jobs_per_key: int | None = Field(
        None, ge=1, description="jobs that one key may send a day, by UTC (default: no limit)"
    )
    min_free_mb: int = Field(256, ge=0, description="free disk space below which new jobs are refused, in 2**20 bytes")

    @property
    def keys(self) -> tuple[str, ...]:
        return _listed(self.api_keys.get_secret_value())

    @property
    def database(self) -> Path | str:
        """Where the job table is: a SQLite file, or a URL."""
        return (
            self.data_dir.absolute() / "jobs.db" if self.database_url is None else self.database_url.get_secret_value()
        )

    @property
    def served_apis(self) -> tuple[str, ...]:
        return _listed(self.apis)

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

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Settings from the environment and `.env`; `given` (flags, None: not given) wins. Raises BadSetting."""
        try:
            return cls(**{k: v for k, v in given.items() if v is not None})
        except ValidationError as e:
            raise BadSetting("; ".join(_complaint(cls, error) for error in e.errors())) from None


def _complaint(settings: type[Settings], error: Any) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    field = settings.model_fields.get(name)
    reason = str(error["msg"]).removeprefix("Value error, ").replace("Input should be ", "must be ")
    if error["type"] == "string_pattern_mismatch" and field is not None:
        reason = f"must be {field.description}"
    shown = (
        ""
        if name in ("api_keys", "database_url", "storage_url", "prompt_help_url", "prompt_help_key")
        else f"={error['input']!s:.80}"
    )
    return f"{PREFIX}{name.upper()}{shown}: {reason}"
