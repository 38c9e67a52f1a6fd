"""Certificates for servers under test."""

from pathlib import Path

import trustme


class Certificates:
    """A certificate for some names, its key and its authority, as files."""

    def __init__(self, folder: Path, authority: trustme.CA, *names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self.key, self.ca = folder / "certificate.pem", folder / "key.pem", folder / "ca.pem"
        issued = authority.issue_cert(*names)
        issued.private_key_pem.write_to_path(self.key)
        self.certificate.unlink(missing_ok=True)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.certificate, append=True)
        authority.cert_pem.write_to_path(self.ca)
