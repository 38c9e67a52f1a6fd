"""The part of the contract that the peers answer, so that one load generator drives them all."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from clipseek.v1 import embedding_service_pb2, image_pb2, info_service_pb2, search_service_pb2
from clipseek.v1.embedding_service_pb2_grpc import EmbeddingServiceServicer, add_EmbeddingServiceServicer_to_server
from clipseek.v1.info_service_pb2_grpc import InfoServiceServicer, add_InfoServiceServicer_to_server
from clipseek.v1.search_service_pb2_grpc import SearchServiceServicer, add_SearchServiceServicer_to_server

Vector = npt.NDArray[np.float32]
Found = Sequence[tuple[str, float]]

_LIMIT = 32 * 1024 * 1024


class Info(InfoServiceServicer):
    """Limits, which a client asks for before it sends batches."""

    def GetServerInfo(self, request: Any, context: Any) -> info_service_pb2.GetServerInfoResponse:  # noqa: N802
        """Only what the client reads."""
        limits = info_service_pb2.Limits(
            max_message_bytes=_LIMIT, max_image_bytes=_LIMIT, max_batch_items=128, max_small_message_bytes=_LIMIT
        )
        return info_service_pb2.GetServerInfoResponse(limits=limits)


class Embedding(EmbeddingServiceServicer):
    """Embeds each picture and each sentence by itself, when its request comes."""

    def __init__(self, picture: Callable[[bytes], Vector], text: Callable[[str], Vector]) -> None:
        self._picture = picture
        self._text = text

    def EmbedImage(self, request: Any, context: Any) -> embedding_service_pb2.EmbedImageResponse:  # noqa: N802
        """One after the other."""
        results = [
            embedding_service_pb2.EmbedImageResult(embedding=_message(self._picture(data))) for data in request.images
        ]
        return embedding_service_pb2.EmbedImageResponse(results=results)

    def EmbedText(self, request: Any, context: Any) -> embedding_service_pb2.EmbedTextResponse:  # noqa: N802
        """One after the other."""
        results = [
            embedding_service_pb2.EmbedTextResult(embedding=_message(self._text(text))) for text in request.texts
        ]
        return embedding_service_pb2.EmbedTextResponse(results=results)


class Search(SearchServiceServicer):
    """Searches by text."""

    def __init__(self, search: Callable[[str, str, int], Found]) -> None:
        self._search = search

    def SearchByText(self, request: Any, context: Any) -> search_service_pb2.SearchByTextResponse:  # noqa: N802
        """With ids and scores alone."""
        found = self._search(request.collection, request.text, request.options.top_k or 5)
        return search_service_pb2.SearchByTextResponse(
            hits=[image_pb2.Hit(image=image_pb2.Image(image_id=name), score=score) for name, score in found]
        )


def serve(address: str, threads: int, embedding: Embedding, search: Search | None = None) -> None:
    """Answer until the process is ended."""
    server = grpc.server(
        ThreadPoolExecutor(threads), options=[("grpc.max_receive_message_length", _LIMIT), ("grpc.so_reuseport", 0)]
    )
    add_EmbeddingServiceServicer_to_server(embedding, server)
    add_InfoServiceServicer_to_server(Info(), server)
    add_HealthServicer_to_server(HealthServicer(), server)
    if search is not None:
        add_SearchServiceServicer_to_server(search, server)
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


def _message(vector: Vector) -> image_pb2.Embedding:
    return image_pb2.Embedding(values=vector.tolist())
