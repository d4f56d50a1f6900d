"""Sends the heartbeat of this host from its supervisor: one batch to Redis every few seconds."""

from __future__ import annotations

import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import psutil

from mistudio_cli.machine.background_reading import BackgroundReading
from mistudio_cli.machine.host import nearest_folder
from mistudio_cli.supervisor.child import Clock
from mistudio_cli.supervisor.heartbeats import HeartbeatMonitor
from tasks.accelerators.card_processes import CardProcess, memory_of_others, processes_of
from tasks.accelerators.devices import ABSENT, Device, read_devices
from tasks.fleet import host_heartbeat
from tasks.fleet.host_heartbeat import LISTED_FOR_S, Gpu, HostHeartbeat
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.system.version import installed_version

SEND_EVERY_S = 5.0

#: A disk or driver that takes longer is reported as one that does not answer.
_PATIENCE_S = 8.0

#: NVML has this long for an answer; a later one is the next reading's. The end of the supervisor waits no longer.
_NVML_PATIENCE_S = 2.0

#: Processes of a GPU that a heartbeat names, those with most memory, and characters of each text of them.
MOST_PROCESSES, LONGEST_TEXT = 8, 120

#: After a jump of either clock by more than this, the next heartbeat follows at once.
_CLOCK_JUMP_S = 1.0


class HostReporter:
    """The heartbeat of one home's supervisor. `gpu_limits` are the variables that limit the GPUs of its workers."""

    def __init__(
        self,
        places: Places,
        heartbeat_monitor: HeartbeatMonitor,
        gpu_limits: Callable[[], Mapping[str, str]],
        clock: Clock,
    ) -> None:
        self._places, self._heartbeat_monitor, self._clock = places, heartbeat_monitor, clock
        self._host, self._version, self._began = socket.gethostname(), installed_version() or None, time.monotonic()
        self._disk = BackgroundReading("the disk of the store", self._read_free_bytes, _PATIENCE_S, clock)
        self._gpus = BackgroundReading(
            "the GPU driver",
            lambda: _read_gpus(gpu_limits()),
            _PATIENCE_S,
            clock,
        )
        self._ledger: Ledger | None = None
        self._clock_offset_s = self._started_at = 0.0
        self._send_at = -math.inf
        self._remove_at = clock()
        self._is_partial = False

    def tick(self) -> None:
        """Send a heartbeat when one is due; the first one again as soon as disk and GPUs have been read."""
        is_due = self._clock() >= self._send_at
        if self._heartbeat_monitor.ledger is None or not (is_due or (self._is_partial and self._is_read)):
            return
        if is_due:
            self._send_at = self._clock() + SEND_EVERY_S
            self._disk.begin()
            self._gpus.begin()
        self._is_partial = not self._is_read
        self._heartbeat_monitor.ask(self._send)

    def leave(self) -> None:
        """Remove the heartbeat, as the supervisor ends in good order; nothing when Redis is away."""
        if self._ledger is not None:
            field = host_heartbeat.field_of(self._host, str(self._places.home))
            self._heartbeat_monitor.ask(lambda ledger: host_heartbeat.remove(ledger.client, [field]))

    @property
    def _is_read(self) -> bool:
        """Whether disk and GPUs have been read once."""
        return self._disk.has_returned and self._gpus.has_returned

    def _send(self, ledger: Ledger) -> None:
        if ledger is not self._ledger:
            self._clock_offset_s = host_heartbeat.measure_clock_offset(ledger.client)
            self._started_at = self._now() - (time.monotonic() - self._began)
            self._ledger = ledger
        before = self._clock_offset_s
        self._clock_offset_s = host_heartbeat.send(ledger.client, self._heartbeat())
        if abs(self._clock_offset_s - before) > _CLOCK_JUMP_S:
            self._send_at = -math.inf
        if self._clock() >= self._remove_at:
            self._remove_at = self._clock() + LISTED_FOR_S
            with suppress(Unreachable, Refused):
                host_heartbeat.remove_unlisted(ledger.client)

    def _now(self) -> float:
        """The server's clock, by the offset measured last."""
        return time.time() - self._clock_offset_s

    def _heartbeat(self) -> HostHeartbeat:
        free_bytes, store_error = self._free_bytes()
        gpus, gpus_error = self._gpus_found()
        return HostHeartbeat(
            host=self._host,
            home=str(self._places.home),
            pid=os.getpid(),
            started_at=self._started_at,
            seen_at=self._now(),
            clock_offset_s=self._clock_offset_s,
            version=self._version,
            cores=os.cpu_count(),
            memory_bytes=psutil.virtual_memory().total,
            load_1m=os.getloadavg()[0],
            store=str(self._places.store),
            store_free_bytes=free_bytes,
            store_error=store_error,
            gpus=gpus,
            gpus_error=gpus_error,
        )

    def _free_bytes(self) -> tuple[int | None, str | None]:
        """Of the disk that holds the store, and why that is not known."""
        try:
            return self._disk.newest(), None
        except OSError as error:
            return None, f"{error.strerror or error}"

    def _gpus_found(self) -> tuple[tuple[Gpu, ...] | None, str | None]:
        """The GPUs, and why they are not known; a host without any has an empty tuple."""
        try:
            found = self._gpus.newest()
        except OSError as error:
            return None, str(error)
        return found or (None, None)

    def _read_free_bytes(self) -> int:
        return shutil.disk_usage(nearest_folder(self._places.store)).free


def _read_gpus(limits: Mapping[str, str]) -> tuple[tuple[Gpu, ...] | None, str | None]:
    """The GPUs with the processes on them, and why they are not known."""
    found = read_devices(patience_s=_NVML_PATIENCE_S, environment=limits)
    if found.reason is not None and found.reason not in ABSENT:
        return None, found.reason
    return tuple(map(_gpu, found.devices)), None


def _gpu(card: Device) -> Gpu:
    total, used = card.memory_total, card.memory_used
    free = total - used if total is not None and used is not None else None
    processes = processes_of(card)
    largest = sorted(processes or (), key=lambda process: -(process.memory or 0))[:MOST_PROCESSES]
    return Gpu(
        card.index,
        card.name,
        card.uuid,
        total,
        free,
        card.problem,
        card.instance,
        card.utilisation,
        card.temperature,
        card.power,
        None if processes is None else tuple(map(_shortened, largest)),
        len(processes or ()) - len(largest),
        memory_of_others(card, processes),
    )


def _shortened(process: CardProcess) -> CardProcess:
    """The same with texts that are not longer than a heartbeat has room for."""
    user, command, job = (text and text[:LONGEST_TEXT] for text in (process.user, process.command, process.job))
    return replace(process, user=user, command=command, job=job)
