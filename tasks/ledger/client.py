"""The job ledger in Redis: reads and changes jobs' records; no other module does.

A message on a queue is only a notification, enqueued in the same step that queues the job; what a job is and its state
are its record here. Every change of state is one atomic step of the Lua in `tasks/ledger/lua/`. A running job is held
by a lease, and the lease alone says that it lives.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.jobs.record import Job, MetricPoint, Progress, State
from tasks.ledger import lua_script
from tasks.ledger.listing import Filter, Page, children, other_tries, page, records
from tasks.ledger.queue_state import QueueDesk
from tasks.ledger.records import encode_new, pairs, read_event, read_point, readable
from tasks.ledger.worker_heartbeat import HEARTBEAT_TTL_S, WorkerHeartbeat, read_heartbeat
from tasks.redis_client.redis_connection import Client, Refused, Unable

if TYPE_CHECKING:
    from tasks.ledger.device_lease import Card, Lease, LeaseRefusal
    from tasks.ledger.maintenance import MaintenanceSettings

#: How often a lease is renewed, and how long it lives without that.
LEASE_RENEW_S, LEASE_TTL_S = 1.0, 15.0

#: How long a submit waits for replicas to acknowledge what it wrote.
REPLICATED_WITHIN_S = 1.0


@dataclass(frozen=True)
class Claim:
    """A job somebody holds: its record and the token that fences what they write."""

    job: Job
    token: str


class Ledger:
    """The records of all jobs behind one connection; `queues` is what is asked of queues as a whole.

    Every method raises `wire.Unreachable` when Redis cannot be reached, and UserError when the records there are newer
    than this mistudio.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.queues = QueueDesk(client)
        #: Whether as many replicas as the address asks for have acknowledged the last submit; None where it asks for
        #: none, and before. What they have not acknowledged was accepted, by the master alone.
        self.replicated: bool | None = None

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self.client.close()

    # -- changes ------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> Job:
        """Accept one new job; see `submit_all`."""
        return self.submit_all([job])[0]

    def submit_all(self, jobs: Sequence[Job]) -> list[Job]:
        """Accept new jobs, parents before their children: all of them, or none and a UserError.

        Refused are jobs whose artifact is being made already, and those whose parents can never succeed.
        """
        (refusal,) = self.submit_many([jobs])
        if refusal is not None:
            raise refusal
        return [job for job in self.many([job.id for job in jobs]) if job]

    def submit_many(self, groups: Iterable[Sequence[Job]]) -> list[UserError | None]:
        """Accept groups of new jobs in one round trip, each as a whole; for each, None or why it was refused."""
        answers = self._submitted(lua_script.evaluate_all, groups)
        return [None if status == "ok" else _refusal(status) for status in answers]

    def try_submit_many(self, groups: Sequence[Sequence[Job]]) -> list[UserError | Unable | Refused | None]:
        """As `submit_many`, but a group that Redis was unable to take has that error in its place.

        A group whose last job is there already counts as accepted. Unreachable when it is not known which were.
        """
        answers = self._submitted(lua_script.try_all, groups)
        return [
            _outcome(answer, group) if isinstance(answer, str) else answer
            for answer, group in zip(answers, groups, strict=True)
        ]

    def _submitted(self, evaluate: Callable[..., list[Any]], groups: Iterable[Sequence[Job]]) -> list[Any]:
        """The answers to the submission of these groups, and in the same round trip whether replicas have them."""
        calls = [("submit", "", json.dumps([encode_new(job) for job in group])) for group in groups]
        if not (wanted := self.client.address.replicas):
            return evaluate(self.client, calls)
        self.replicated = False  # also where the answer is lost
        *answers, count = evaluate(self.client, calls, [("WAIT", wanted, int(REPLICATED_WITHIN_S * 1000))])
        self.replicated = isinstance(count, int) and count >= wanted
        return answers

    def which_exist(self, job_ids: Sequence[str]) -> set[str]:
        """Those of these ids that have a record."""
        found = self._read([("EXISTS", self.client.key(f"job:{job_id}")) for job_id in job_ids])
        return {job_id for job_id, is_there in zip(job_ids, found, strict=True) if is_there}

    def claim(
        self,
        job_id: str,
        worker: str,
        host: str,
        pid: int = 0,
        *,
        token: str | None = None,
        queue: str = "",
        step: int | None = None,
        kinds: Mapping[str, str] | None = None,
        stand_ins: Sequence[str] = (),
    ) -> Claim | None:
        """Take a queued job for the worker with that name and pid, or None when it is not there to be taken.

        Where several owners have jobs in its queue, one of the kinds `stand_ins` may be taken in its stead, whose turn
        it is.

        Pass a `token` from `new_token` to make the call idempotent: a retry returns the first answer.
        `queue` and `step` say where its message was: a job that was moved since has another one. `kinds` are the
        digests of what the worker can run: the message of any other job is put at the end of its list.
        """
        token = token or new_token()
        source = (queue, step) if queue and step is not None else ("", "")
        known, others = "" if kinds is None else json.dumps(kinds), json.dumps(stand_ins) if stand_ins else ""
        arguments = (token, worker, host, pid, LEASE_TTL_S, *source, known, others)
        status, _, other = self._change("claim", job_id, *arguments).partition(" ")
        return Claim(self.need(other or job_id), token) if status == "ok" else None

    def renew(self, claim: Claim) -> str:
        """Keep the lease: "ok", "cancel" when the job is to be cancelled, "lost" when another worker owns it now."""
        return self._change("renew", claim.job.id, claim.token, LEASE_TTL_S)

    def report(self, claim: Claim, progress: Progress, point: MetricPoint | None = None) -> str:
        """Write how far the work is, and what was measured of it: "ok" or "lost"."""
        progress_json = json.dumps(dataclasses.asdict(progress))
        measured = (point.at, json.dumps(point.values)) if point else ("", "")
        return self._change("progress", claim.job.id, claim.token, progress_json, *measured)

    def lease_device(
        self, claim: Claim, cards: Sequence[Card], slots: int, need: int | None = None
    ) -> Card | list[LeaseRefusal]:
        """Lease the card (most free memory first) with the fewest jobs, fewer than `slots`, and with `need` bytes free.

        When there is none: why, for each card. No reason is given when the job is another's by now.
        """
        from tasks.ledger.device_lease import read_refusals

        cards_json = json.dumps(
            [{k: v for k, v in dataclasses.asdict(card).items() if v is not None} for card in cards]
        )
        status, _, rest = self._change(
            "lease_device", claim.job.id, claim.token, slots, need or 0, cards_json
        ).partition(" ")
        if status == "leased":
            return next(card for card in cards if card.key == rest)
        return read_refusals(rest)

    def leases(self) -> dict[str, Lease]:
        """The devices that jobs hold, by the jobs' ids."""
        from tasks.ledger.device_lease import read_leases

        return read_leases(self.client.call("HGETALL", self.client.key("devices")))

    def use_device(self, claim: Claim, device: str) -> None:
        """Record a device that needs no lease."""
        self._change("use_device", claim.job.id, claim.token, device)

    def note(self, claim: Claim, sentence: str) -> str:
        """Add a sentence to the history of a running job: "ok" or "lost"."""
        return self._change("note", claim.job.id, claim.token, sentence)

    def finish(
        self, claim: Claim, state: State, reason: str, result: dict | None = None, error: dict | None = None
    ) -> str:
        """End the job: "ok", or "lost" when another worker owns it now.

        For a cancelled job, `reason` is how it ended; the requester is prepended.
        """
        return self._change("finish", claim.job.id, claim.token, state, reason, _json(result), _json(error))

    def put_back(self, claim: Claim, reason: str, *, loss: bool) -> str:
        """Give a running job back to its queue; a `loss` counts against its attempts."""
        return self._change("put_back", claim.job.id, claim.token, reason, "1" if loss else "0")

    def enqueue_again(self, job_id: str) -> None:
        """Enqueue another message for a queued job whose message was taken by a worker that cannot run it."""
        self._change("enqueue", job_id)

    def pass_on(self, job_ids: Sequence[str]) -> None:
        """Put the messages of queued jobs that this worker cannot run at the end of their lists, for other workers."""
        self._change("pass_on", "", json.dumps(job_ids))

    def request_cancel(self, job_id: str, reason: str = "cancelled by the user") -> Job:
        """Cancel a job that has not started at once, and ask a running one's worker to stop it."""
        if self._change("cancel", job_id, reason) == "unknown":
            raise _no_such_job(job_id)
        return self.need(job_id)

    def remove(self, job_id: str) -> str:
        """Forget a job that has ended: "ok", "unknown", or the state of one that has not."""
        return self._change("remove", job_id)

    def check_rights(self) -> None:
        """NotPermitted where this connection's Redis user may submit or read jobs, and no more."""
        self._change("check_rights", "")

    def maintain(self, settings: MaintenanceSettings) -> None:
        """Recover lost jobs, promote starving queues and delete expired records, unless another worker has just done
        so.
        """
        self._change("maintain", "", json.dumps(dataclasses.asdict(settings)))

    def try_write(self) -> None:
        """Write and remove a word as every change is written. Unreachable or Refused where no change is possible."""
        self._change("try_write", "")

    def heartbeat(
        self,
        worker: WorkerHeartbeat,
        holder: dict[str, Any] | None = None,
        field: str | None = None,
        *,
        loop_ran: bool = False,
        maintenance: MaintenanceSettings | None = None,
    ) -> tuple[float, dict[str, Any] | None]:
        """Record that a worker lives, in one round trip: now, unless it says when.

        `field` is that of the hash, if not its name, `loop_ran` whether its message loop has run since the last
        heartbeat. `holder` keeps the name by that, as `take_name` does; nothing is recorded when it is another's. With
        `upkeep` a round of that follows, if due. Returns the server's clock, and who has the name if another has.
        """
        stamped = [name for name, is_now in (("seen_at", not worker.seen_at), ("loop_at", loop_ran)) if is_now]
        line = json.dumps({name: value for name, value in dataclasses.asdict(worker).items() if name not in stamped})
        settings = json.dumps(dataclasses.asdict(maintenance)) if maintenance else ""
        arguments = (field or worker.name, line, _json(holder), HEARTBEAT_TTL_S, settings, *stamped)
        now, _, answer = self._change("heartbeat", worker.name, *arguments).partition(" ")
        return float(now), _holder(answer)

    def take_name(self, worker: str, holder: dict[str, Any], ttl_s: float) -> dict[str, Any] | None:
        """Take a worker's name for so long, or keep it; the one who has it when that is another: see
        tasks.worker.worker_name.

        A holder has a `token` and those of its `predecessors`, whose name it takes over; Redis adds `since`.
        """
        return _holder(self._change("take_name", worker, json.dumps(holder), ttl_s))

    def fleet(self) -> dict[str, Any] | None:
        """What all workers here share; None when nothing is recorded, and {} for a record that cannot be read."""
        return _fleet(self.client.call("GET", self.client.key("fleet")) or "")

    def join_fleet(self, shared: dict[str, Any]) -> dict[str, Any] | None:
        """Record what all workers here share; None where that was not recorded or is the same, else what is."""
        answer = self._change("join_fleet", "", json.dumps(shared, sort_keys=True))
        return None if answer == "ok" else _fleet(answer)

    def forget_fleet(self) -> str:
        """Forget what the workers shared: "ok", or the name of one that lives."""
        return self._change("forget_fleet", "", HEARTBEAT_TTL_S)

    def forget_worker(self, name: str, token: str = "", field: str = "") -> None:
        """A worker has ended in good order; what all share is forgotten with the last one.

        With a `token` the heartbeat and the name of another worker stay; `field` is forgotten in any case.
        """
        self._change("forget_worker", name, token, field)

    # -- reading ------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The server's clock, seconds since the epoch."""
        seconds, micros = self.client.call("TIME")
        return int(seconds) + int(micros) / 1e6

    def get(self, job_id: str) -> Job | None:
        """The record of that job."""
        return self.many([job_id])[0]

    def need(self, job_id: str) -> Job:
        """The record of that job; UserError when there is none."""
        job = self.get(job_id)
        if job is None and self.client.call("EXISTS", self.client.key(f"job:{job_id}")):
            raise UserError(f"The record of job {job_id} cannot be read.", "See: mistudio doctor")
        if job is None:
            raise _no_such_job(job_id)
        return job

    def many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """The records of these jobs, in one round trip."""
        return records(self.client, job_ids)

    def page(self, wanted: Filter | None = None, limit: int = 50, after: str | None = None) -> Page:
        """The newest jobs that are meant, at most `limit`; `after` is the `next` of the page that came earlier."""
        return page(self.client, wanted or Filter(), limit, after)

    def children(self, job_ids: Sequence[str]) -> list[list[Job]]:
        """For each of these jobs those that wait or waited for it, in the order of submission; in two round trips."""
        return children(self.client, job_ids)

    def other_tries(self, job_ids: Sequence[str]) -> list[Job | None]:
        """For each of these jobs the newest that tries it again, whatever became of it; in two round trips."""
        return other_tries(self.client, job_ids)

    def find(self, prefix: str, limit: int = 10) -> list[str]:
        """Ids of jobs that start with `prefix`, at most `limit`."""
        ids = self.client.key("ids")
        return self.client.call("ZRANGEBYLEX", ids, f"[{prefix}", f"[{prefix}\xff", "LIMIT", 0, limit)

    def workers(self, within_s: float = HEARTBEAT_TTL_S) -> list[WorkerHeartbeat]:
        """Workers that have consumed in the last `within_s` seconds, by name."""
        now, heartbeats = self._heartbeats()
        return [heartbeat for heartbeat in heartbeats if abs(now - heartbeat.consumed_at) <= within_s]

    def heartbeats(self, within_s: float = HEARTBEAT_TTL_S) -> list[WorkerHeartbeat]:
        """Heartbeats of the last `within_s` seconds, also of workers that do not consume, by name."""
        now, heartbeats = self._heartbeats()
        return [heartbeat for heartbeat in heartbeats if abs(now - heartbeat.seen_at) <= within_s]

    def _heartbeats(self) -> tuple[int, list[WorkerHeartbeat]]:
        reply, (seconds, _) = self._read([("HGETALL", self.client.key("workers")), ("TIME",)])
        heartbeats = readable(read_heartbeat, pairs(reply).values())
        return int(seconds), sorted(heartbeats, key=lambda heartbeat: heartbeat.name)

    def holders(self) -> list[tuple[str, int]]:
        """Name with host, and pid, of the worker of each running job."""
        ids = self.client.call("ZRANGE", self.client.key(f"by:state:{State.RUNNING}"), 0, -1)
        replies = self._read([("HMGET", self.client.key(f"job:{job_id}"), "worker", "worker_pid") for job_id in ids])
        return readable(lambda held: (held[0], int(held[1] or 0)), [held for held in replies if held[0]])

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Every change of a job's state: at, state, reason, attempt, worker, of a claim its token; oldest first."""
        return self.histories([job_id])[0]

    def histories(self, job_ids: Sequence[str]) -> list[list[dict[str, Any]]]:
        """The events of each of these jobs, in one round trip."""
        replies = self._read([("LRANGE", self.client.key(f"events:{job_id}"), 0, -1) for job_id in job_ids])
        return [readable(read_event, history) for history in replies]

    def series(self, job_ids: Sequence[str]) -> list[list[MetricPoint]]:
        """The metrics that each of these jobs has recorded so far, downsampled, in one round trip.

        Of a job that has ended it is known for a week.
        """
        replies = self._read([("LRANGE", self.client.key(f"series:{job_id}"), 0, -1) for job_id in job_ids])
        return [readable(read_point, series) for series in replies]

    def producer_of(self, artifact: str) -> str | None:
        """The id of the unfinished job that will make "family/name"."""
        return self.client.call("HGET", self.client.key("coming"), artifact)

    def live_jobs(self) -> set[str]:
        """Ids of all jobs that have not ended, and of those whose checkpoint one of them will take over."""
        states = (State.WAITING, State.QUEUED, State.RUNNING)
        commands = [("ZRANGE", self.client.key(f"by:state:{state}"), 0, -1) for state in states]
        return {i for ids in self._read([*commands, ("HKEYS", self.client.key("heirs"))]) for i in ids}

    def awaited_checkpoints(self) -> set[str]:
        """Ids of jobs whose checkpoint one that has not ended will take over."""
        return set(self.client.call("HKEYS", self.client.key("heirs")))

    def _read(self, commands: list[tuple]) -> list[Any]:
        replies = self.client.batch(commands) if commands else []
        for reply in replies:
            if isinstance(reply, Refused):
                raise reply
        return replies

    def _change(self, operation: str, *arguments: object) -> str:
        return lua_script.evaluate(self.client, operation, *arguments)


def new_token() -> str:
    """A fencing token: writes by a previous owner are rejected."""
    return os.urandom(8).hex()


def _outcome(status: str, group: Sequence[Job]) -> UserError | None:
    return None if status in ("ok", f"exists {group[-1].id}") else _refusal(status)


def _refusal(status: str) -> UserError:
    if status.startswith("quota "):
        from tasks.ledger.quotas import over_quota

        _, limit, unstarted, new, owner = status.split(" ", 4)
        return over_quota(owner, int(limit), int(unstarted), int(new))
    if status.startswith("taken "):
        _, artifact, producer = status.split(" ", 2)
        return UserError(
            f"{artifact} is being made by job {producer}.",
            f"Wait for it (mistudio jobs wait {producer}) or give --name",
        )
    return UserError(f"The job was not accepted: {status}.", "See: mistudio jobs ls")


def _no_such_job(job_id: str) -> UserError:
    return UserError(f"There is no job {job_id}.", "See: mistudio jobs ls")


def _holder(answer: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = None if answer == "ok" else json.loads(answer)
    return found


def _fleet(record: str) -> dict[str, Any] | None:
    if not record:
        return None
    try:
        found = json.loads(record)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value)
