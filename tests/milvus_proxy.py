"""A gRPC proxy in front of a Milvus server whose calls the tests hold up or refuse."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import grpc

Before = Callable[[grpc.ServicerContext], None]


class MilvusProxy(grpc.GenericRpcHandler):
    """Passes unary calls on, with their metadata and without their deadlines.

    Attributes:
        address: ``host:port``.
        before: What to do before the next calls of a method, e.g. of ``Upsert``, are passed on; each is used up.
        under_way: Calls of methods that ``before`` named and that are not over.
    """

    def __init__(self, target: str) -> None:
        self.address = ""
        self.before: dict[str, list[Before]] = {}
        self.under_way = 0
        self._over = threading.Condition()
        self._channel = grpc.insecure_channel(target)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method
        call = self._channel.unary_unary(method)

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            wanted = self.before.get(method.rpartition("/")[2])
            with self._counted() if wanted is not None else nullcontext():
                if wanted:
                    wanted.pop(0)(context)
                try:
                    return call(request, metadata=context.invocation_metadata())
                except grpc.RpcError as error:
                    context.abort(error.code(), error.details())

        return grpc.unary_unary_rpc_method_handler(handle)

    def wait_until_over(self) -> None:
        """Return when nothing that was counted is under way."""
        with self._over:
            assert self._over.wait_for(lambda: self.under_way == 0, timeout=60)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._over:
            self.under_way += 1
        try:
            yield
        finally:
            with self._over:
                self.under_way -= 1
                self._over.notify_all()


@contextmanager
def proxied(target: str) -> Iterator[MilvusProxy]:
    """A proxy while the context lasts."""
    proxy = MilvusProxy(target)
    server = grpc.server(ThreadPoolExecutor(16), handlers=[proxy])
    proxy.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield proxy
    finally:
        server.stop(0).wait()
        proxy._channel.close()
