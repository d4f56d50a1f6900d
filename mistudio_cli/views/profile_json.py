"""From profile to JSON: the keys of `profiles` in docs/json.md. Apart from `shapes`, which `ls` waits for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mistudio_cli.profile.profile_keys import ProfileFault
from mistudio_cli.profile.resources import Shortfall, needs_of
from mistudio_cli.profile.rules import Profile, ProfileFile, ReadProfile, WorkerSpec, workers_of


def profiles(found: Sequence[ReadProfile]) -> dict[str, Any]:
    """`profiles ls`."""
    return {"profiles": [_profile(read) for read in found]}


def _profile(read: ReadProfile) -> dict[str, Any]:
    """One profile in a list; of one that is not sound only its file and its faults are known."""
    specs = None if read.profile is None else workers_of(read.profile)
    return {
        **_profile_file(read.file),
        "summary": None if read.profile is None else read.profile.summary,
        "workers": None if specs is None else len(specs),
        "slots": None if specs is None else sum(spec.slots for spec in specs),
        "needs": None if specs is None else _needs(specs),
        "faults": [_fault(fault) for fault in read.faults],
    }


def profile_in_full(file: ProfileFile, profile: Profile, short: Sequence[Shortfall]) -> dict[str, Any]:
    """`profiles show`: the rule, the workers it means, and what this machine has too little of for them."""
    specs = workers_of(profile)
    return {
        **_profile_file(file),
        "rule": {key: value for key, value in dataclasses.asdict(profile).items() if key != "name"},
        "workers": [{**dataclasses.asdict(spec), "needs": _needs([spec]), "argv": spec.argv()} for spec in specs],
        "needs": _needs(specs),
        "shortfalls": [dataclasses.asdict(missing) for missing in short],
    }


def validated(found: Sequence[ReadProfile]) -> dict[str, Any]:
    """`profiles validate`."""
    rows = [{**_profile_file(read.file), "faults": [_fault(fault) for fault in read.faults]} for read in found]
    return {"ok": not any(read.faults for read in found), "profiles": rows}


def _profile_file(file: ProfileFile) -> dict[str, Any]:
    return {"name": file.name, "origin": file.origin, "path": str(file.path), "shadows": file.shadows}


def _fault(fault: ProfileFault) -> dict[str, str]:
    return {"what": fault.what, "mend": fault.hint}


def _needs(specs: Sequence[WorkerSpec]) -> dict[str, int]:
    needs = needs_of(specs)
    return {"cpus": needs.cpus, "memory_gb": needs.memory_gb, "gpus": needs.gpus}
