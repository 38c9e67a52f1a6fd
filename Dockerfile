# The server, without torch and without a model: mount a bundle (docs/models.md) at /bundles and a volume at /data.
#   docker build -t clipseek .                                      for the CPU
#   docker build -t clipseek:gpu --build-arg EXTRA=server-gpu .     with CUDA 13 and cuDNN; the host needs NVIDIA's driver
#   docker build -t clipseek:openvino --build-arg EXTRA=server-openvino .   for x86-64: docs/models.md says what it gains

# Newest patch release of 3.11 when this was written; all dependencies are locked for it.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRA=server
WORKDIR /src
RUN python -m venv /opt/clipseek
COPY requirements-${EXTRA}.lock ./
RUN /opt/clipseek/bin/pip install --no-cache-dir --require-hashes -r requirements-${EXTRA}.lock
# What builds the package is locked too, and stays behind in this stage.
COPY requirements.lock ./
RUN sed -n '/^setuptools==/,/[^\\]$/p' requirements.lock > setuptools.lock \
    && pip install --no-cache-dir --require-hashes -r setuptools.lock
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY server server
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
    && /opt/clipseek/bin/pip install --no-cache-dir --no-deps wheels/*.whl

FROM ${PYTHON_IMAGE}
# A new volume at /data takes over this folder's owner.
RUN install --directory --owner=10001 --group=10001 /data /bundles
COPY --from=build /opt/clipseek /opt/clipseek
ENV PATH=/opt/clipseek/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CLIPSEEK_LISTEN=0.0.0.0:50051 \
    CLIPSEEK_DATA_DIR=/data \
    CLIPSEEK_BUNDLES=/bundles/default
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 50051
# Asks grpc.health.v1 at CLIPSEEK_LISTEN: SERVING once the models are warm and Milvus answers. With a certificate it asks
# at CLIPSEEK_HEALTH_LISTEN, which must be set then.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["clipseek-server", "health"]
ENTRYPOINT ["clipseek-server"]
CMD ["serve"]
