"""A small gRPC server of clipseek's contract, for tests of the client: pictures in a dict, no model, no Milvus.

It checks what it is sent, notes it, and can be told to fail, to dawdle and to break off in the ways that a client must
bear. Searches answer with all pictures in the order of their ids.
"""

import hashlib
import threading
import time
import typing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from clipseek.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    collection_service_pb2,
    collection_service_pb2_grpc,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    errors_pb2,
    image_pb2,
    info_service_pb2,
    info_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)

# ruff: noqa: N802 -- the contract's names

CHUNK = 64 * 1024
MODEL = image_pb2.ModelRef(name="small", space_id="5" * 64, precision="fp32")
TIMING = image_pb2.Timing(decode=Duration(nanos=1_500_000), total=Duration(seconds=1, nanos=500_000_000))
LIMITS = info_service_pb2.Limits(
    max_message_bytes=2 * 1024 * 1024,
    max_image_bytes=1024 * 1024,
    max_image_pixels=10**6,
    max_top_k=100,
    max_top_k_with_mask=3,
    max_offset_plus_top_k=1000,
    max_search_terms=4,
    max_batch_items=5,
    max_batch_ids=4,
    max_page_size=10,
    max_metadata_bytes=2048,
    max_text_characters=100,
    max_image_side=1000,
    max_filter_characters=101,
    max_filter_comparisons=102,
    max_filter_depth=103,
    max_metadata_depth=104,
    max_small_message_bytes=1024 * 1024,
    max_bulk_streams=2,
    message_timeout=Duration(seconds=60),
    bulk_idle_timeout=Duration(seconds=600),
    max_call_duration=Duration(seconds=1, nanos=500_000_000),
)


@dataclass
class Failure:
    """An error to answer with."""

    code: StatusCode
    message: str = "told to fail"
    details: tuple[Message, ...] = ()

    def abort(self, context: grpc.ServicerContext) -> None:
        """End the call."""
        trailers: tuple[tuple[str, bytes], ...] = ()
        if self.details:
            status = status_pb2.Status(code=self.code.value[0], message=self.message)
            for detail in self.details:
                packed = Any()
                packed.Pack(detail)
                status.details.append(packed)
            trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        context.set_trailing_metadata(trailers)
        context.abort(self.code, self.message)


@dataclass
class SmallServer:
    """The server's state, and what it was asked.

    Attributes:
        calls: Name, request and request id of each call so far; streams are noted with their first message.
        tries_before: Of each of them, how often gRPC had tried it before.
        fail: By method, what the next calls answer; by "DownloadImage chunk", what they say after a chunk; by
            "BatchDeleteImages done", when all is done.
        images: What is stored, by id, with the bytes.
        held: Pictures that a stream does not store now, by their bytes, and how often it says so.
        held_for_long: Whether it asks to be left alone for five seconds then.
        short: Whether streams end, as if all were well, after their first batch.
        room: How many bulk streams it takes at a time; ``None`` for all.
        refused: Set when it has refused one for which there was no room.
        slow: Seconds that each call takes before anything is done.
        damage: What downloads do to the chunks that they send.
        gate: Calls named in ``gated`` wait for it.
        waiting: Set when one does.
        cancelled: Set when a stream's client goes away.
    """

    address: str = ""
    calls: list[tuple[str, Message, str]] = field(default_factory=list)
    tries_before: list[int] = field(default_factory=list)
    fail: dict[str, deque[Failure]] = field(default_factory=dict)
    images: dict[str, tuple[image_pb2.Image, bytes]] = field(default_factory=dict)
    held: dict[bytes, int] = field(default_factory=dict)
    held_for_long: bool = False
    short: bool = False
    room: int | None = None
    refused: threading.Event = field(default_factory=threading.Event)
    slow: float = 0.0
    damage: Callable[[list[bytes]], list[bytes]] = list
    gated: frozenset[str] = frozenset()
    gate: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """Be as new, at the same address."""
        vars(self).update(vars(SmallServer(self.address)))

    def asked(self, name: str) -> list[typing.Any]:
        """The requests of one method so far."""
        return [request for method, request, _ in self.calls if method == name]

    def failing(self, name: str, *failures: Failure) -> None:
        """Answer the next calls of a method with these errors."""
        self.fail[name] = deque(failures)

    def note(self, name: str, request: Message, context: grpc.ServicerContext) -> None:
        """Note a call, and let it wait or fail if it is to."""
        metadata = dict(context.invocation_metadata())
        self.calls.append((name, request, str(metadata.get("x-request-id", ""))))
        self.tries_before.append(int(metadata.get("grpc-previous-rpc-attempts", 0)))
        if name in self.gated:
            self.waiting.set()
            self.gate.wait(30)
        time.sleep(self.slow)
        self.fail_if_told(name, context)

    def fail_if_told(self, name: str, context: grpc.ServicerContext) -> None:
        """End a call if it is to fail."""
        if self.fail.get(name):
            self.fail[name].popleft().abort(context)

    def store(self, data: bytes, image_id: str, **fields: object) -> tuple[image_pb2.Image, bool]:
        """Store a picture; returns its record and whether the id was free."""
        digest = hashlib.sha256(data).hexdigest()
        image = image_pb2.Image(
            image_id=image_id or digest,
            content_sha256=digest,
            collection="default",
            width=8,
            height=6,
            media_type="image/png",
            size_bytes=len(data),
            **fields,
        )
        image.create_time.FromJsonString("2024-05-06T07:08:09.123456Z")
        image.update_time.FromJsonString("2024-05-06T07:08:10Z")
        created = image.image_id not in self.images
        self.images[image.image_id] = (image, data)
        return image, created


