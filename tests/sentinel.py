"""A real master with two replicas and three Sentinels, on free ports of this machine."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tasks.redis_client import redis_connection
from tests.conftest import find_redis_server, folder_in_memory, until

NAME = "mymaster"

#: A server without an answer for so long is down, for a Sentinel: rarely one on a busy machine.
DOWN_AFTER_MS = 2000


def free_ports(count: int) -> list[int]:
    """Ports that are free, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Server:
    """A redis-server, which keeps its folder and its configuration when it is started again."""

    folder: Path
    port: int
    password: str = ""
    is_sentinel: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def write(self, *lines: str) -> None:
        self.folder.mkdir()
        common = [f"port {self.port}", "bind 127.0.0.1", "protected-mode no", f"dir {self.folder}", "logfile log"]
        (self.folder / "conf").write_text("\n".join([*common, *lines]) + "\n")

    def start(self) -> None:
        words = [find_redis_server(), str(self.folder / "conf"), *(["--sentinel"] if self.is_sentinel else [])]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        until(lambda: self.role(), 20, f"port {self.port} to answer")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def says(self, *command: object) -> object:
        """The reply of whatever it is, also of a replica or a Sentinel."""
        address = redis_connection.Address(host="127.0.0.1", port=self.port, password=self.password or None)
        with closing(redis_connection.AnyRoleClient(address)) as client:
            return client.call(*command)

    def role(self) -> str:
        """Its role; empty while it does not answer."""
        try:
            return str(self.says("ROLE")[0])  # type: ignore[index]
        except (redis_connection.Unreachable, redis_connection.Refused):
            return ""


@dataclass
class Replicated:
    """The servers, and the Sentinels that watch them."""

    servers: list[Server]
    sentinels: list[Server]
    password: str = ""

    @property
    def url(self) -> str:
        secret = quote(self.password, safe="")
        login, options = (f":{secret}@", f"?sentinel_password={secret}") if secret else ("", "")
        return f"sentinel://{login}{self.hosts}/{NAME}/0{options}"

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def master(self) -> Server:
        """The server that the Sentinels name."""
        port = redis_connection.find_master(redis_connection.parse_url(self.url)).port
        return next(server for server in self.servers if server.port == port)

    @property
    def replicas(self) -> list[Server]:
        return [server for server in self.servers if server is not self.master]

    def url_of(self, server: Server) -> str:
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{server.port}/0"

    def is_whole(self) -> bool:
        """Whether each Sentinel would fail over, to a master whose replicas are both in step."""
        try:
            for sentinel in self.sentinels:
                sentinel.says("SENTINEL", "CKQUORUM", NAME)
                replicas = sentinel.says("SENTINEL", "REPLICAS", NAME)
                states = [dict(zip(each[::2], each[1::2], strict=True)) for each in replicas]  # type: ignore[attr-defined]
                if [state["flags"] for state in states] != ["slave", "slave"]:
                    return False
            master = self.master
            _, _, replicas = master.says("ROLE")  # type: ignore[misc]
            return len(replicas) == 2 and all(int(offset) >= 0 for *_, offset in replicas) and master.role() == "master"
        except (redis_connection.Unreachable, redis_connection.Refused):
            return False

    def start(self) -> None:
        for server in (*self.servers, *self.sentinels):
            server.start()
        self.await_whole()

    def await_whole(self) -> None:
        until(self.is_whole, 60, "the Sentinels to agree, and both replicas to be in step")

    def restore(self) -> None:
        """Start what was killed, continue what was stopped."""
        for server in (*self.servers, *self.sentinels):
            if server.is_running():
                server.signal(signal.SIGCONT)
            else:
                server.start()
        self.await_whole()

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            if server.is_running():
                server.kill()


@contextmanager
def replicated(password: str = "", down_after_ms: int = DOWN_AFTER_MS) -> Iterator[Replicated]:
    """All of them, started and in step."""
    folder, ports = folder_in_memory(), free_ports(6)
    made = [Server(folder / str(port), port, password, is_sentinel=place >= 3) for place, port in enumerate(ports)]
    fleet = Replicated(made[:3], made[3:], password)
    login = [f"requirepass {password}", f"masterauth {password}"] if password else []
    for server in fleet.servers:
        replica = [] if server is fleet.servers[0] else [f"replicaof 127.0.0.1 {ports[0]}"]
        server.write(
            "appendonly yes", 'save ""', "repl-diskless-sync yes", "repl-diskless-sync-delay 0", *login, *replica
        )
    for sentinel in fleet.sentinels:
        sentinel.write(
            f"sentinel monitor {NAME} 127.0.0.1 {ports[0]} 2",
            f"sentinel down-after-milliseconds {NAME} {down_after_ms}",
            f"sentinel failover-timeout {NAME} 2000",
            *([f"sentinel auth-pass {NAME} {password}", f"requirepass {password}"] if password else []),
        )
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()
        shutil.rmtree(folder, ignore_errors=True)
