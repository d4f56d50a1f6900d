"""What was lost between a queue and the ledger is recovered by whoever looks next, and what is old is removed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.maintenance import MaintenanceSettings, maintenance_from_environment
from tasks.queues import redis_lists

NOW = MaintenanceSettings(every_s=0)


def submitted(ledger: Ledger, **changes: Any) -> Job:
    return ledger.submit(Job(new_job_id(), "train", "a", "training", {}, **changes))


def ended(ledger: Ledger, age_s: float = 0.0) -> str:
    job = submitted(ledger)
    ledger.request_cancel(job.id)
    ledger.client.call("ZADD", "mistudio:ended", ledger.now() - age_s, job.id)
    return job.id


def age_message(ledger: Ledger, job: Job, age_s: float) -> None:
    ledger.client.call("HSET", f"mistudio:job:{job.id}", "rung_at", ledger.now() - age_s)


def test_a_lost_message_is_enqueued_again_once_it_cannot_be_in_transit_any_more(ledger: Ledger) -> None:
    job, patient = submitted(ledger), dataclasses.replace(NOW, message_patience_s=300)
    ledger.client.call("DEL", *redis_lists("training"))
    ledger.maintain(patient)
    assert ledger.queues.messages("training") == 0
    age_message(ledger, job, 301)
    ledger.maintain(patient)
    ledger.maintain(patient)
    assert ledger.queues.messages("training") == 1


def test_of_many_lost_messages_those_served_first_are_enqueued_first(ledger: Ledger) -> None:
    jobs = [submitted(ledger, priority=priority) for priority in (1, 9, 5)]
    ledger.client.call("DEL", *redis_lists("training"))
    [age_message(ledger, job, 6) for job in jobs]
    ledger.maintain(dataclasses.replace(NOW, most_messages=2))
    assert [ledger.client.call("LLEN", name) for name in redis_lists("training")] == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_two_who_look_at_once_recover_once(ledger: Ledger) -> None:
    patient = MaintenanceSettings(every_s=100)
    ledger.maintain(patient)
    job = submitted(ledger)
    ledger.client.call("DEL", *redis_lists("training"))
    age_message(ledger, job, 6)
    ledger.maintain(patient)
    assert ledger.queues.messages("training") == 0
    ledger.client.call("SET", "mistudio:upkeep_at", ledger.now() + 3600)  # the clock was set back by an hour
    ledger.maintain(patient)
    assert ledger.queues.messages("training") == 1


def test_a_message_that_died_with_its_worker_is_forgotten_and_a_foreign_message_is_not(ledger: Ledger) -> None:
    job = submitted(ledger)
    ours = ledger.client.call("RPOP", redis_lists("training")[4])
    theirs = json.dumps({"headers": {"origin": "gen1@elsewhere", "id": "x"}, "properties": {}})
    for tag, message in (("ours", ours), ("theirs", theirs), ("torn", "{")):
        ledger.client.call("HSET", "unacked", tag, f'[{message}, "mistudio", "training"]')
        ledger.client.call("ZADD", "unacked_index", ledger.now() - 61, tag)
    age_message(ledger, job, 61)
    ledger.maintain(NOW)
    assert set(ledger.client.call("HKEYS", "unacked")) == {"theirs", "torn"}
    assert ledger.queues.messages("training") == 1


def test_what_ended_long_ago_or_is_too_much_is_removed_the_oldest_first(ledger: Ledger) -> None:
    old, older, young, live = ended(ledger, 300), ended(ledger, 200), ended(ledger, 10), submitted(ledger).id
    ledger.maintain(dataclasses.replace(NOW, keep_s=250))
    assert [ledger.get(job) is None for job in (old, older, young, live)] == [True, False, False, False]
    ledger.maintain(dataclasses.replace(NOW, keep_jobs=1))
    assert [ledger.get(job) is None for job in (older, young, live)] == [True, False, False]
    assert ledger.need(live).state is State.QUEUED


def test_how_long_jobs_are_kept_is_said_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_KEEP_JOBS_DAYS", "0.5")
    monkeypatch.setenv("MISTUDIO_SERVED_WITHIN_S", "30")
    assert (maintenance_from_environment().keep_s, maintenance_from_environment().served_within_s) == (43200, 30)
    monkeypatch.setenv("MISTUDIO_KEEP_JOBS", "many")
    with pytest.raises(UserError, match="MISTUDIO_KEEP_JOBS is 'many'"):
        maintenance_from_environment()
