"""InfoService."""

from collections.abc import Sequence

from clipseek.v1 import info_service_pb2 as pb
from clipseek_server.catalog.interfaces import Index, Model
from clipseek_server.catalog.models import Models
from clipseek_server.config import Settings
from clipseek_server.index.filters.parser import MAX_CHARACTERS, MAX_COMPARISONS
from clipseek_server.index.filters.parser import MAX_DEPTH as MAX_FILTER_DEPTH
from clipseek_server.rpc.convert import duration
from clipseek_server.rpc.validation import MAX_METADATA_DEPTH
from clipseek_server.telemetry import Call


class InfoService:
    """Says what the server is and what it takes."""

    def __init__(
        self,
        version: str,
        models: Models,
        index: Index,
        settings: Settings,
        *,
        media_types: Sequence[str],
        max_image_side: int,
        max_call_seconds: float,
    ) -> None:
        self._version = version
        self._models = models
        self._index = index
        self._settings = settings
        self._media_types = media_types
        self._max_image_side = max_image_side
        self._max_call_seconds = max_call_seconds

    async def get_server_info(self, request: pb.GetServerInfoRequest, call: Call) -> pb.GetServerInfoResponse:
        """GetServerInfo."""
        settings = self._settings
        return pb.GetServerInfoResponse(
            version=self._version,
            models=map(_model, self._models),
            index=pb.IndexInfo(
                engine=self._index.engine,
                engine_version=self._index.engine_version,
                index_type=self._index.index_type,
                index_params=self._index.index_params,
                default_consistency=self._index.default_consistency,
            ),
            limits=pb.Limits(
                max_message_bytes=settings.max_message_bytes,
                max_image_bytes=settings.max_image_bytes,
                max_image_pixels=settings.max_image_pixels,
                max_top_k=settings.max_top_k,
                max_top_k_with_mask=settings.max_top_k_with_mask,
                max_offset_plus_top_k=settings.max_offset_plus_top_k,
                max_search_terms=settings.max_search_terms,
                max_batch_items=settings.max_batch_items,
                max_batch_ids=settings.max_batch_ids,
                max_page_size=settings.max_page_size,
                max_metadata_bytes=settings.max_metadata_bytes,
                max_text_characters=settings.max_text_characters,
                max_image_side=self._max_image_side,
                max_filter_characters=MAX_CHARACTERS,
                max_filter_comparisons=MAX_COMPARISONS,
                max_filter_depth=MAX_FILTER_DEPTH,
                max_metadata_depth=MAX_METADATA_DEPTH,
                max_small_message_bytes=settings.max_small_message_bytes,
                max_bulk_streams=settings.max_bulk_streams,
                message_timeout=duration(settings.message_timeout),
                bulk_idle_timeout=duration(settings.bulk_idle_timeout),
                max_call_duration=duration(self._max_call_seconds),
            ),
            media_types=self._media_types,
        )


def _model(model: Model) -> pb.Model:
    manifest = model.manifest
    return pb.Model(
        name=manifest.name,
        description=manifest.description,
        source=f"{manifest.source.id}@{manifest.source.revision}".rstrip("@"),
        space_id=manifest.space_id,
        dimension=manifest.dimension,
        precision=manifest.precision,
        context_length=manifest.text.context_length,
        logit_scale=manifest.logit_scale,
        vision_providers=model.vision_providers,
        text_providers=model.text_providers,
        fp32_agreement=manifest.fp32_agreement,
    )
