"""Whether a machine has what workers need: adds up needs and compares them with readings.

The rule. A worker of one queue needs what the table says of that queue, in proportion to its slots. A worker of several
queues is the arrangement of small machines: its jobs take turns in its slots, so it needs half a core and 1 GB a slot
(4 cores and 8 GB for the 8 slots of `minimal`), never more than one worker for each of its queues would, and no GPU.
Workers on one machine add up; where jobs may share a GPU, fewer will do. A GPU without memory of its own adds none: the
machine's one memory is counted once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.accelerators.devices import Device, Devices, read_devices
from tasks.queues import Needs, queue_named
from tasks.system.cgroups import CGROUPS, PROC, read_allowed, usable_cpus

if TYPE_CHECKING:
    from mistudio_cli.profile.rules import WorkerSpec

GB = 1e9

#: A machine sold with 8 GB shows a little less.
_NEARLY = 0.9


@dataclass(frozen=True)
class Machine:
    """What workers may use here, and what there is in all.

    Cores (a container may have a fraction of one) and bytes; `gpus` are those that answer, `gpus_held` those of them
    whose memory others hold for the most part; `no_gpu` is why there are none; `unified` is one memory for GPU and CPU.
    """

    cpus: float
    memory: int
    cpus_in_all: int
    memory_in_all: int
    gpus: int = 0
    gpus_held: int = 0
    no_gpu: str | None = None
    unified: bool = False


@dataclass(frozen=True)
class Shortfall:
    """What there is too little of ("cores", "memory" in GB or "gpus"), as numbers and as a sentence for the user."""

    resource: str
    wanted: float
    there: float
    sentence: str


def needs_of(specs: Sequence[WorkerSpec]) -> Needs:
    """What these workers need together, by the rule above."""
    each = [_needs_of_worker(spec) for spec in specs]
    gpus = _up(sum(needs.gpus for needs in each), max((spec.gpu_jobs for spec in specs), default=1))
    return Needs(sum(needs.cpus for needs in each), sum(needs.memory_gb for needs in each), gpus)


def shortfalls(who: str, specs: Sequence[WorkerSpec], machine: Machine) -> list[Shortfall]:
    """What this machine has too little of for these workers; empty when it has enough.

    `who` begins each sentence, such as "The profile full".
    """
    needs, found = needs_of(specs), []
    if machine.cpus < needs.cpus:
        have = _have(f"{machine.cpus:g}", f"{machine.cpus_in_all}", machine.cpus < machine.cpus_in_all)
        sentence = f"{who} needs {counted(needs.cpus, 'core')}; {have}."
        found.append(Shortfall("cores", needs.cpus, machine.cpus, sentence))
    if machine.memory < _NEARLY * needs.memory_gb * GB:
        have = _have(
            gigabytes(machine.memory), gigabytes(machine.memory_in_all), machine.memory < machine.memory_in_all
        )
        shared = ", which it shares with its GPU" if machine.unified else ""
        sentence = f"{who} needs {needs.memory_gb} GB of memory; {have}{shared}."
        found.append(Shortfall("memory", needs.memory_gb, round(machine.memory / GB, 1), sentence))
    if (free := machine.gpus - machine.gpus_held) < needs.gpus:
        sentence = f"{who} needs {counted(needs.gpus, 'GPU')}; {_have_gpus(machine, specs)}."
        found.append(Shortfall("gpus", needs.gpus, free, sentence))
    return found


def describe_needs(needs: Needs) -> str:
    """Needs in words: 13 cores, 40 GB, 2 GPUs."""
    gpus = f", {counted(needs.gpus, 'GPU')}" if needs.gpus else ""
    return f"{counted(needs.cpus, 'core')}, {needs.memory_gb} GB{gpus}"


def counted(count: float, noun: str) -> str:
    """A number with its noun: 1 core, 2 cores."""
    return f"{count:g} {noun}" if count == 1 else f"{count:g} {noun}s"


def read_machine(found: Devices | None = None, proc: Path = PROC, cgroups: Path = CGROUPS) -> Machine:
    """What may be used here, by affinity and the limits of cgroup v2; `found` are devices that were read already."""
    import psutil

    allowed, cards, in_all = read_allowed(proc, cgroups), found or read_devices(), psutil.virtual_memory().total
    usable = [card for card in cards.devices if card.problem is None]
    return Machine(
        cpus=usable_cpus(proc, cgroups),
        memory=in_all if allowed.memory is None else min(in_all, allowed.memory),
        cpus_in_all=os.cpu_count() or 1,
        memory_in_all=in_all,
        gpus=len(usable),
        gpus_held=sum(_is_held(card) for card in usable),
        no_gpu=cards.limit or cards.reason,
        unified=any(card.unified for card in usable),
    )


def _needs_of_worker(spec: WorkerSpec) -> Needs:
    rows = [queue_named(name) for name in spec.queues]
    if len(rows) == 1:
        needs, usual = rows[0].needs, rows[0].concurrency
        return Needs(*(_up(amount * spec.slots, usual) for amount in (needs.cpus, needs.memory_gb, needs.gpus)))
    cpus, memory_gb = sum(row.needs.cpus for row in rows), sum(row.needs.memory_gb for row in rows)
    return Needs(min(_up(spec.slots, 2), cpus), min(spec.slots, memory_gb))


def _up(amount: int, parts: int) -> int:
    """The quotient, rounded up."""
    return -(-amount // parts)


def _have(usable: str, in_all: str, limited: bool) -> str:
    return f"it may use {usable} of this machine's {in_all}" if limited else f"this machine has {usable}"


def gigabytes(amount: int) -> str:
    """Bytes in GB, as profiles count them: 7.9 GB."""
    return f"{round(amount / GB, 1):g} GB"


def _have_gpus(machine: Machine, specs: Sequence[WorkerSpec]) -> str:
    jobs = " and ".join(dict.fromkeys(name for spec in specs for name in spec.queues if queue_named(name).needs.gpus))
    if not machine.gpus:
        why = f" ({machine.no_gpu})" if machine.no_gpu else ""
        return f"this machine has none{why}: jobs of {jobs} run on the CPU, slowly"
    held = f", of which others hold {machine.gpus_held}" if machine.gpus_held else ""
    return f"this machine has {machine.gpus}{held}: jobs of {jobs} take turns"


def _is_held(card: Device) -> bool:
    """Whether processes that can be seen here, and are no job of ours, hold most of the card's memory."""
    strange = sum(process.memory or 0 for process in card.processes or () if _is_strange(process.pid))
    return card.memory_total is not None and strange > card.memory_total / 2


def _is_strange(pid: int) -> bool:
    import psutil

    try:
        return "tasks.runner" not in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False  # in a container the driver reports the host's pids
