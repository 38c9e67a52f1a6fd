"""The server's settings: flags, environment (``CLIPSEEK_…``) and a TOML file, in this order of precedence.

Every setting is one field here; ``--help``, ``clipseek-server config`` and the README's table are made from them.
"""

import argparse
import json
import os
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from clipseek_server.cores import available_cores
from clipseek_server.errors import StartupError

MIB = 1024 * 1024

_MAX_RESPONSE_BYTES = 4 * MIB
"""What gRPC's clients take unless told otherwise."""

_MILVUS_SCHEMES = ("http://", "https://", "tcp://")

_BUCKET_URL = re.compile(r"s3://[A-Za-z0-9][\w.-]{1,254}(/(?!\.{1,2}(/|$))[\w.-]+)*", re.ASCII)
_ENDPOINT = re.compile(r"https?://[^\s/@?#]+/?")

_RECORD_BYTES = 1024
"""More than a record without its metadata takes in a message."""

_THUMBNAIL_BYTES = 32 * 1024
"""The largest thumbnail."""

DECODED_PIXEL_BYTES = 16
"""What a pixel takes at most while its picture is decoded; most formats take less."""

MAX_DIMENSION = 4096
"""More than any CLIP model has; requests hold no longer embeddings either."""

_EMBEDDING_BYTES = 4 * MAX_DIMENSION + 128
"""The largest embedding, with its space and what else an answer says of it."""

_ITEM_RESULT_BYTES = 2048
"""More than an answer says of an item that failed."""

_OTHER_VARIABLES = {
    "CLIPSEEK_CONFIG",
    *(f"CLIPSEEK_{name}" for name in ("SERVER", "CA", "CERTIFICATE", "KEY", "SERVER_NAME", "TOKEN")),
}
"""Of this program beside its settings, and of the command ``clipseek``."""

OpenVinoPrecision = Literal["f32", "bf16"]
IndexType = Literal["FLAT", "IVF_FLAT", "HNSW", "AUTOINDEX"]


