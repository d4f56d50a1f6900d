"""Leases on devices: who gets a card, who waits and why, and that a lease ends with its job however it ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tasks.errors import UserError
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, Progress, State
from tasks.ledger.client import Claim, Ledger
from tasks.ledger.device_lease import Card, Lease, LeaseRefusal, explain, read_gpu_option
from tests.fixtures.lost_jobs import recover_lost

GB = 10**9


@pytest.fixture
def claims(ledger: Ledger) -> Iterator[Claim]:
    """Running jobs, as many as asked for."""

    def claimed() -> Iterator[Claim]:
        for number in itertools.count():
            job = ledger.submit(Job(new_job_id(), "train", f"a{number}", "training", {}))
            claim = ledger.claim(job.id, f"w@h{number}", f"h{number}")
            assert claim is not None
            yield claim

    return claimed()


def card(index: int, used: int | None = None, total: int | None = 24 * GB) -> Card:
    return Card(f"GPU-{index}", f"cuda:{index}", None if used is None else total, used)


def test_two_jobs_never_hold_one_card_and_a_card_comes_back_with_its_job(
    ledger: Ledger, claims: Iterator[Claim]
) -> None:
    first, second, third = (next(claims) for _ in range(3))
    cards = [card(1), card(0)]
    assert ledger.lease_device(first, cards, 1) == card(1)
    assert ledger.lease_device(second, cards, 1) == card(0)
    assert ledger.lease_device(third, cards, 1) == [
        LeaseRefusal("cuda:1", (first.job.name,)),
        LeaseRefusal("cuda:0", (second.job.name,)),
    ]
    ledger.put_back(first, "shutdown", loss=False)
    assert ledger.lease_device(third, cards, 1) == card(1)
    assert ledger.need(third.job.id).device == "cuda:1"


def test_hosts_that_see_one_card_share_one_count(ledger: Ledger, claims: Iterator[Claim]) -> None:
    here, elsewhere = next(claims), next(claims)
    assert here.job.worker != elsewhere.job.worker
    assert ledger.lease_device(here, [Card("GPU-x", "cuda:0")], 1) == Card("GPU-x", "cuda:0")
    refused = ledger.lease_device(elsewhere, [Card("GPU-x", "cuda:3")], 1)
    assert refused == [LeaseRefusal("cuda:3", (here.job.name,))]


def test_jobs_spread_over_cards_before_they_share_one(ledger: Ledger, claims: Iterator[Claim]) -> None:
    cards = [card(0, used=0), card(1, used=9 * GB)]
    taken = [ledger.lease_device(next(claims), cards, 2) for _ in range(5)]
    assert [one.name for one in taken[:4] if isinstance(one, Card)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert isinstance(taken[4], list)


def test_what_a_leased_job_is_expected_to_hold_is_not_given_away_before_it_holds_it(
    ledger: Ledger, claims: Iterator[Claim]
) -> None:
    first, second = next(claims), next(claims)
    idle = card(0, used=2 * GB)
    assert ledger.lease_device(first, [idle], 4, 12 * GB) == idle
    assert ledger.leases() == {first.job.id: Lease("GPU-0", 12 * GB)}
    assert ledger.lease_device(second, [idle], 4, 11 * GB) == [LeaseRefusal("cuda:0", (), 10 * GB)]
    assert ledger.lease_device(second, [idle], 4, 10 * GB) == idle


def test_memory_that_a_leased_job_has_taken_is_not_counted_twice(ledger: Ledger, claims: Iterator[Claim]) -> None:
    ledger.lease_device(next(claims), [card(0, used=2 * GB)], 4, 12 * GB)
    grown = card(0, used=14 * GB)
    assert ledger.lease_device(next(claims), [grown], 4, 10 * GB) == grown


def test_memory_that_a_leased_job_takes_beyond_its_estimate_counts(ledger: Ledger, claims: Iterator[Claim]) -> None:
    ledger.lease_device(next(claims), [card(0, used=2 * GB)], 4, 12 * GB)
    assert ledger.lease_device(next(claims), [card(0, used=20 * GB)], 4, 5 * GB) == [LeaseRefusal("cuda:0", (), 4 * GB)]


def test_memory_that_others_gave_back_is_free_again(ledger: Ledger, claims: Iterator[Claim]) -> None:
    ledger.lease_device(next(claims), [card(0, used=10 * GB)], 4, 4 * GB)
    free = card(0, used=4 * GB)  # the others have gone, the job has taken its own
    assert ledger.lease_device(next(claims), [free], 4, 16 * GB) == free


def test_a_card_that_others_fill_is_leased_to_nobody(ledger: Ledger, claims: Iterator[Claim]) -> None:
    assert ledger.lease_device(next(claims), [card(0, used=24 * GB)], 1) == [LeaseRefusal("cuda:0")]


def test_a_card_whose_memory_cannot_be_read_is_leased_by_slots_alone(ledger: Ledger, claims: Iterator[Claim]) -> None:
    assert ledger.lease_device(next(claims), [card(0)], 1, 99 * GB) == card(0)
    assert isinstance(ledger.lease_device(next(claims), [card(0)], 1, 1), list)


def test_a_job_that_seems_larger_than_any_card_gets_one_that_is_nearly_empty(
    ledger: Ledger, claims: Iterator[Claim]
) -> None:
    large = next(claims)
    assert ledger.lease_device(large, [card(0, used=5 * GB)], 2, 40 * GB) == [LeaseRefusal("cuda:0", (), 19 * GB)]
    assert ledger.lease_device(large, [card(0, used=4 * GB)], 2, 40 * GB) == card(0, used=4 * GB)
    assert ledger.lease_device(next(claims), [card(0, used=4 * GB)], 2) == [LeaseRefusal("cuda:0")]


@pytest.mark.parametrize("end", ["finish", "put back", "cancel", "reap"])
def test_a_lease_ends_with_its_job(ledger: Ledger, claims: Iterator[Claim], end: str) -> None:
    claim = next(claims)
    ledger.lease_device(claim, [card(0)], 1)
    if end == "finish":
        ledger.finish(claim, State.FAILED, "broke")
    elif end == "put back":
        ledger.put_back(claim, "its process died", loss=True)
    else:
        ledger.client.call("ZADD", "mistudio:leases", 1, claim.job.id)
        recover_lost(ledger) if end == "reap" else ledger.request_cancel(claim.job.id)
    assert ledger.need(claim.job.id).state is not State.RUNNING
    assert ledger.leases() == {}
    assert ledger.lease_device(claim, [card(0)], 1) == [], "who is not the job's holder gets nothing"
    assert ledger.lease_device(next(claims), [card(0)], 1) == card(0)


def test_with_its_device_a_job_no_longer_waits(ledger: Ledger, claims: Iterator[Claim]) -> None:
    for claim, take in (
        (next(claims), lambda c: ledger.lease_device(c, [card(0)], 1)),
        (next(claims), lambda c: ledger.use_device(c, "cpu")),
    ):
        ledger.report(claim, Progress("waiting for a GPU: cuda:0 is held by job X", 0, None, ""))
        take(claim)
        assert ledger.need(claim.job.id).progress is None


@pytest.mark.parametrize(
    ("refusals", "need", "result"),
    [
        ([LeaseRefusal("cuda:0", ("a",))], None, "cuda:0 is held by job a"),
        ([LeaseRefusal("cuda:0", ("a", "b", "c"))], None, "cuda:0 is held by jobs a, b and c"),
        ([LeaseRefusal("cuda:0", room=9 * GB)], 12 * GB, "needs 12 GB, 9 are free on cuda:0"),
        ([LeaseRefusal("cuda:0")], None, "needs free memory, 0 are free on cuda:0"),
        (
            [LeaseRefusal("cuda:0", room=9 * GB), LeaseRefusal("cuda:1", room=GB // 2), LeaseRefusal("cuda:2", ("a",))],
            12_340_000_000,
            "needs 12.3 GB, 9 are free on cuda:0, 0.5 are free on cuda:1; cuda:2 is held by job a",
        ),
    ],
)
def test_why_a_job_waits_is_said_in_words(refusals: list[LeaseRefusal], need: int | None, result: str) -> None:
    assert explain(refusals, need) == result


def test_a_gpu_option_is_any_none_or_indices() -> None:
    assert [read_gpu_option(word) for word in ("any", "none", "1", "0, 2,0")] == [None, (), (1,), (0, 2)]
    for word in ("", "cuda:0", "0,", "-1", "none,1", "²"):
        with pytest.raises(UserError, match="is neither any nor none nor indices"):
            read_gpu_option(word)
