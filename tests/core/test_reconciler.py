"""What the reconciler mends, and when it holds back, on a clock of the test's own."""

from __future__ import annotations

import pytest

from tasks import reconciler
from tasks.job import Job, State
from tasks.ledger import LEASE_TTL_S, PREFIX, Ledger
from tasks.reconciler import ROUND_EVERY_S, STANDSTILL_S, Reconciler


class Rounds:
    """A reconciler whose time passes when the test says so, beside a job whose lease has run out."""

    def __init__(self, ledger: Ledger) -> None:
        self.now = 1000.0
        self.ledger = ledger
        self.reconciler = Reconciler(ledger, lambda: self.now)
        ledger.submit(Job("j1", "nap", "n", "training", {}))
        assert ledger.claim("j1", "w@h", "h") is not None
        ledger.client.call("ZADD", f"{PREFIX}leases", 1, "j1")

    def state_after(self, seconds: float) -> State:
        self.now += seconds
        self.ledger.client.call("DEL", reconciler._LOCK)  # it would expire by the server's clock
        self.reconciler.round()
        return self.ledger.need("j1").state


@pytest.fixture
def rounds(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    monkeypatch.setattr(Reconciler, "_server_uptime_s", lambda _: 1e9)
    return Rounds(ledger)


def test_a_job_whose_lease_ran_out_is_put_back_in_the_next_round(rounds: Rounds) -> None:
    assert rounds.state_after(ROUND_EVERY_S) is State.QUEUED


def test_after_a_standstill_holders_of_leases_come_first(rounds: Rounds) -> None:
    assert rounds.state_after(STANDSTILL_S + 1) is State.RUNNING
    for _ in range(int(LEASE_TTL_S / ROUND_EVERY_S)):
        assert rounds.state_after(ROUND_EVERY_S) is State.RUNNING
    assert rounds.state_after(ROUND_EVERY_S) is State.QUEUED


def test_two_standstills_give_time_twice(rounds: Rounds) -> None:
    assert rounds.state_after(STANDSTILL_S + 1) is State.RUNNING
    assert rounds.state_after(LEASE_TTL_S) is State.RUNNING
    assert rounds.state_after(ROUND_EVERY_S) is State.RUNNING
