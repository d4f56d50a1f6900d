"""A network of hosts on this machine: a namespace each, on a bridge in that of Redis, and links that can be cut."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tasks.redis_client import redis_connection
from tests.conftest import find_redis_server, folder_in_memory, until

PORT = 6379  # in a namespace of its own


def reason_to_skip() -> str | None:
    """Why there can be no hosts here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    if _ip("netns", "add", probe := f"ms{os.getpid()}-probe", check=False).returncode != 0:
        return "this machine allows no network namespaces"
    _ip("netns", "del", probe)
    return None


class Network:
    """Redis on a host of its own, and the hosts that reach it; Redis's unix socket is for the test itself."""

    def __init__(self, folder: Path, *names: str, lossy: Sequence[str] = (), loss: float = 0.2) -> None:
        """`lossy` are the hosts whose link can lose that share of what it carries."""
        self.folder, self.data, self.names = folder, folder_in_memory(), names
        self._lossy, self._loss = lossy, loss
        self._links: dict[str, subprocess.Popen[str]] = {}
        self._prefix = f"ms{os.getpid()}"
        self._hub = f"{self._prefix}-redis"
        self.redis: subprocess.Popen[bytes] | None = None
        self.socket = folder / "r.sock"
        self.url = f"redis+socket://{self.socket}?virtual_host=0"
        self.url_of_hosts = f"redis://{self._address(0)}:{PORT}/0"
        try:
            self._build()
            self._start_redis()
        except BaseException:
            self.close()
            raise

    def command(self, host: str, *words: str) -> list[str]:
        """What runs these words on that host, in the process that is started."""
        rename = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', host]
        return ["ip", "netns", "exec", self._space(host), *rename, *words]

    def cut(self, host: str) -> None:
        """Take its cable out."""
        _ip("-n", self._hub, "link", "set", self._port(host), "down")

    def connect(self, host: str) -> None:
        """Put it in again."""
        _ip("-n", self._hub, "link", "set", self._port(host), "up")

    def lose_some(self, host: str) -> None:
        """Let a share of what is sent to and from that host be dropped."""
        self._links[host].send_signal(signal.SIGUSR1)

    def lose_none(self, host: str) -> None:
        """Let all of it arrive again."""
        self._links[host].send_signal(signal.SIGUSR2)

    def lose_answers(self, host: str) -> None:
        """Let what is sent to that host be dropped without a word; what it sends arrives."""
        _ip("-n", self._hub, "route", "add", "blackhole", f"{self._address_of(host)}/32")

    def bring_answers(self, host: str) -> None:
        """Let it arrive again."""
        _ip("-n", self._hub, "route", "del", "blackhole", f"{self._address_of(host)}/32")

    def forget_connections(self, host: str) -> int:
        """Have Redis close what that host has opened, while its link is cut: half of each connection stays open."""
        client = redis_connection.connect(self.url)
        address = self._address_of(host)
        found = [line for line in client.call("CLIENT", "LIST").splitlines() if f" addr={address}:" in line]
        for line in found:
            client.call("CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="))
        client.close()
        return len(found)

    def stop_redis(self) -> None:
        """SIGSTOP: it takes connections and answers nothing."""
        assert self.redis is not None
        self.redis.send_signal(signal.SIGSTOP)

    def wake_redis(self) -> None:
        """SIGCONT."""
        assert self.redis is not None
        self.redis.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End all that runs on these hosts, and the hosts."""
        for name in (*self.names, "redis"):
            space = self._space(name)
            for pid in _ip("netns", "pids", space, check=False).stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for process in (*self._links.values(), *filter(None, [self.redis])):
            process.kill()
            process.wait(20)
            if process.stdout is not None:
                process.stdout.close()
        for name in (*self.names, "redis"):
            _ip("netns", "del", self._space(name), check=False)
        shutil.rmtree(self.data, ignore_errors=True)

    def _build(self) -> None:
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._hub, "addr", "add", f"{self._address(0)}/24", "dev", "bridge")
        for link in ("lo", "bridge"):
            _ip("-n", self._hub, "link", "set", link, "up")
        for host in self.names:
            space, port = self._space(host), self._port(host)
            _ip("netns", "add", space)
            if host in self._lossy:
                self._add_lossy_link(host)
            else:
                _ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._hub)
            _ip("-n", self._hub, "link", "set", port, "master", "bridge", "up")
            _ip("-n", space, "addr", "add", f"{self._address_of(host)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", space, "link", "set", link, "up")
        # What Redis has closed is soon forgotten, so that a host whose link was cut meanwhile never learns of it.
        _in(self._hub, "sysctl", "-qw", "net.ipv4.tcp_orphan_retries=1", "net.ipv4.tcp_fin_timeout=2")

    def _add_lossy_link(self, host: str) -> None:
        ends = [self._space(host), "eth0", self._hub, self._port(host)]
        script = str(Path(__file__).with_name("lossy_link.py"))
        command = [sys.executable, script, *ends, str(self._loss), "1"]
        self._links[host] = link = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert link.stdout is not None
        assert link.stdout.readline() == "ready\n"

    def _start_redis(self) -> None:
        options = ["--bind", self._address(0), "--port", str(PORT), "--protected-mode", "no", "--save", ""]
        options += ["--unixsocket", str(self.socket), "--dir", str(self.data), "--logfile", str(self.folder / "r.log")]
        command = ["ip", "netns", "exec", self._hub, find_redis_server(), *options]
        self.redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis_connection.connect(self.url)
        until(lambda: _answers(client), "redis-server to answer")
        client.close()

    def _space(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _port(self, host: str) -> str:
        return f"to-{host}"

    def _address_of(self, host: str) -> str:
        return self._address(1 + self.names.index(host))

    def _address(self, number: int) -> str:
        return f"10.77.0.{10 + number}"


def _answers(client: redis_connection.Client) -> bool:
    try:
        return client.call("PING") == "PONG"
    except (redis_connection.Unreachable, redis_connection.Refused):
        return False


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


def _in(space: str, *words: str) -> None:
    subprocess.run(["ip", "netns", "exec", space, *words], check=True, capture_output=True)


def wait_s(seconds: float) -> None:
    """Let that much time pass: how long a fault lasts is what is tested."""
    time.sleep(seconds)
