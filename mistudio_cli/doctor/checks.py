"""The checks of `doctor`: each is a function from what was found to a verdict and a fix."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import mistudio_cli
import tasks
from mistudio_cli.doctor import health_checks, host_checks, live_tests, replication_checks
from mistudio_cli.errors import Unresponsive
from mistudio_cli.fleet.supervisor_client import unresponsive
from mistudio_cli.machine.host import Disk
from mistudio_cli.monitor import kind_versions
from mistudio_cli.monitor.check_result import Check
from mistudio_cli.monitor.collector import part_errors
from mistudio_cli.monitor.collector.collector import DEVICES, DISK, HOST, SUPERVISOR, Collector
from mistudio_cli.monitor.collector.sources import JUDGED, UnreadableDevices, read_ledger
from mistudio_cli.monitor.consumer_command import START_WORKERS, consumer_command
from mistudio_cli.monitor.health.causes import LEAST_DISK, health_of
from mistudio_cli.monitor.hosts import read_fleet
from mistudio_cli.monitor.snapshot import QueueRow, Snapshot, WorkerRow
from mistudio_cli.profile.resources import Machine, counted, gigabytes, read_machine, shortfalls
from mistudio_cli.profile.rules import DEFAULT_PROFILE, ReadProfile, WorkerSpec, profile_files, read_profile, workers_of
from mistudio_cli.redis import redis_aof, redis_server
from mistudio_cli.redis.probe import require_answer
from mistudio_cli.settings import Settings
from mistudio_cli.supervisor.states import IDLE
from mistudio_cli.terminal import humanize
from tasks.accelerators.devices import ABSENT, Devices
from tasks.errors import UserError
from tasks.ledger import dead_letters
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.queues import QUEUES, Queue
from tasks.redis_client.redis_connection import NoMaster, NotRedis, Refused, Replica, Silent, Unreachable, connect
from tasks.settings import current

GIB = 1 << 30
_LATELY_S = 24 * 3600
_LEAST_DISK = 1 * GIB

#: States of workers that take no more jobs.
_LEAVING = (*IDLE, "stopping", "draining")

_NEEDED = ("celery", "redis", "hiredis", "datasets", "tokenizers", "transformers", "safetensors", "torch")


def all_checks(settings: Settings) -> Iterator[Check]:
    """Every check, the ground first. Nothing is started, and what is tried is undone."""
    beside = Collector(None, settings.places, (SUPERVISOR, DEVICES, HOST, DISK))
    beside.begin()  # what may hang is waited for once, and not in turn
    with ExitStack() as opened:
        own = [python(), packages(), installation(Path(tasks.__file__), Path(mistudio_cli.__file__))]
        own += live_tests.folders(settings.places)
        status = _wait_for_supervisor(beside, settings.places)
        of_redis, ledger = redis(settings, status if isinstance(status, dict) else None)
        own += [*of_redis, supervisor(status)]
        if ledger is not None:
            opened.enter_context(closing(ledger))
            own += of_ledger(ledger)
        own.append(_wait_for_disk(beside, settings.places))
        cards, found = _wait_for_devices(beside), [read_profile(file) for file in profile_files()]
        own += [gpu(cards), profiles(found)]
        own += (resources(who, specs, read_machine(cards)) for who, specs in _running_or_default(status, found))
        seen = _snapshot(beside, ledger)
        own += [] if seen.queues is None else [workers(seen.queues, seen.workers or ())]
        yield from health_checks.with_causes(own, health_of(seen))


def _snapshot(beside: Collector, ledger: Ledger | None) -> Snapshot:
    """What the health report is made from; the ledger only where it can be read, which is the check of Redis."""
    patience_s = current("read_patience")
    if ledger is not None:
        with suppress(Unreachable, Refused):
            return beside.collect_around(lambda: read_ledger(ledger, JUDGED, patience_s))
    return beside.collect()


def of_ledger(ledger: Ledger) -> Iterator[Check]:
    """Check the ledger's messages, kinds and hosts."""
    key = ledger.client.key(dead_letters.KEY)
    yield from _if_readable(
        lambda: [messages(dead_letters.read(ledger.client, dead_letters.MOST_KEPT), time.time(), key)]
    )
    yield from _if_readable(lambda: kind_versions.check(ledger))
    yield from _if_readable(lambda: host_checks.of_fleet(read_fleet(ledger)))