def masked(image: image_pb2.Image, paths: list[str]) -> image_pb2.Image:
    """A record with what a read_mask asks for."""
    result = image_pb2.Image()
    result.CopyFrom(image)
    if "thumbnail" in paths:
        result.thumbnail = b"\xff\xd8\xff\xe0 thumbnail"
    if "embedding" in paths:
        result.embedding.CopyFrom(image_pb2.Embedding(values=[0.6, 0.8], space_id=MODEL.space_id))
    return result


class Search(search_service_pb2_grpc.SearchServiceServicer):
    def __init__(self, state: SmallServer) -> None:
        self.state = state
        self.lock = threading.Lock()
        self.streams = 0

    def Insert(self, request, context):
        self.state.note("Insert", request, context)
        image, created = self.state.store(request.image_data, request.image_id, metadata=request.metadata)
        outcome = image_pb2.INSERT_OUTCOME_CREATED if created else image_pb2.INSERT_OUTCOME_UNCHANGED
        return search_service_pb2.InsertResponse(image=image, outcome=outcome, model=MODEL, timing=TIMING)

    def BulkInsert(self, request_iterator, context):
        context.add_callback(lambda: None if self.finished else self.state.cancelled.set())
        self.finished = False
        config = next(request_iterator).config
        self.state.note("BulkInsert", config, context)
        with self.lock:
            has_room = self.state.room is None or self.streams < self.state.room
            self.streams += has_room
        if not has_room:
            self.state.refused.set()
            Failure(StatusCode.RESOURCE_EXHAUSTED, "no room for one more stream").abort(context)
        try:
            yield from self._answers(request_iterator, context)
        finally:
            with self.lock:
                self.streams -= 1
        # A client that goes away may look like one that has sent all.
        self.finished = context.is_active()

    def _answers(self, request_iterator, context):
        held = []
        for request in request_iterator:
            assert request.HasField("batch")
            assert 1 <= len(request.batch.items) <= LIMITS.max_batch_items
            assert request.ByteSize() <= LIMITS.max_message_bytes
            self.state.note("BulkInsert.batch", request.batch, context)
            # Hold back one item of each batch that has more, so that results come out of order; never one that is
            # followed by another of its id.
            items = list(request.batch.items)
            kept = [item for item in items[:1] if {other.image_id for other in items[1:]} - {item.image_id}]
            held, answered = kept, [*items[len(kept) :], *held]
            if answered:
                yield self._results(answered)
            self.state.fail_if_told("BulkInsert answered", context)
            if self.state.short:
                break
        if held:
            yield self._results(held)

    def _results(self, items):
        response = search_service_pb2.BulkInsertResponse()
        for item in items:
            if item.image_data == b"broken":
                error = errors_pb2.ItemError(
                    code=StatusCode.INVALID_ARGUMENT.value[0],
                    reason=errors_pb2.ERROR_REASON_INVALID_IMAGE,
                    message="not a picture",
                )
                response.results.add(sequence=item.sequence, error=error)
            elif self.state.held.get(item.image_data):
                self.state.held[item.image_data] -= 1
                error = errors_pb2.ItemError(
                    code=StatusCode.UNAVAILABLE.value[0],
                    reason=errors_pb2.ERROR_REASON_COLLECTION_HELD,
                    message="writes are held",
                    retry_delay=Duration(seconds=5) if self.state.held_for_long else None,
                )
                response.results.add(sequence=item.sequence, error=error)
            else:
                image, _ = self.state.store(item.image_data, item.image_id, metadata=item.metadata)
                success = search_service_pb2.BulkInsertSuccess(
                    image_id=image.image_id, outcome=image_pb2.INSERT_OUTCOME_CREATED
                )
                response.results.add(sequence=item.sequence, success=success)
        return response

    def _hits(self, options):
        found = sorted(self.state.images.items())[options.offset :][: options.top_k]
        paths = list(options.read_mask.paths)
        return [
            image_pb2.Hit(image=masked(image, paths), score=1 - rank / 8) for rank, (_, (image, _)) in enumerate(found)
        ]

    def SearchByText(self, request, context):
        self.state.note("SearchByText", request, context)
        return search_service_pb2.SearchByTextResponse(
            hits=self._hits(request.options), text_truncated=len(request.text) > 77, model=MODEL, timing=TIMING
        )

    def SearchByImage(self, request, context):
        self.state.note("SearchByImage", request, context)
        return search_service_pb2.SearchByImageResponse(hits=self._hits(request.options), model=MODEL, timing=TIMING)

    def Search(self, request, context):
        self.state.note("Search", request, context)
        return search_service_pb2.SearchResponse(hits=self._hits(request.options), model=MODEL, timing=TIMING)

    def _image(self, image_id, context):
        if image_id not in self.state.images:
            info = error_details_pb2.ErrorInfo(reason="IMAGE_NOT_FOUND", domain="clipseek", metadata={"id": image_id})
            Failure(StatusCode.NOT_FOUND, f"no picture {image_id}", (info,)).abort(context)
        return self.state.images[image_id]

    def GetImage(self, request, context):
        self.state.note("GetImage", request, context)
        image, _ = self._image(request.image_id, context)
        return search_service_pb2.GetImageResponse(image=masked(image, list(request.read_mask.paths)))

    def BatchGetImages(self, request, context):
        self.state.note("BatchGetImages", request, context)
        if any(" " in image_id for image_id in request.image_ids):
            context.abort(StatusCode.INVALID_ARGUMENT, "no id has spaces")
        response = search_service_pb2.BatchGetImagesResponse()
        for image_id in request.image_ids:
            if image_id in self.state.images:
                response.images.append(masked(self.state.images[image_id][0], list(request.read_mask.paths)))
            else:
                response.missing_image_ids.append(image_id)
        return response

    def UpdateImage(self, request, context):
        self.state.note("UpdateImage", request, context)
        image, _ = self._image(request.image_id, context)
        if not request.update_mask.paths:
            image.metadata.CopyFrom(request.metadata)
        for path in request.update_mask.paths:
            key = path.removeprefix("metadata.")
            image.metadata.fields.pop(key, None)
            if key in request.metadata.fields:
                image.metadata.fields[key].CopyFrom(request.metadata.fields[key])
        return search_service_pb2.UpdateImageResponse(image=image)

    def BatchDeleteImages(self, request, context):
        self.state.note("BatchDeleteImages", request, context)
        assert 1 <= len(request.image_ids) <= LIMITS.max_batch_ids
        missing = [image_id for image_id in request.image_ids if self.state.images.pop(image_id, None) is None]
        self.state.fail_if_told("BatchDeleteImages done", context)
        return search_service_pb2.BatchDeleteImagesResponse(
            deleted_count=len(request.image_ids) - len(missing), missing_image_ids=missing
        )

    def ListImages(self, request, context):
        """Pages of two, each second one of them empty."""
        self.state.note("ListImages", request, context)
        ids = sorted(self.state.images)
        start, empty = (int(part) for part in (request.page_token or "0/0").split("/"))
        if empty:
            return search_service_pb2.ListImagesResponse(next_page_token=f"{start}/0")
        paths = list(request.read_mask.paths)
        page = [masked(self.state.images[image_id][0], paths) for image_id in ids[start : start + 2]]
        token = f"{start + 2}/1" if start + 2 < len(ids) else ""
        return search_service_pb2.ListImagesResponse(images=page, next_page_token=token)

    def DownloadImage(self, request, context) -> Iterator[search_service_pb2.DownloadImageResponse]:
        self.state.note("DownloadImage", request, context)
        image, data = self._image(request.image_id, context)
        yield search_service_pb2.DownloadImageResponse(header=search_service_pb2.DownloadImageHeader(image=image))
        for chunk in self.state.damage([data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]):
            yield search_service_pb2.DownloadImageResponse(chunk=chunk)
            self.state.fail_if_told("DownloadImage chunk", context)


