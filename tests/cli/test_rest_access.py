"""Who may: tokens, names in Host, origins, TLS, and that no token is printed."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from mistudio_cli.errors import Code
from mistudio_cli.rest.access import AccessRules, bears, host_of
from mistudio_cli.rest.problem import Problem
from mistudio_cli.rest.routes import API
from tests.cli.conftest import Cli
from tests.cli.test_rest_routes import BEARER, TOKEN, server_of
from tests.conftest import PATIENCE_S


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:8000", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:80", "::1"),
        ("::1", "::1"),
        ("evil.example:8000", "evil.example"),
        ("localhost:8000:1", "localhost:8000:1"),
        ("", ""),
        ("localhost.evil.example", "localhost.evil.example"),
    ],
)
def test_the_name_in_host_is_what_stands_before_the_port(header: str, name: str) -> None:
    assert host_of(header) == name


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", f"Token {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"])
def test_what_is_not_the_token_is_not_taken_for_it(header: str) -> None:
    assert not bears(header, TOKEN)
    assert bears(f"bearer  {TOKEN} ", TOKEN)


def test_without_a_token_a_server_only_reads(cli: Cli) -> None:
    with server_of(cli, token="") as client:
        assert client.get(f"{API}/jobs").status_code == 200
        answer = client.post(f"{API}/queues/training/pause", json={}, headers=BEARER)
        assert (answer.status_code, "--new-token" in answer.json()["detail"]) == (403, True)


def test_another_site_s_name_for_this_machine_is_refused(cli: Cli) -> None:
    with server_of(cli) as client:
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"):
            answer = client.get(f"{API}/jobs", headers={"Host": host, **BEARER})
            assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    with server_of(cli, "--allow-host", "lab.example") as client:
        assert client.get(f"{API}/jobs", headers={"Host": "lab.example"}).status_code == 401
        assert client.get(f"{API}/jobs", headers={"Host": "lab.example:80", **BEARER}).status_code == 200


def test_a_request_through_a_proxy_counts_as_one_from_elsewhere(cli: Cli) -> None:
    with server_of(cli) as client:
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Proto", "X-Forwarded-Host"):
            assert client.get(f"{API}/jobs", headers={name: "10.0.0.1"}).status_code == 401
        assert client.get(f"{API}/jobs").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_a_page_of_another_site_changes_nothing(cli: Cli, headers: dict[str, str], status: int) -> None:
    with server_of(cli) as client:
        answer = client.post(f"{API}/queues/training/pause", content="{}", headers={**BEARER, **headers})
        assert answer.status_code == status
        own = str(client.base_url).rstrip("/")
        for origin in (own, own.replace("http:", "https:")):  # the latter where a proxy has ended TLS
            asked = {**BEARER, "Origin": origin}
            assert client.post(f"{API}/queues/training/resume", content="{}", headers=asked).status_code == 200


def test_beyond_the_loopback_every_path_needs_the_token(cli: Cli) -> None:
    with server_of(cli, "--host", "0.0.0.0") as client:
        base = f"http://127.0.0.1:{client.base_url.port}"
        for path in (f"{API}/jobs", f"{API}/livez", "/openapi.json", "/nothing", "/metrics"):
            assert httpx.get(base + path, trust_env=False, timeout=PATIENCE_S).status_code == 401
        assert httpx.get(base + f"{API}/jobs", headers=BEARER, trust_env=False, timeout=PATIENCE_S).status_code == 200


def test_a_token_file_is_its_owner_s_alone(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    result = cli("serve", "--port", "0", "--token-file", str(file))
    assert (result.code, "can be read by others (mode 0644)" in result.err, "chmod 600" in result.err) == (
        Code.USAGE,
        True,
        True,
    )
    assert TOKEN not in result.err
    file.chmod(0o600)
    with server_of(cli, "--token-file", str(file), token="other") as client:
        assert client.post(f"{API}/queues/training/pause", json={}, headers=BEARER).status_code == 200
    file.write_text("two words\n")
    assert cli("serve", "--port", "0", "--token-file", str(file)).code == Code.USAGE


def test_a_new_token_is_printed_once_or_written_to_its_file(cli: Cli, tmp_path: Path) -> None:
    server = cli.start("serve", "--port", "0", "--new-token")
    try:
        where = server.stderr.readline().split()[2]
        found = re.fullmatch(r"Token: (\S{40,})\n", server.stdout.readline())
        assert found
        assert server.stdout.readline() == f"Page: {where}/#token={found[1]}\n"
        headers = {"Authorization": f"Bearer {found[1]}"}
        done = httpx.post(
            f"{where}{API}/queues/training/pause", json={}, headers=headers, trust_env=False, timeout=PATIENCE_S
        )
        assert done.status_code == 200
    finally:
        server.terminate()
        out, err = server.communicate(timeout=PATIENCE_S)
    assert (out, err) == ("", "")
    file = tmp_path / "made"
    with server_of(cli, "--new-token", "--token-file", str(file)) as client:
        assert file.stat().st_mode & 0o777 == 0o600
        headers = {"Authorization": f"Bearer {file.read_text().strip()}"}
        assert client.post(f"{API}/queues/training/pause", json={}, headers=headers).status_code == 200
    assert cli("serve", "--new-token", "--token-file", str(file)).err.startswith(f"{file} is there already.")


def test_no_token_is_in_a_problem(cli: Cli) -> None:
    with server_of(cli) as client:
        for path in (f"{API}/jobs?token={TOKEN}", f"/{TOKEN}"):
            assert client.get(path).status_code in (400, 404)
        assert TOKEN not in client.get(f"{API}/nothing", headers={"Authorization": f"Bearer x{TOKEN}"}).text


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of this machine and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*words, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_connections_that_begin_no_tls_handshake_keep_nobody_out(cli: Cli, certificate: tuple[Path, Path]) -> None:
    cert, key = map(str, certificate)
    context = ssl.create_default_context(cafile=cert)
    with (
        server_of(cli, "--certfile", cert, "--keyfile", key, "--max-connections", "8") as client,
        ExitStack() as links,
    ):
        address, url = ("127.0.0.1", client.base_url.port), client.base_url.join(f"{API}/livez")
        with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE_S) as asked_before:
            assert asked_before.get(url).status_code == 200
            silent = [links.enter_context(socket.create_connection(address, PATIENCE_S)) for _ in range(100)]
            for _ in range(3):
                assert httpx.get(url, verify=context, trust_env=False, timeout=PATIENCE_S).status_code == 200
        with suppress(ConnectionError):  # the server may have ended it by now
            silent[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")
            while silent[-1].recv(4096):  # it gets no more than an alert
                pass


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_is_served_with_a_certificate(cli: Cli, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with server_of(cli, "--certfile", str(cert), "--keyfile", str(key)) as client:
        assert client.base_url.scheme == "https"
        context = ssl.create_default_context(cafile=str(cert))
        answer = httpx.get(client.base_url.join(f"{API}/livez"), verify=context, trust_env=False, timeout=PATIENCE_S)
        assert answer.status_code == 200
    result = cli("serve", "--port", "0", "--certfile", str(cert))
    assert (result.code, result.err.splitlines()[0]) == (Code.USAGE, "TLS needs both a certificate and its key.")
    result = cli("serve", "--port", "0", "--certfile", str(cert), "--keyfile", str(cert))
    assert (result.code, "are no certificate with its key" in result.err) == (Code.USAGE, True)


def test_an_address_is_no_name_that_another_site_could_take() -> None:
    rules = AccessRules(TOKEN, is_local=False, any_address=True)
    rules.check_host({"host": "192.168.1.7:8000"})
    with pytest.raises(Problem):
        rules.check_host({"host": "evil.example"})
