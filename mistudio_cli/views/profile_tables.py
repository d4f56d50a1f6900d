"""How profiles read in a table. Apart from `tables`, which `ls` waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mistudio_cli.profile import resources
from mistudio_cli.profile.profile_keys import KEYS, in_toml
from mistudio_cli.profile.rules import Profile, ProfileFile, ReadProfile, workers_of
from mistudio_cli.terminal.humanize import NONE, UNKNOWN
from mistudio_cli.views.tables import Table
from tasks.queues import Needs


def profiles(found: Sequence[ReadProfile]) -> Table:
    """The table of `profiles ls`; an invalid profile shows its first error."""
    headers = ["PROFILE", "FROM", "WORKERS", "SLOTS", "CORES", "MEMORY", "GPUS", "SUMMARY"]
    rows = []
    for read in found:
        origin = read.file.origin if read.file.origin == "built-in" else str(read.file.path)
        if read.profile is None:
            rows.append([read.file.name, origin, *[UNKNOWN] * 5, f"not sound: {read.faults[0].what}"])
            continue
        specs = workers_of(read.profile)
        slots = str(sum(spec.slots for spec in specs))
        needs = _needs(resources.needs_of(specs))
        rows.append([read.file.name, origin, str(len(specs)), slots, *needs, read.profile.summary])
    return headers, rows


def profile_facts(file: ProfileFile, profile: Profile) -> Iterator[str]:
    """`profiles show`: the file and the rule, which leaves out what is not set."""
    instead = ", in the place of the built-in one" if file.shadows else ""
    room = max(len(key.name) for key in KEYS) + 2
    facts = {"profile": f"{profile.name} ({file.origin}{instead})", "file": str(file.path)}
    facts |= {key.name: in_toml(value) for key in KEYS if (value := getattr(profile, key.name)) is not None}
    for own in profile.queues:
        values = {key.name: getattr(own, key.name) for key in KEYS if key.of_queue}
        differs = (f"{name} = {in_toml(value)}" for name, value in values.items() if value is not None)
        facts[own.queue] = ", ".join(differs)
    facts["needs"] = resources.describe_needs(resources.needs_of(workers_of(profile)))
    yield from (f"{name:<{room}}{value}" for name, value in facts.items())


def profile_workers(profile: Profile) -> Table:
    """`profiles show`: the workers."""
    headers = ["WORKER", "SLOTS", "CORES", "MEMORY", "GPUS", "QUEUES"]
    return headers, [
        [spec.name, str(spec.slots), *_needs(resources.needs_of([spec])), ",".join(spec.queues)]
        for spec in workers_of(profile)
    ]


def validated(found: Sequence[ReadProfile]) -> Table:
    """`profiles validate`: a row for each fault, and one for each profile without."""
    rows = []
    for read in found:
        instead = f"in the place of the built-in {read.file.name}" if read.file.shadows else NONE
        for said in [fault.what for fault in read.faults] or [instead]:
            rows.append([read.file.name, "failed" if read.faults else "ok", str(read.file.path), said])
    return ["PROFILE", "VERDICT", "FILE", "DETAIL"], rows


def _needs(needs: Needs) -> list[str]:
    return [str(needs.cpus), f"{needs.memory_gb} GB", str(needs.gpus or NONE)]
