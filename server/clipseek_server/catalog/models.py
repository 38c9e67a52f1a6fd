"""Which loaded model serves which collection."""

from collections.abc import Iterator, Sequence

from clipseek_server.catalog.interfaces import Model
from clipseek_server.errors import ModelNotFound, SpaceMismatch
from clipseek_server.index.records import CollectionInfo

MIN_AGREEMENT = 0.99
"""Lowest cosine to fp32 with which a model may serve a collection of its space."""


class Models:
    """The loaded models, the default one first."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = list(models)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    @property
    def default(self) -> Model:
        """The model of new collections."""
        return self._models[0]

    def named(self, name: str) -> Model:
        """A model by its name; empty means the default.

        Raises:
            ModelNotFound: It is not loaded.
        """
        if not name:
            return self.default
        for model in self._models:
            if model.manifest.name == name:
                return model
        loaded = ", ".join(model.manifest.name for model in self._models)
        raise ModelNotFound(f"model {name!r} is not loaded; this server has {loaded}", field="model", model=name)

    def serving(self, info: CollectionInfo) -> Model | None:
        """The model whose embeddings belong into a collection, preferably of its precision; ``None`` without one."""
        able = [
            model
            for model in self._models
            if model.manifest.space_id == info.space_id
            and (model.manifest.precision == info.precision or model.manifest.fp32_agreement >= MIN_AGREEMENT)
        ]
        own = [model for model in able if model.manifest.precision == info.precision]
        return next(iter(own or able), None)

    def for_rebuild(self, info: CollectionInfo, name: str) -> Model:
        """The model to rebuild a collection with: any of its space, by name; empty means the one that serves it.

        Raises:
            ModelNotFound: It is not loaded.
            SpaceMismatch: It is of another space, or no loaded model serves the collection.
        """
        if not name:
            return self.required(info)
        model = self.named(name)
        if model.manifest.space_id != info.space_id:
            raise SpaceMismatch(
                f"model {name!r} is of another space than collection {info.name!r}; rebuild with a model of its space, "
                "or insert the pictures into a new collection of that model",
                field="model",
                collection=info.name,
                collection_space_id=info.space_id,
                server_space_id=model.manifest.space_id,
            )
        return model

    def required(self, info: CollectionInfo) -> Model:
        """As ``serving``.

        Raises:
            SpaceMismatch: No loaded model may serve the collection.
        """
        model = self.serving(info)
        if model is None:
            raise SpaceMismatch(
                self._why_not(info),
                collection=info.name,
                collection_space_id=info.space_id,
                server_space_id=",".join(dict.fromkeys(model.manifest.space_id for model in self._models)),
            )
        return model

    def _why_not(self, info: CollectionInfo) -> str:
        for manifest in (model.manifest for model in self._models):
            if manifest.space_id == info.space_id:
                precisions = " or ".join(dict.fromkeys((info.precision, "fp32")))
                return (
                    f"collection {info.name!r} is at {info.precision}, and model {manifest.name!r} agrees with fp32 "
                    f"only to {manifest.fp32_agreement:.3f} ({MIN_AGREEMENT} is needed); load it at {precisions}"
                )
        return (
            f"collection {info.name!r} belongs to another model than this server has loaded; "
            "start the server with that model's bundle, or insert into another collection"
        )
