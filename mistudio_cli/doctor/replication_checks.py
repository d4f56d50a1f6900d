"""The checks of `doctor` on replication, where an accepted job must be on several servers: replicas and Sentinels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mistudio_cli.monitor.check_result import Check
from tasks.redis_client import redis_connection
from tasks.redis_client.host_port import host_port
from tasks.redis_client.redis_url import Address
from tasks.redis_client.sentinel import question, read_master, sentinel_addresses

_PATIENCE_S = 1.0


def of_replication(address: Address, info: Mapping[str, str]) -> Iterator[Check]:
    """The checks for that address, by what `INFO` says at the master; none where there are no replicas to be."""
    if address.replicas:
        yield replicas(address, info)
    if address.sentinels is not None:
        yield sentinels(address)


def replicas(address: Address, info: Mapping[str, str]) -> Check:
    """Whether as many replicas are in step as are to acknowledge a job."""
    online = [line for name, line in info.items() if name.startswith("slave") and ",state=online," in line]
    if len(online) >= address.replicas:
        return Check("redis replicas", "ok", f"{len(online)} in step; {address.replicas} must acknowledge each job")
    sentence = f"{len(online)} in step, and {address.replicas} must acknowledge each job: the last jobs may be lost"
    return Check("redis replicas", "warning", sentence, "Start the replicas; without any on purpose: ?replicas=0")


def sentinels(address: Address) -> Check:
    """Whether all Sentinels answer and name the same master."""
    answers = {host_port(each.host, each.port): _named_by(address, each) for each in sentinel_addresses(address)}
    named = [answer for answer in answers.values() if isinstance(answer, Address)]
    masters = sorted({host_port(each.host, each.port) for each in named})
    sentence = f"{len(named)} of {len(answers)} name the master {', '.join(masters) or 'n/a'}"
    faults = [f"{place}: {answer}" for place, answer in answers.items() if not isinstance(answer, Address)]
    if len(masters) > 1 or faults:
        fix = "Start the missing ones; all must watch the same master" if faults else "Wait for the failover to end"
        return Check("redis sentinels", "warning", "; ".join([sentence, *faults]), fix)
    return Check("redis sentinels", "ok", sentence)


def _named_by(address: Address, sentinel: Address) -> Address | str:
    """The master that a Sentinel names, or why it names none."""
    try:
        reply = redis_connection.ask_once(sentinel, question(address), _PATIENCE_S)
    except (redis_connection.Unreachable, redis_connection.Refused) as error:
        return str(error)
    return read_master(address, reply) or f"knows no master {address.sentinels.master if address.sentinels else ''}"