def python() -> Check:
    """Which interpreter this is."""
    return Check("python", "ok", f"Python {platform.python_version()} at {sys.executable}")


def packages() -> Check:
    """The packages, by their metadata: importing them would take longer than all else."""
    found: dict[str, str | None] = {name: _version(name) for name in ("mistudio", *_NEEDED)}
    if missing := [name for name, version in found.items() if version is None]:
        return Check("packages", "failed", f"not installed: {', '.join(missing)}", "pip install --upgrade mistudio")
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    if not (found["celery"] or "").startswith("5.7."):
        return Check("packages", "failed", versions, 'pip install "celery[redis]>=5.7,<5.8"')
    return Check("packages", "ok", versions)


def installation(*modules: Path) -> Check:
    """Whether the packages of mistudio, given by their `__init__.py`, come from the same place."""
    folders = sorted({str(module.resolve().parent.parent) for module in modules})
    if len(folders) > 1:
        hint = "Take the strange one off PYTHONPATH, or install mistudio in an environment of its own"
        return Check("installation", "failed", f"tasks and mistudio_cli come from {' and '.join(folders)}", hint)
    return Check("installation", "ok", f"tasks and mistudio_cli in {folders[0]}")


def redis(settings: Settings, supervised: dict[str, Any] | None) -> tuple[list[Check], Ledger | None]:
    """Whether Redis answers, takes what workers write, and keeps it; and the ledger if that can be read."""
    found = list[Check]()
    if settings.broker_url is None:
        found += _own_file(settings.places)
        if not redis_server.takes_connections(settings.places):
            return [*found, _not_running(supervised)], None
    with ExitStack() as opened:
        try:
            client = connect(settings.broker_url or redis_server.own_url(settings.places), current("read_patience"))
            ledger = opened.enter_context(closing(Ledger(client)))
            require_answer(client, current("read_patience"))
            found += answering(ledger)
        except UserError as problem:
            found.append(Check("redis", "failed", problem.sentence, problem.hint))
        except (Unreachable, Refused) as error:
            who, hint = "", _hint_for(error, named=settings.broker_url is not None)
            if isinstance(error, Silent):
                who, fix = part_errors.hung_redis(client.address, settings.places)
                hint = fix or hint
            sentence = str(error).replace(" does not answer", f"{who} does not answer", 1)
            found.append(Check("redis", "failed", sentence, hint))
        else:
            opened.pop_all()
            return found, ledger
    return found, None


def answering(ledger: Ledger) -> Iterator[Check]:
    """What a Redis that answers says of itself, and what it takes. Unreachable or Refused."""
    info = _info(str(ledger.client.call("INFO")))
    yield redis_version(info.get("redis_version", "?"), ledger.client.address.shown)
    yield from live_tests.redis_writes(ledger)
    yield _append_only_file(ledger, is_on=info.get("aof_enabled") == "1")
    policy = info.get("maxmemory_policy", "?")
    if policy == "noeviction":
        yield Check("redis eviction", "ok", "never: no job is dropped when memory is short")
    else:
        hint = "redis-cli CONFIG SET maxmemory-policy noeviction, and in redis.conf"
        yield Check("redis eviction", "warning", f"{policy}: jobs may be dropped when memory is short", hint)
    yield from replication_checks.of_replication(ledger.client.address, info)


def _not_running(supervised: dict[str, Any] | None) -> Check:
    trouble = ((supervised or {}).get("redis") or {}).get("trouble")
    if trouble:
        return Check("redis", "failed", trouble, "See: mistudio workers logs redis")
    return Check("redis", "warning", "the home's own Redis is not running", "It starts with: mistudio workers start")


def _hint_for(error: Exception, *, named: bool) -> str:
    if isinstance(error, NotRedis):
        return "Check host and port in CELERY_BROKER_URL"
    if isinstance(error, Replica):
        return "Name the master in the Redis URL, or let Sentinels: sentinel://HOST1:PORT,HOST2:PORT/MASTER/DB"
    if isinstance(error, NoMaster):
        return "Start the Sentinels, or correct them and the master's name in the Redis URL"
    if named:
        return "Start it, or correct CELERY_BROKER_URL"
    return "mistudio workers stop --all, then start again"


