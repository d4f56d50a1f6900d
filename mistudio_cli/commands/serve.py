"""`mistudio serve`: the REST interface."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mistudio_cli import session
from mistudio_cli.errors import Code
from mistudio_cli.rest.token_sources import TOKEN_VARIABLE, new_token, read_token
from mistudio_cli.settings import Settings
from mistudio_cli.terminal import output
from tasks.errors import UserError
from tasks.ledger.client import Ledger
from tasks.redis_client import redis_connection
from tasks.settings import current

app = typer.Typer()


@app.command(help="Run the REST API")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one")] = 8000,
    uds: Annotated[Path | None, typer.Option(help="Listen on this unix socket instead", metavar="PATH")] = None,
    token_env: Annotated[
        str, typer.Option(help="Environment variable with the bearer token", metavar="VARIABLE")
    ] = TOKEN_VARIABLE,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token, mode 0600", metavar="FILE")
    ] = None,
    make_token: Annotated[
        bool, typer.Option("--new-token", help="Make a token and print it once; with --token-file, write it there")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Accept this name in Host; may be repeated", metavar="NAME")
    ] = None,
    certfile: Annotated[Path | None, typer.Option(help="TLS certificate (PEM)", metavar="FILE")] = None,
    keyfile: Annotated[Path | None, typer.Option(help="TLS private key (PEM)", metavar="FILE")] = None,
    max_connections: Annotated[
        int | None, typer.Option(min=1, help="Maximum connections at once (default 512)", metavar="N")
    ] = None,
    published_locally: Annotated[
        bool,
        typer.Option(
            "--published-locally",
            help="Require no token for reads: the port is published on loopback only (containers)",
        ),
    ] = False,
) -> None:
    """Serve the REST interface (docs/rest.md) until Ctrl-C. Without a token it only reads."""
    token = new_token(token_file) if make_token else read_token(token_env, token_file)
    is_loopback = uds is not None or _is_loopback(host)
    if not (is_loopback or published_locally) and token is None:
        raise UserError(
            f"Listening on {host} opens the API to other hosts, so requests must carry a token.",
            f"Set {token_env} to a secret, or leave out --host",
        )
    _check_tls(certfile, keyfile)
    with _listening(host, port, uds) as listener:
        from mistudio_cli.rest import http_server
        from mistudio_cli.rest.access import AccessRules
        from mistudio_cli.rest.app import RestApp
        from mistudio_cli.rest.services import Services

        most = http_server.connection_limit(max_connections)
        settings = session.current_settings()
        rules = AccessRules(
            token,
            is_local=is_loopback or (published_locally and token is None),
            allowed_hosts=None if uds is not None else _names(host, listener, allow_host or ()),
            any_address=uds is None and _is_wildcard(host) and not published_locally,
        )
        application = RestApp(Services(_opener(settings), settings.places), rules)
        scheme = "https" if certfile else "http"
        where = f"unix socket {uds}" if uds is not None else f"{scheme}://{_shown(listener)}"
        signal.signal(signal.SIGTERM, _end)  # uvicorn raises the signal again when it has closed its connections
        if make_token and token_file is None:
            output.data(f"Token: {token}")
            if is_loopback and uds is None:
                output.data(f"Page: {where}/#token={token}")
        output.talk(f"Listening on {where} (Ctrl-C ends it)")
        server = http_server.server_of(application, most, certfile=_text(certfile), keyfile=_text(keyfile))
        server.run(sockets=[listener])


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _check_tls(certfile: Path | None, keyfile: Path | None) -> None:
    """UserError for a certificate that cannot be served."""
    if certfile is None and keyfile is None:
        return
    if certfile is None or keyfile is None:
        raise UserError("TLS needs both a certificate and its key.", "Give --certfile and --keyfile")
    import ssl

    for path in (certfile, keyfile):
        path.open("rb").close()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)
    except ssl.SSLError as error:
        raise UserError(
            f"{certfile} and {keyfile} are no certificate with its key: {error.reason}.", "Give both as PEM"
        ) from error


def _names(host: str, listener: socket.socket, more: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The names under which this server may be asked besides those of the loopback."""
    own = [socket.gethostname()] if _is_wildcard(host) else [host, listener.getsockname()[0]]
    return tuple(name.lower().strip("[]") for name in (*own, *more))


def _is_wildcard(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")  # noqa: S104 - what it is compared with


def _end(signum: int, frame: object) -> None:
    raise SystemExit(int(Code.OK))


def _opener(settings: Settings) -> Callable[[], Ledger]:
    address = session.connect_ledger(settings, supervise=True, must_answer=False).client.address
    return lambda: Ledger(redis_connection.Client(address, current("read_patience")))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _listening(host: str, port: int, uds: Path | None) -> Iterator[socket.socket]:
    """The socket to serve on; the file of a unix socket is gone afterwards."""
    with _listen_on_path(uds) if uds is not None else _listen(host, port) as listener:
        try:
            yield listener
        finally:
            if uds is not None:
                uds.unlink(missing_ok=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        why = os.strerror(number) if number > 0 else error
        raise UserError(f"{host}:{port} cannot be listened on: {why}.", "Give another --port") from error


def _listen_on_path(path: Path) -> socket.socket:
    """A unix socket that only its owner can use."""
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        if path.is_socket() and listener.connect_ex(str(path)) != 0:
            path.unlink()  # left by a server that was killed
            listener.close()
            listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"{path} cannot be listened on: {error.strerror or error}.", "Give another --uds") from error
    finally:
        os.umask(mask)
    return listener


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