class Settings(BaseSettings):
    """The server's settings."""

    model_config = SettingsConfigDict(
        env_prefix="CLIPSEEK_",
        extra="forbid",
        cli_kebab_case=True,
        cli_prog_name="clipseek-server",
        frozen=True,
        allow_inf_nan=False,
    )

    # Where it listens and where things are.
    listen: str = Field(
        "127.0.0.1:50051",
        description="Address to listen on, HOST:PORT or unix:PATH. Loopback unless told otherwise: without tokens everybody who reaches it may do everything.",
    )
    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the server's certificate and those between it and its authority; read again when it changes. Without it nothing is encrypted.",
    )
    tls_key: Path | None = Field(None, description="PEM file with the private key of that certificate.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with the authorities of clients' certificates; if given, every client must show one.",
    )
    tokens: Annotated[list[SecretStr], NoDecode] = Field(
        [],
        description="Tokens that callers must send one of, separated by commas; none means that everybody may call. Better in the environment than on the command line.",
    )
    read_tokens: Annotated[list[SecretStr], NoDecode] = Field(
        [], description="Tokens that allow only what changes nothing, such as searches."
    )
    health_listen: str = Field(
        "",
        description="Second address, HOST:PORT, that serves grpc.health.v1 alone and never encrypted: for probes that speak no TLS; empty means none.",
    )
    max_connection_age: float = Field(
        0.0,
        ge=0,
        description="Seconds after which a client is asked to connect again, so that its calls reach servers that were added; calls in progress go on. 0 means never.",
    )
    metrics_listen: str = Field(
        "",
        description="Address for Prometheus, HOST:PORT, e.g. 127.0.0.1:9464; empty means none. It has no authentication.",
    )
    data_dir: Path = Field(
        Path("data"),
        description="Folder for Milvus Lite's files and the pictures' bytes; not used with a Milvus server and an object store.",
    )
    bundles: Annotated[list[Path], NoDecode] = Field(
        [Path("bundles/default")], description="Model bundles to load, separated by commas; the first is the default."
    )
    auto_create: bool = Field(True, description="Whether an insert makes the collection it names.")

    # Where pictures are.
    image_store: str = Field(
        "",
        description="Bucket for the pictures' bytes, s3://BUCKET or s3://BUCKET/PREFIX; empty means the folder images in the data folder. Access keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the machine's role.",
    )
    s3_endpoint: str = Field(
        "",
        description="Address of an object store other than Amazon's, https://HOST:PORT or, not encrypted, http://HOST:PORT.",
    )
    s3_region: str = Field("", description="Region of the bucket; empty means AWS_REGION, or us-east-1.")
    s3_tls_ca: Path | None = Field(
        None, description="PEM file of an authority to trust beside the usual ones; with an https endpoint."
    )
    s3_timeout: float = Field(
        10.0,
        gt=0,
        description="Seconds that one call to the object store may take, tries included, before it counts as away.",
    )

    # Models.
    providers: Annotated[list[str], NoDecode] = Field(
        ["CPUExecutionProvider"],
        description="ONNX Runtime providers in order of preference, separated by commas. One that is asked for and not got is an error, unless a later one is got.",
    )
    openvino_precision: OpenVinoPrecision = Field(
        "f32",
        description="What OpenVINOExecutionProvider computes in: f32, or bf16, which is twice as fast on processors that have it.",
    )
    threads: int = Field(
        0,
        ge=0,
        description="Threads of each ONNX Runtime session and of the decode pool; 0 means one for each core that the process may use, limits of containers included.",
    )
    batch_seconds: float = Field(
        0.2,
        gt=0,
        description="Seconds that one run may take, at the pace that the runs themselves show: a search may have to wait for one. A single picture or text may take longer.",
    )
    batch_delay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Seconds that a free tower waits for more to come. For GPUs; on a CPU what waits meanwhile is enough.",
    )
    vision_batch: int = Field(
        32,
        ge=1,
        le=256,
        description="Most pictures in one run, however short it is. A CPU embeds no faster past 16; a GPU may.",
    )
    text_batch: int = Field(
        64,
        ge=1,
        le=256,
        description="Most texts in one run, however short it is: twice as many as pictures, since a sentence takes less than half as long.",
    )
    text_cache: int = Field(
        10_000,
        ge=0,
        description="Texts of each model whose embeddings are kept (2 KB each at 512 dimensions); 0 keeps none.",
    )
    queue_length: int = Field(
        256,
        ge=1,
        description="Items that may wait for each tower. More than a client would wait for is better refused at once.",
    )

    # Milvus.
    milvus_uri: str = Field(
        "", description="URI of a Milvus server, e.g. http://milvus:19530; empty means Milvus Lite in the data folder."
    )
    milvus_user: str = Field("", description="User of the Milvus server.")
    milvus_password: SecretStr = Field(SecretStr(""), description="Password of that user.")
    milvus_token: SecretStr = Field(SecretStr(""), description="API key, instead of user and password.")
    milvus_database: str = Field("", description="Database on the Milvus server; empty means its default.")
    milvus_tls_ca: Path | None = Field(None, description="PEM file of the authority to trust; with an https URI.")
    milvus_timeout: float = Field(
        10.0, gt=0, description="Seconds that one call to Milvus may take before it counts as away."
    )
    index_type: IndexType = Field(
        "IVF_FLAT",
        description="Index of new collections on a Milvus server. On Milvus Lite vectors are searched in memory.",
    )
    ivf_nlist: int = Field(1024, ge=1, le=65536, description="IVF_FLAT: clusters.")
    ivf_nprobe: int = Field(
        256,
        ge=1,
        le=65536,
        description="IVF_FLAT: clusters that a search looks into; at most nlist. With a filter it looks into all.",
    )
    hnsw_m: int = Field(32, ge=2, le=2048, description="HNSW: links of each node.")
    hnsw_ef_construction: int = Field(300, ge=8, le=1_000_000, description="HNSW: candidates while building.")
    hnsw_ef: int = Field(
        1024, ge=1, le=32768, description="HNSW: candidates while searching; raised to the hits asked for."
    )
    consistency: Literal["bounded", "strong"] = Field(
        "bounded",
        description="What searches, listings and counts do on a Milvus server unless a request says otherwise. Milvus Lite is always strong.",
    )
    resident_max_rows: int = Field(
        300_000,
        ge=0,
        description="With Milvus Lite: each collection up to this size is kept in memory for searching (about 4 KB a picture at 512 dimensions, with little metadata); larger ones are searched by Milvus Lite, slowly.",
    )

    # Limits.
    max_message_bytes: int = Field(
        32 * MIB,
        ge=1 * MIB,
        le=1024 * MIB,
        description="Largest message to read. Cameras make pictures of up to about 25 MB.",
    )
    max_image_bytes: int = Field(
        30 * MIB,
        ge=1024,
        description="Largest picture; less than the largest message by 1 KB and the largest metadata, which come in the same message.",
    )
    max_image_pixels: int = Field(
        100_000_000,
        ge=1,
        description="Largest picture in pixels: 100 million take 0.4 to 1.6 GB while decoded, depending on the format, in each decode thread.",
    )
    max_small_message_bytes: int = Field(
        4 * MIB, ge=1 * MIB, description="Largest message of a method that takes no pictures: 128 long texts fit in it."
    )
    max_bytes_in_flight: int = Field(
        512 * MIB,
        ge=32 * MIB,
        description="Bytes of messages with pictures that are being read or worked on; more waits, then is refused. Bulk streams get at most half of it, messages without pictures a quarter of it beside that. The process may take three to four times as much.",
    )
    message_timeout: float = Field(
        60.0, gt=0, description="Seconds that a client may take to send the one message of a call."
    )
    bulk_idle_timeout: float = Field(
        600.0, gt=0, description="Seconds that a BulkInsert stream may rest between two messages."
    )
    max_bulk_streams: int = Field(
        8,
        ge=1,
        description="BulkInsert streams at a time; each may hold the bytes of one largest message while it rests.",
    )
    bulk_window: int = Field(
        64,
        ge=1,
        description="Items of one BulkInsert stream in work or with unread results; then the server stops reading. 64 are two of the largest runs: one is decoded while the other runs.",
    )
    max_top_k: int = Field(
        1000, ge=1, le=10_000, description="Largest top_k; 1,000 records stay below the 4 MB that gRPC's clients take."
    )
    max_top_k_with_mask: int = Field(
        75,
        ge=1,
        description="Largest top_k, page or batch with thumbnails or embeddings in it. They add up to 32 KB and 16 KB to a record: 75 are sure to stay below 4 MB.",
    )
    max_offset_plus_top_k: int = Field(
        10_000, ge=1, le=16_000, description="Largest offset + top_k; Milvus itself ends at 16,384."
    )
    max_search_terms: int = Field(
        16,
        ge=1,
        le=256,
        description="Most terms of one Search. All of them go before bulk: 16 such searches fill the queue of a tower.",
    )
    max_batch_items: int = Field(
        128,
        ge=1,
        description="Most items of one EmbedText, EmbedImage or BulkInsert batch. 128 are two full runs of texts or four of pictures; the embeddings of up to 254 are sure to stay below 4 MB.",
    )
    max_batch_ids: int = Field(
        1000,
        ge=1,
        le=1000,
        description="Most ids of one BatchGetImages or BatchDeleteImages: what the index takes in one query, and the records stay below 4 MB.",
    )
    max_page_size: int = Field(
        1000, ge=1, le=1000, description="Largest page of ListImages; 1,000 records stay below 4 MB."
    )
    max_metadata_bytes: int = Field(
        2048,
        ge=16,
        le=32_768,
        description="Largest metadata of one image, as a message on the wire: with 2 KB each, 1,000 records stay below 4 MB.",
    )
    max_text_characters: int = Field(10_000, ge=1, description="Longest text; models read far less.")

    # Housekeeping.
    sweep_interval: float = Field(
        600.0, gt=0, description="Seconds between sweeps for bytes and generations that nothing names."
    )
    sweep_grace: float = Field(
        3600.0, gt=0, description="Seconds that they are left alone; must be longer than any request lives."
    )
    drain_timeout: float = Field(30.0, ge=0, description="Seconds that calls in progress get to finish after SIGTERM.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log lines to write."
    )
    log_format: Literal["json", "console"] = Field("json", description="json for machines, console for the eye.")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in ("bundles", "providers", "tokens", "read_tokens"):
            value = values.get(name)
            if isinstance(value, str):
                values[name] = [part.strip() for part in value.split(",") if part.strip()]
        return values

    @field_validator("listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not value.startswith("unix:") and not (host and port.isdecimal() and int(port) < 65_536):
            raise ValueError("give HOST:PORT, with a port below 65536, or unix:PATH")
        return value

    @field_validator("metrics_listen", "health_listen")
    @classmethod
    def _is_host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdecimal() and int(port) < 65_536):
            raise ValueError("give HOST:PORT, with a port below 65536")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.bundles:
            raise ValueError("bundles: name at least one")
        if self.max_image_bytes + self.max_metadata_bytes + _RECORD_BYTES > self.max_message_bytes:
            raise ValueError(
                "max_image_bytes must be less than max_message_bytes by 1 KB and max_metadata_bytes: a picture comes "
                "with its metadata"
            )
        self._check_answers()
        if self.max_small_message_bytes > self.max_message_bytes:
            raise ValueError("max_small_message_bytes must not exceed max_message_bytes")
        if self.max_message_bytes > self.max_bytes_in_flight // 4:
            raise ValueError("max_bytes_in_flight must be at least four times max_message_bytes")
        streams = self.max_bytes_in_flight // 2 // self.max_message_bytes
        if self.max_bulk_streams > streams:
            raise ValueError(
                f"max_bulk_streams={self.max_bulk_streams} may hold more than half of max_bytes_in_flight while they "
                f"rest: lower it to {streams}, or raise max_bytes_in_flight"
            )
        self._check_milvus()
        self._check_image_store()
        self._check_tls()
        if self.ivf_nprobe > self.ivf_nlist:
            raise ValueError("ivf_nprobe must not exceed ivf_nlist")
        return self

    def _check_answers(self) -> None:
        """See that no answer within the limits is longer than a client takes."""
        record = self.max_metadata_bytes + _RECORD_BYTES
        largest = [
            (
                max(self.max_top_k, self.max_page_size, self.max_batch_ids) * record,
                "max_top_k, max_page_size, max_batch_ids or max_metadata_bytes",
            ),
            (
                self.max_top_k_with_mask * (record + _THUMBNAIL_BYTES + _EMBEDDING_BYTES),
                "max_top_k_with_mask or max_metadata_bytes",
            ),
            (self.max_batch_items * _EMBEDDING_BYTES, "max_batch_items"),
            ((self.bulk_window + self.max_batch_items) * _ITEM_RESULT_BYTES, "bulk_window or max_batch_items"),
        ]
        for size, names in largest:
            if size > _MAX_RESPONSE_BYTES:
                raise ValueError(
                    f"lower {names}: an answer could take {size} bytes, more than the 4 MB that gRPC's clients take"
                )

    def _check_milvus(self) -> None:
        if not self.milvus_uri:
            names = "milvus_user", "milvus_password", "milvus_token", "milvus_database", "milvus_tls_ca"
            self._check_unset(names, "a Milvus server: set milvus_uri")
        elif not self.milvus_uri.startswith(_MILVUS_SCHEMES) or not urlsplit(self.milvus_uri).netloc:
            raise ValueError(
                "milvus_uri must name a Milvus server, e.g. http://milvus:19530, or be empty for Milvus Lite"
            )
        if self.milvus_tls_ca is not None and not self.milvus_uri.startswith("https://"):
            raise ValueError("milvus_tls_ca goes with an https:// milvus_uri")
        self._check_files("milvus_tls_ca")

    def _check_image_store(self) -> None:
        if not self.image_store:
            self._check_unset(("s3_endpoint", "s3_region", "s3_tls_ca"), "an object store: set image_store")
        elif not _BUCKET_URL.fullmatch(self.image_store):
            raise ValueError(
                "image_store must be s3://BUCKET or s3://BUCKET/PREFIX, of letters, digits, dots, hyphens and "
                "underscores, or empty for a folder"
            )
        if self.s3_endpoint and not _ENDPOINT.fullmatch(self.s3_endpoint):
            raise ValueError(
                "s3_endpoint must be https://HOST:PORT or http://HOST:PORT and nothing else; access keys go into the "
                "environment"
            )
        if self.s3_tls_ca is not None and self.s3_endpoint.startswith("http://"):
            raise ValueError("s3_tls_ca goes with an https:// s3_endpoint")
        self._check_files("s3_tls_ca")

    def _check_tls(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        self._check_files("tls_certificate", "tls_key", "tls_client_ca")

    def _check_unset(self, names: Sequence[str], purpose: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value.get_secret_value() if isinstance(value, SecretStr) else value:
                raise ValueError(f"{name} is for {purpose} too, or leave it out")

    def _check_files(self, *names: str) -> None:
        for name in names:
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name}: there is no file {path}")

    @property
    def is_open(self) -> bool:
        """Whether it listens beyond this machine and asks for neither a token nor a certificate."""
        host = self.listen.rpartition(":")[0].strip("[]")
        local = self.listen.startswith("unix:") or host in {"127.0.0.1", "localhost", "::1"}
        return not (local or self.tokens or self.read_tokens or self.tls_client_ca)

    @property
    def cores(self) -> int:
        """Threads for each of the pools."""
        return self.threads or available_cores()


def load_settings(arguments: Sequence[str], *, program: str) -> Settings:
    """The effective settings: ``arguments`` over the environment over the file that ``--config`` names.

    Exits with the list of all settings on ``--help``.

    Raises:
        ValidationError: A setting is unknown or out of range.
        StartupError: The file cannot be read.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=os.environ.get("CLIPSEEK_CONFIG"))
    known, rest = finder.parse_known_args(arguments)
    file = Path(known.config) if known.config else None
    if file is not None:
        _check_toml(file)

    class FromEverywhere(Settings):
        model_config = SettingsConfigDict(
            cli_parse_args=list(rest),
            cli_prog_name=program,
            cli_kebab_case=True,
            cli_implicit_flags=True,
            toml_file=file,
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    FromEverywhere.__doc__ = "Settings; each can also be an environment variable: --data-dir is CLIPSEEK_DATA_DIR."
    _warn_of_unknown_variables()
    return FromEverywhere()


def _warn_of_unknown_variables() -> None:
    """Say which ``CLIPSEEK_…`` variables are no settings: one that is misspelt would do nothing."""
    known = {f"CLIPSEEK_{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    for name in sorted(os.environ):
        # Kubernetes makes variables of this kind for a service called clipseek.
        from_kubernetes = "_PORT" in name or "_SERVICE_" in name
        if name.startswith("CLIPSEEK_") and name not in known and not from_kubernetes:
            sys.stderr.write(f"clipseek-server: {name} is no setting and does nothing\n")


def _check_toml(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            tomllib.load(stream)
    except OSError as error:
        raise StartupError(f"the settings file {file} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise StartupError(f"the settings file {file} is not TOML: {error}") from error


def _is_secret(value: object) -> bool:
    return isinstance(value, SecretStr) or (isinstance(value, list) and any(map(_is_secret, value)))


def settings_as_toml(settings: Settings) -> str:
    """The settings as a TOML file. What holds a secret is left out: read back, its mask would be the secret."""
    lines = []
    for name, field in Settings.model_fields.items():
        value = settings.model_dump(mode="json")[name]
        lines.append(f"# {field.description}")
        in_address = name == "milvus_uri" and "@" in value  # http://user:password@host
        if in_address or (_is_secret(getattr(settings, name)) and value):
            lines.append(f"# {name} is set and not shown")
            continue
        # JSON's strings, numbers, booleans and lists are TOML's too.
        lines.append(f"{name} = {json.dumps(value)}" if value is not None else f"# {name} = not set")
    return "\n".join(lines) + "\n"