def _own_file(places: Places) -> Iterator[Check]:
    """Whether the append-only file of the home's own Redis is whole, as far as nothing is writing to it."""
    damage = None
    if not redis_server.takes_connections(places) and redis_server.running(places) is None:
        try:
            damage = redis_aof.find_damage(places)
        except (UserError, OSError, ValueError, subprocess.SubprocessError) as error:
            yield Check("redis file", "warning", f"cannot be checked: {error}", "See: mistudio workers logs redis")
            return
    if damage is not None:
        hint = "On its next start the file is copied, and Redis serves what comes before: mistudio workers start"
        yield Check("redis file", "failed", damage.sentence, hint if damage.good else "Restore it from a backup")
    elif copies := redis_aof.copies(places):
        detail = f"a damaged file was set aside as {copies[-1]}; Redis serves what came before the damage"
        yield Check("redis file", "warning", detail, "Look for jobs that are missing, then delete the copy")


def _append_only_file(ledger: Ledger, *, is_on: bool) -> Check:
    name, hint = "redis append-only file", "redis-cli CONFIG SET {} {}, and in redis.conf"
    if not is_on:
        return Check(name, "warning", "off: a crash of Redis loses the last jobs", hint.format("appendonly", "yes"))
    try:
        _, when = ledger.client.call("CONFIG", "GET", "appendfsync")
    except (Refused, ValueError):  # a Redis that others run may keep its settings to itself
        return Check(name, "ok", "on; when it is synced cannot be read")
    if when == "always":
        return Check(name, "ok", "on, synced before each answer: jobs survive a crash of Redis")
    lost = f"synced {when}: a crash of Redis may lose the last jobs it accepted"
    return Check(name, "warning", lost, hint.format("appendfsync", "always"))


def redis_version(version: str, shown: str) -> Check:
    """Whether Redis is new enough."""
    detail, oldest = f"Redis {version} at {shown}", ".".join(map(str, redis_server.OLDEST))
    numbers = tuple(int(part) for part in version.split(".")[: len(redis_server.OLDEST)] if part.isdigit())
    if numbers and numbers < redis_server.OLDEST:
        return Check("redis", "failed", f"{detail} is older than {oldest}", f"Use Redis {oldest} or newer")
    return Check("redis", "ok", detail)


def supervisor(status: dict[str, Any] | Exception | None) -> Check:
    """Whether a supervisor keeps this home's workers alive, given its status or the error instead; None means none
    runs.
    """
    if isinstance(status, Unresponsive):
        return Check("supervisor", "failed", str(status), status.hint)
    if isinstance(status, Exception):
        hint = "mistudio workers stop --all, then start again"
        return Check("supervisor", "failed", f"cannot be asked: {status}", hint)
    if status is None:
        return Check("supervisor", "warning", "not running", START_WORKERS)
    names = ", ".join(worker["name"] for worker in status["workers"]) or "no workers"
    return Check("supervisor", "ok", f"pid {status['supervisor']['pid']}: {names}")


def workers(queues: Sequence[QueueRow], rows: Sequence[WorkerRow]) -> Check:
    """Whether every queue has one of these workers; jobs that wait for one are a cause of the health report."""
    deserted = [row.name for row in queues if not row.consumers]
    if not deserted:
        return Check("workers", "ok", "every queue has a worker")
    return Check("workers", "warning", f"no worker for: {', '.join(deserted)}", consumer_command(deserted, rows))


def messages(put_aside: Sequence[dead_letters.DeadLetter], now: float, key: str) -> Check:
    """Whether workers got messages lately that they could take for no job; newest first, `now` as their times.

    `key` is where they are kept.
    """
    lately = [refusal for refusal in put_aside if now - refusal.at < _LATELY_S]
    if not lately:
        return Check("messages", "ok", "none was refused in the last 24 h")
    last = lately[0]
    detail = f"{len(lately)} refused in the last 24 h; the last one, from {last.queue}: {last.why}"
    return Check("messages", "warning", detail, f"Correct what sends them. See what they were: LRANGE {key} 0 9")


def disk(found: Disk) -> Check:
    """Whether the store has room."""
    detail = f"{humanize.size(found.free)} free of {humanize.size(found.total)}"
    hint = "Make room: mistudio submit cleanup, or set MISTUDIO_STORE to a larger disk"
    if found.free < _LEAST_DISK:
        return Check("disk", "failed", detail, hint)
    is_low = found.free < LEAST_DISK * found.total
    return Check("disk", "warning", detail, hint) if is_low else Check("disk", "ok", detail)


