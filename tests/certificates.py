"""A throwaway certificate authority, and what it signed, made by the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Authority:
    """The authority in a folder. Each certificate is `NAME.pem` with its key in `NAME.key`."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.pem"

    def sign(self, name: str, alternative: str) -> None:
        """Make a certificate for these names, such as "IP:127.0.0.1,DNS:localhost"."""
        request, extension = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extension.write_text(f"subjectAltName={alternative}\n")
        _openssl("req", *_NEW_KEY, "-keyout", self.folder / f"{name}.key", "-out", request, "-subj", f"/CN={name}")
        signing = ("-CA", self.certificate, "-CAkey", self.folder / "ca.key", "-CAcreateserial", "-days", "2")
        _openssl("x509", "-req", "-in", request, *signing, "-extfile", extension, "-out", self.folder / f"{name}.pem")

    def server(self, name: str, *, wants_client: bool = False) -> ssl.SSLContext:
        """What a server with that certificate speaks; it may want one of the same authority from its clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.certificate)
        return context


def new_authority(folder: Path) -> Authority:
    """One that signed a server of this machine, one of another name, and a client."""
    made = Authority(folder)
    subject = ("-subj", "/CN=throwaway", "-days", "2", "-addext", "keyUsage=critical,keyCertSign")
    _openssl("req", "-x509", *_NEW_KEY, "-keyout", folder / "ca.key", "-out", made.certificate, *subject)
    made.sign("server", "IP:127.0.0.1,DNS:localhost")
    made.sign("elsewhere", "DNS:elsewhere.example.org")
    made.sign("client", "DNS:client")
    _openssl("ec", "-in", folder / "client.key", "-aes256", "-passout", "pass:hush", "-out", folder / "locked.key")
    return made


def _openssl(*words: object) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
