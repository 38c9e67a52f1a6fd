"""clip-server: clip-as-service from PyPI, in a virtual environment of its own, and how to call it."""

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc

from clipseek.bench import Done, Operation
from clipseek.bench.sentences import sentence
from clipseek_server.cores import available_cores

VERSION = "0.8.3"

_PACKAGES = (
    f"clip-server=={VERSION}",
    "jina==3.34.0",
    # The newest that goes with its protobuf 3.
    "onnxruntime==1.26.0",
    # The newest that does without libraries of its own, which want those of CUDA.
    "torchvision==0.15.2",
    # The last with pkg_resources.
    "setuptools<81",
)
_TORCH = "torch==2.13.0"
_FIRST_ANSWER = 10.0
"""Seconds."""

_messages: Any
_services: Any
_messages, _services = grpc.protos_and_services("benchmarks/peers/clip_server.proto")


def install(folder: Path) -> Path:
    """Make the environment unless it is there; returns its Python.

    Raises:
        subprocess.CalledProcessError: It does not install here.
    """
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        # uv finds no CPU build of torch, and pip no end to the rest.
        subprocess.run([python, "-m", "pip", "install", "--quiet", _TORCH], check=True)
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--system-certs", "--python", str(python)]
        subprocess.run([*uv, "--override", "/dev/stdin", *_PACKAGES], input=_TORCH, text=True, check=True)
        done.touch()
    return python


def command(python: Path) -> list[str]:
    """How to start it."""
    return [str(python), "-m", "clip_server", str(Path(__file__).with_suffix(".yml"))]


def environment(towers: Path, address: str) -> dict[str, str]:
    """What it and its flow read.

    Args:
        towers: The folder with ``visual.onnx`` and ``textual.onnx``.
        address: ``HOST:PORT``.
    """
    return {
        "CLIP_SERVER_TOWERS": str(towers),
        "CLIP_SERVER_PORT": address.rpartition(":")[2],
        # Else it takes twice as many threads as there are cores, and has half the rate.
        "OMP_NUM_THREADS": str(available_cores()),
        "NO_VERSION_CHECK": "1",
        "JINA_OPTOUT_TELEMETRY": "1",
    }


def serves(address: str) -> bool:
    """Whether it embeds, for which more than its gateway must be there."""
    with grpc.insecure_channel(address) as channel:
        try:
            _embedding(_call(channel)(_request(text="a cat"), timeout=_FIRST_ANSWER))
        except (grpc.RpcError, ValueError):
            return False
        return True


@dataclass(frozen=True)
class ClipServerTarget:
    """It and what to send to it. Operations: ``embed_text``, ``embed_image``.

    Attributes:
        address: ``HOST:PORT``.
        pictures: Paths of JPEGs, in turn.
    """

    address: str
    pictures: tuple[str, ...] = ()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Mapping[str, Operation]]:
        """Connect, and read the pictures."""
        pictures = [_read(path) for path in self.pictures]
        async with grpc.aio.insecure_channel(self.address) as channel:
            call = _call(channel)

            async def embed_text(number: int) -> Done:
                _embedding(await call(_request(text=sentence(number))))
                return Done()

            async def embed_image(number: int) -> Done:
                _embedding(await call(_request(blob=pictures[number % len(pictures)])))
                return Done()

            yield {"embed_text": embed_text, "embed_image": embed_image}


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _call(channel: Any) -> Any:
    return _services.JinaSingleDataRequestRPCStub(channel).process_single_data


def _request(**content: str | bytes) -> Any:
    """One document, as its client sends it."""
    return _messages.DataRequestProto(
        header={"request_id": uuid4().hex, "exec_endpoint": "/encode"},
        # Pictures need not come back.
        parameters={"drop_image_content": True},
        data={"docs": {"docs": [{"id": uuid4().hex, **content}]}},
    )


def _embedding(response: Any) -> bytes:
    """Its float32.

    Raises:
        ValueError: It has none.
    """
    embeddings: list[bytes] = [document.embedding.dense.buffer for document in response.data.docs.docs]
    if len(embeddings) != 1 or not embeddings[0]:
        raise ValueError(f"an answer without an embedding: {response.header.status.description}")
    return embeddings[0]
