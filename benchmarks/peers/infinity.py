"""infinity-emb: a server for embeddings from PyPI, in a virtual environment of its own, and how to call it."""

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.programs import installed
from clipseek.bench import Done, Operation
from clipseek.bench.sentences import sentence

VERSION = "0.0.78"

_PACKAGES = (
    "torch==2.13.0",
    f"infinity-emb[torch,server,optimum,logging,cache]=={VERSION}",
    "pillow",
    "aiohttp",
)
_MODEL = "clip"


def install(folder: Path) -> Path:
    """Make the environment unless it is there; returns the program.

    Raises:
        subprocess.CalledProcessError: It does not install here.
    """
    return installed(folder / "bin" / "infinity_emb", _PACKAGES)


def command(program: Path, checkpoint: Path, address: str) -> list[str]:
    """How to start it."""
    host, _, port = address.rpartition(":")
    arguments = ["v2", "--model-id", str(checkpoint), "--served-model-name", _MODEL, "--host", host, "--port", port]
    return [str(program), *arguments, "--engine", "torch", "--device", "cpu", "--no-model-warmup"]


ENVIRONMENT = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


def serves(address: str) -> bool:
    """Whether it answers."""
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@dataclass(frozen=True)
class InfinityTarget:
    """It and what to send to it. Operations: ``embed_text``, ``embed_image``.

    Attributes:
        address: ``HOST:PORT``.
        pictures: Paths of JPEGs, in turn.
    """

    address: str
    pictures: tuple[str, ...] = ()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Mapping[str, Operation]]:
        """Prepare the requests: what they cost to write is no part of what is measured."""
        connections: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
        pictures = [_picture(Path(path)) for path in self.pictures]

        async def post(body: bytes) -> Done:
            connection = connections.get_nowait() if not connections.empty() else await _Connection.open(self.address)
            answer = await connection.post("/embeddings", body)
            connections.put_nowait(connection)
            if len(json.loads(answer)["data"]) != 1:
                raise ValueError("an answer without an embedding")
            return Done()

        async def embed_text(number: int) -> Done:
            return await post(_request("text", sentence(number)))

        async def embed_image(number: int) -> Done:
            return await post(pictures[number % len(pictures)])

        yield {"embed_text": embed_text, "embed_image": embed_image}


def _picture(path: Path) -> bytes:
    return _request("image", "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode())


def _request(modality: str, given: str) -> bytes:
    body: dict[str, Any] = {"model": _MODEL, "modality": modality, "input": [given], "encoding_format": "base64"}
    return json.dumps(body).encode()


class _Connection:
    """A kept-alive HTTP/1.1 connection, for answers with a length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: str) -> "_Connection":
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def post(self, path: str, body: bytes) -> bytes:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: peer\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        self._writer.write(head.encode() + b"\r\n" + body)
        await self._writer.drain()
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        lengths = [int(line.split(":")[1]) for line in headers if line.lower().startswith("content-length:")]
        answer = await self._reader.readexactly(lengths[0])
        if status.split()[1] != "200":
            raise ValueError(f"{status}: {answer[:200].decode(errors='replace')}")
        return answer