class Embedding(embedding_service_pb2_grpc.EmbeddingServiceServicer):
    def __init__(self, state: SmallServer) -> None:
        self.state = state

    def EmbedText(self, request, context):
        self.state.note("EmbedText", request, context)
        assert 1 <= len(request.texts) <= LIMITS.max_batch_items
        response = embedding_service_pb2.EmbedTextResponse(model=MODEL, timing=TIMING)
        for text in request.texts:
            if text.strip():
                vector = image_pb2.Embedding(values=[float(len(text)), 0.0], space_id=MODEL.space_id)
                response.results.add(embedding=vector, text_truncated=len(text) > 77)
            else:
                response.results.add(error=errors_pb2.ItemError(code=3, reason=1, message="blank"))
        return response

    def EmbedImage(self, request, context):
        self.state.note("EmbedImage", request, context)
        assert 1 <= len(request.images) <= LIMITS.max_batch_items
        response = embedding_service_pb2.EmbedImageResponse(model=MODEL, timing=TIMING)
        for data in request.images:
            response.results.add(embedding=image_pb2.Embedding(values=[float(len(data))], space_id=MODEL.space_id))
        return response


class Collections(collection_service_pb2_grpc.CollectionServiceServicer):
    def __init__(self, state: SmallServer) -> None:
        self.state = state

    def _collection(self, name: str) -> collection_service_pb2.Collection:
        collection = collection_service_pb2.Collection(
            name=name or "default",
            uid="u1",
            model=MODEL,
            dimension=2,
            image_count=len(self.state.images),
            index="resident exact",
            efforts=[image_pb2.EFFORT_FAST, image_pb2.EFFORT_EXACT],
        )
        collection.create_time.FromJsonString("2024-05-06T07:08:09Z")
        collection.generations.add(name="CS_default_1", live=True)
        rebuild = admin_service_pb2.RebuildProgress(rebuild_id="r1", phase=admin_service_pb2.REBUILD_PHASE_EMBEDDING)
        collection.generations.add(name="CS_default_2", rebuild=rebuild)
        return collection

    def CreateCollection(self, request, context):
        self.state.note("CreateCollection", request, context)
        return collection_service_pb2.CreateCollectionResponse(collection=self._collection(request.collection))

    def GetCollection(self, request, context):
        self.state.note("GetCollection", request, context)
        return collection_service_pb2.GetCollectionResponse(collection=self._collection(request.collection))

    def ListCollections(self, request, context):
        self.state.note("ListCollections", request, context)
        name, token = ("b", "") if request.page_token else ("a", "more")
        return collection_service_pb2.ListCollectionsResponse(
            collections=[self._collection(name)], next_page_token=token
        )

    def DeleteCollection(self, request, context):
        self.state.note("DeleteCollection", request, context)
        return collection_service_pb2.DeleteCollectionResponse(deleted_count=len(self.state.images))


