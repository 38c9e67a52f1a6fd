"""The server's certificate, read anew when its files change: a renewed one is served without a restart."""

import ssl
from pathlib import Path

import grpc

from clipseek_server.errors import StartupError
from clipseek_server.telemetry import log


def credentials(certificate: Path, key: Path, client_ca: Path | None = None) -> grpc.ServerCredentials:
    """What a TLS port needs.

    Args:
        certificate: PEM file with the certificate and those between it and its authority.
        key: PEM file with its private key.
        client_ca: PEM file with the authorities of clients' certificates; if given, each client must show one.

    Raises:
        StartupError: A file cannot be read, or holds something else.
    """
    files = _Files(certificate, key, client_ca)
    try:
        first = files.read()
    except OSError as error:
        names = ", ".join(str(path) for path in (certificate, key, client_ca) if path)
        raise StartupError(f"certificate and key ({names}) cannot be used: {error}") from error
    return grpc.dynamic_ssl_server_credentials(
        first,
        files.read_if_changed,  # type: ignore[arg-type]  # None is taken too, but the stubs do not know it
        require_client_authentication=client_ca is not None,
    )


class _Files:
    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._seen = self._stamps()

    def read(self) -> grpc.ServerCertificateConfiguration:
        # gRPC would say no more than that it cannot listen.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key)
        if self._client_ca:
            context.load_verify_locations(self._client_ca)
        pair = self._key.read_bytes(), self._certificate.read_bytes()
        authorities = self._client_ca.read_bytes() if self._client_ca else None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

    def read_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC at each handshake; ``None`` means what it has."""
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return None
            read = self.read()
        except OSError as error:
            log.warning("the certificate cannot be read again; the old one stays", reason=str(error))
            return None
        self._seen = stamps
        log.info("certificate read again", file=str(self._certificate))
        return read

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = []
        for path in filter(None, (self._certificate, self._key, self._client_ca)):
            status = path.stat()  # of what a link leads to: in Kubernetes the link changes
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found
