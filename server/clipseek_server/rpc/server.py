"""The gRPC server: every service of the contract, health and reflection."""

import re
from collections.abc import Iterable

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from clipseek.v1 import (
    admin_service_pb2,
    collection_service_pb2,
    embedding_service_pb2,
    info_service_pb2,
    search_service_pb2,
)
from clipseek_server.rpc.edge import Edge, Method
from clipseek_server.rpc.health import Health

SERVICES: dict[str, ServiceDescriptor] = {
    descriptor.name: descriptor
    for module in (
        search_service_pb2,
        embedding_service_pb2,
        collection_service_pb2,
        admin_service_pb2,
        info_service_pb2,
    )
    for descriptor in module.DESCRIPTOR.services_by_name.values()
}
"""The services of the contract by their short names."""


def make_server(
    edge: Edge,
    servicers: Iterable[tuple[str, tuple[object, ...]]],
    *,
    max_message_bytes: int,
    max_connection_age: float = 0.0,
) -> tuple[grpc.aio.Server, Health]:
    """A server that serves the contract, not yet listening.

    Args:
        edge: Makes the handlers.
        servicers: For each service's short name the objects that hold its methods, in snake case.
        max_message_bytes: Largest message to receive; responses are bounded by the limits on results.
        max_connection_age: Seconds after which a client is asked to connect again; 0 means never. Calls go on.

    Returns:
        The server and its health service.
    """
    ages = [("grpc.max_connection_age_ms", round(max_connection_age * 1000))] if max_connection_age else []
    server = grpc.aio.server(
        options=[
            *ages,
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # Two servers on one port would share its connections unnoticed, and Milvus Lite admits one process.
            ("grpc.so_reuseport", 0),
            # Clients behind idle-killing proxies ping; gRPC's own limit is one ping in five minutes.
            ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    )
    names = [reflection.SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
    for name, objects in servicers:
        service = SERVICES[name]
        methods = {method.name: _find(objects, _snake_case(method.name)) for method in service.methods}
        with_pictures = frozenset().union(*(getattr(each, "with_pictures", frozenset()) for each in objects))
        server.add_generic_rpc_handlers((edge.handlers(service, methods, with_pictures=with_pictures),))
        names.append(service.full_name)
    reflection.enable_server_reflection(names, server)
    health = Health({name: service.full_name for name, service in SERVICES.items()})
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return server, health


def make_health_server(health: Health) -> grpc.aio.Server:
    """A server of nothing but that health service, for probes that speak no TLS."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return server


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _find(objects: tuple[object, ...], method: str) -> Method:
    for each in objects:
        if hasattr(each, method):
            found: Method = getattr(each, method)
            return found
    raise AttributeError(f"no servicer has {method}")