def profiles(found: Sequence[ReadProfile]) -> Check:
    """Whether every profile can be started."""
    if bad := [f"{read.file.path}: {read.faults[0].what}" for read in found if read.faults]:
        return Check("profiles", "warning", "; ".join(bad), "mistudio profiles validate")
    return Check("profiles", "ok", ", ".join(read.file.name for read in found))


def resources(who: str, specs: Sequence[WorkerSpec], machine: Machine) -> Check:
    """Whether the workers find what the table of queues says they need."""
    if short := shortfalls(who, specs, machine):
        hint = "It works, but slowly. Compare what profiles need: mistudio profiles ls"
        return Check("resources", "warning", " ".join(missing.sentence for missing in short), hint)
    shared = " shared with the GPU" if machine.unified else ""
    there = f"{counted(machine.cpus, 'core')}, {gigabytes(machine.memory)} of memory{shared}"
    return Check("resources", "ok", f"{there}: enough for {who[0].lower()}{who[1:]}")


def gpu(found: Devices, table: tuple[Queue, ...] = QUEUES) -> Check:
    """Whether the queues that need a GPU find one."""
    wanting = [queue.name for queue in table if queue.needs.gpus]
    if not found.devices and found.reason not in (None, *ABSENT):
        detail = f"{found.reason}: jobs of {' and '.join(wanting)} wait until it can be"
        return Check("gpu", "failed", detail, "See whether nvidia-smi answers; reset the card or restart the machine")
    if not found.devices:
        detail = f"{found.limit or found.reason or 'no GPU'}: {' and '.join(wanting)} run on the CPU"
        return Check("gpu", "warning", detail, "With an NVIDIA card: install its driver")
    lost = [f"GPU {card.label}: {card.problem}" for card in found.devices if card.problem]
    if lost:
        return Check("gpu", "failed", "; ".join(lost), "Reset or restart the machine")
    cards = ", ".join(f"{card.name or '?'} ({humanize.size(card.memory_total)})" for card in found.devices)
    cards = f"{found.limit}: {cards}" if found.limit else cards
    enough = len(found.devices) >= sum(queue.needs.gpus for queue in table)
    return Check("gpu", "ok", cards if enough else f"{cards}; {' and '.join(wanting)} take turns")


def _wait_for_supervisor(beside: Collector, places: Places) -> dict[str, Any] | Exception | None:
    try:
        status: dict[str, Any] = beside.wait_for(SUPERVISOR)
    except TimeoutError:
        return unresponsive(places)
    except (OSError, ValueError) as error:
        return error
    return status if status["supervisor"]["pid"] is not None else None


def _wait_for_devices(beside: Collector) -> Devices:
    try:
        devices: Devices = beside.wait_for(DEVICES)
    except UnreadableDevices as error:
        return error.found
    except TimeoutError as error:
        return Devices(reason=str(error))
    return devices


def _wait_for_disk(beside: Collector, places: Places) -> Check:
    try:
        return disk(beside.wait_for(DISK))
    except OSError as error:
        sentence = error.strerror or part_errors.describe(DISK, error, places)
        return Check("disk", "failed", sentence, "See to the disk of the store")


def _running_or_default(
    status: dict[str, Any] | Exception | None, found: Sequence[ReadProfile]
) -> Iterator[tuple[str, Sequence[WorkerSpec]]]:
    """What to call the workers that run here, and they; else those of the default profile, if that is sound."""
    sound = {read.file.name: read.profile for read in found if read.profile is not None}
    running, gpu_jobs = [], 1
    if isinstance(status, dict):
        running = [worker for worker in status["workers"] if worker["state"] not in _LEAVING]
        gpu_jobs = sound[status["profile"]].gpu_jobs if status["profile"] in sound else 1
    if running:
        yield "What runs here", [_spec(worker, gpu_jobs) for worker in running]
    elif DEFAULT_PROFILE in sound:
        yield f"The profile {DEFAULT_PROFILE}", workers_of(sound[DEFAULT_PROFILE])


def _spec(worker: dict[str, Any], gpu_jobs: int) -> WorkerSpec:
    return WorkerSpec(worker["name"], tuple(worker["queues"]), worker["slots"], gpu_jobs=gpu_jobs)


def _if_readable(checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from checks()
    except (Unreachable, Refused):
        return  # reported by the check of Redis


def _info(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
