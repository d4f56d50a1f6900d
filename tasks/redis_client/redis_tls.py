"""The TLS options of a Redis URL, named as redis-py names them; certificates are verified by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl  # slow to import, and most connections are plain

    from tasks.errors import UserError

#: What `ssl_cert_reqs` may be, and what it means.
_CERT_REQS = {
    "required": "required",
    "cert_required": "required",
    "optional": "optional",
    "cert_optional": "optional",
    "none": "none",
    "cert_none": "none",
}
_MIN_VERSIONS = {"tlsv1.2": "TLSv1_2", "1.2": "TLSv1_2", "771": "TLSv1_2", "tlsv1.3": "TLSv1_3", "1.3": "TLSv1_3"}
_MIN_VERSIONS["772"] = "TLSv1_3"
_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_TEXTS = ("ca_certs", "ca_path", "ca_data", "certfile", "keyfile", "password", "ciphers")
TLS_OPTIONS = ("ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", *(f"ssl_{name}" for name in _TEXTS))


@dataclass(frozen=True)
class Tls:
    """How to verify the server and what to show it: paths of files, and words as redis-py takes them."""

    cert_reqs: str = "required"
    check_hostname: bool = True
    min_version: str | None = None
    ca_certs: str | None = None
    ca_path: str | None = None
    ca_data: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = None
    ciphers: str | None = None

    def context(self) -> ssl.SSLContext:
        """The context of a connection, made as redis-py makes its own. OSError with the file that is at fault."""
        import ssl

        context = ssl.create_default_context()
        context.check_hostname = self.check_hostname
        context.verify_mode = ssl.VerifyMode[f"CERT_{self.cert_reqs.upper()}"]
        if self.certfile or self.keyfile:
            _loading(
                self.certfile or self.keyfile,
                lambda: context.load_cert_chain(self.certfile or "", self.keyfile, self.password or ""),
            )
        if self.ca_certs or self.ca_path or self.ca_data:
            _loading(
                self.ca_certs or self.ca_path,
                lambda: context.load_verify_locations(self.ca_certs, self.ca_path, self.ca_data),
            )
        if self.min_version:
            context.minimum_version = ssl.TLSVersion[self.min_version]
        if self.ciphers:
            context.set_ciphers(self.ciphers)
        return context

    def for_redis_py(self) -> dict[str, Any]:
        """The same as keyword arguments of redis-py's SSLConnection."""
        import ssl

        given = {f"ssl_{name}": getattr(self, name) for name in _TEXTS if getattr(self, name) is not None}
        if self.certfile or self.keyfile:
            given.setdefault("ssl_password", "")  # without one, OpenSSL asks the terminal for it
        if self.min_version:
            given["ssl_min_version"] = ssl.TLSVersion[self.min_version]
        return {
            "ssl_cert_reqs": ssl.VerifyMode[f"CERT_{self.cert_reqs.upper()}"],
            "ssl_check_hostname": self.check_hostname,
            **given,
        }


def read_tls(options: dict[str, str], *, is_on: bool, fail: Callable[[str], UserError]) -> Tls | None:
    """The TLS options among those of a URL; None for a plain connection. Raises what `fail` makes of a sentence."""
    given = {name.removeprefix("ssl_"): value for name, value in options.items() if name.startswith("ssl_")}
    if given and not is_on:
        raise fail("has ssl_ options, but only rediss:// and sentinels:// are encrypted")
    if not is_on:
        return None
    cert_reqs = _word("cert_reqs", given, _CERT_REQS, "required", fail)
    check_hostname = _word("check_hostname", given, _YES_NO, cert_reqs != "none", fail)
    texts = {name: given[name] for name in _TEXTS if name in given}
    if "keyfile" in texts and "certfile" not in texts:
        raise fail("has ssl_keyfile without ssl_certfile")
    return Tls(
        cert_reqs=cert_reqs,
        check_hostname=check_hostname and cert_reqs != "none",
        min_version=_word("min_version", given, _MIN_VERSIONS, None, fail),
        **texts,
    )


def _word(
    name: str, given: dict[str, str], words: dict[str, Any], default: Any, fail: Callable[[str], UserError]
) -> Any:
    if name not in given:
        return default
    if (found := words.get(given[name].lower())) is None:
        raise fail(f"has an ssl_{name} that is none of {', '.join(words)}")
    return found


def _loading(file: str | None, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # without its file's name
        raise OSError(f"the TLS file {file or 'in ssl_ca_data'} cannot be used: {error}") from error
