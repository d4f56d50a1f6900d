"""`mistudio serve`: the REST interface."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mistudio_cli import api, session
from mistudio_cli.errors import Code
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
    ] = api.TOKEN_VARIABLE,
    published_locally: Annotated[
        bool,
        typer.Option(
            "--published-locally",
            help="Require no token: the port is published on loopback only (containers)",
        ),
    ] = False,
) -> None:
    """Serve /api/v1/hosts and /api/v1/workers/{queues,active,stats,health} until Ctrl-C."""
    import uvicorn

    token = os.environ.get(token_env) or None
    local = uds is not None or published_locally or _is_loopback(host)
    if not local and token is None:
        raise UserError(
            f"Listening on {host} opens the API to other hosts, so requests must carry a token.",
            f"Set {token_env} to a secret, or leave out --host",
        )
    names = api.LOCAL_NAMES if uds is None and local and token is None else ("*",)
    application = api.make_app(_opener(session.current_settings()), token, names)
    with _listen_on_path(uds) if uds is not None else _listen(host, port) as listener:
        where = f"unix socket {uds}" if uds is not None else f"http://{_shown(listener)}"
        signal.signal(signal.SIGTERM, _end)  # uvicorn raises the signal again when it has closed its connections
        output.talk(f"Listening on {where}{api.PREFIX}/health (Ctrl-C ends it)")
        config = uvicorn.Config(application, log_level="warning", access_log=False, lifespan="off")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            if uds is not None:
                uds.unlink(missing_ok=True)


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
