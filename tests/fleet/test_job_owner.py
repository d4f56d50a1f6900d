"""Who owns a job: the Redis user, else the name that was given, else the OS user; old records have no owner."""

from __future__ import annotations

import os
import pwd
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.fleet.job_owner import os_user, owner_of
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.redis_client.redis_url import Address, parse_url


def submitted(ledger: Ledger, **changes: Any) -> Job:
    return ledger.submit(Job(new_job_id(), "train", "a", "training", {}, **changes))


def test_the_redis_user_owns_a_job_before_a_given_name_and_that_before_the_os_user() -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    alice = parse_url("redis://alice:secret@localhost:6379/0")
    assert (owner_of(alice), owner_of(alice, "alice")) == ("alice", "alice")
    for anonymous in (Address(), parse_url("redis://default:secret@localhost/0"), parse_url("redis://:p@localhost/0")):
        assert (owner_of(anonymous), owner_of(anonymous, "bob")) == (me, "bob")


def test_a_redis_user_cannot_submit_as_another_owner() -> None:
    with pytest.raises(UserError, match="The Redis user alice cannot submit jobs of another owner, bob") as caught:
        owner_of(parse_url("redis://alice:secret@localhost:6379/0"), "bob")
    assert "Leave out --owner" in caught.value.hint


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a:b", "*", "a\n", "\x1b[31m", "x" * 101])
def test_what_cannot_be_an_owner_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot be an owner"):
        owner_of(Address(), name)


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999)
    assert os_user() == "uid-3999999"


def test_jobs_are_listed_by_owner_and_one_without_an_owner_stays_readable(ledger: Ledger) -> None:
    hers, his, old = submitted(ledger, owner="alice"), submitted(ledger, owner="bob"), submitted(ledger)
    assert ledger.need(hers.id).owner == "alice"
    assert ledger.need(old.id).owner is None
    assert [job.id for job in ledger.page(Filter(owner="alice")).jobs] == [hers.id]
    assert [job.id for job in ledger.page(Filter(owner=("alice", "bob"))).jobs] == [his.id, hers.id]
    for job in (hers, his):
        ledger.request_cancel(job.id)
        ledger.remove(job.id)
    assert ledger.client.call("KEYS", "mistudio:by:owner:*") == []