class Admin(admin_service_pb2_grpc.AdminServiceServicer):
    def __init__(self, state: SmallServer) -> None:
        self.state = state

    def RebuildCollection(self, request, context):
        self.state.note("RebuildCollection", request, context)
        for phase in (admin_service_pb2.REBUILD_PHASE_EMBEDDING, admin_service_pb2.REBUILD_PHASE_DONE, 99):
            progress = admin_service_pb2.RebuildProgress(rebuild_id="r1", phase=phase, images_done=1, images_total=2)
            yield admin_service_pb2.RebuildCollectionResponse(progress=progress)

    def CheckCollection(self, request, context):
        self.state.note("CheckCollection", request, context)
        difference = admin_service_pb2.Difference(
            kind=admin_service_pb2.DIFFERENCE_KIND_MISSING_BYTES, image_id="x", message="gone"
        )
        yield admin_service_pb2.CheckCollectionResponse(differences=[difference], images_checked=1, images_total=2)
        yield admin_service_pb2.CheckCollectionResponse(images_checked=2, images_total=2)


class Info(info_service_pb2_grpc.InfoServiceServicer):
    def __init__(self, state: SmallServer) -> None:
        self.state = state

    def GetServerInfo(self, request, context):
        self.state.note("GetServerInfo", request, context)
        model = info_service_pb2.Model(
            name="small", description="no model at all", dimension=2, precision="fp32", vision_providers=["CPU"]
        )
        index = info_service_pb2.IndexInfo(engine="dict", index_type="HNSW", index_params={"M": "16"})
        return info_service_pb2.GetServerInfoResponse(
            version="0.0.1", models=[model], index=index, limits=LIMITS, media_types=["image/png"]
        )


def start(state: SmallServer, port: int = 0) -> grpc.Server:
    """Serve on the loopback, on a free port unless one is given; ``state.address`` says where."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 2 * 1024 * 1024)])
    search_service_pb2_grpc.add_SearchServiceServicer_to_server(Search(state), server)
    embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(Embedding(state), server)
    collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(Collections(state), server)
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(Admin(state), server)
    info_service_pb2_grpc.add_InfoServiceServicer_to_server(Info(state), server)
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    checks.set("clipseek.v1.SearchService", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    state.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    return server
