"""What can be changed from the screen: each asks first, does what its command does, and says the outcome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mistudio_cli.jobs import job_actions, waiting
from mistudio_cli.terminal import output
from mistudio_cli.top.view import Question
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.queues import HIGHEST_PRIORITY, LOWEST_PRIORITY

#: Opens a connection of the action's own; True for changes that last, as commands open it for these.
Connect = Callable[[bool], Ledger]


class Refused(Exception):
    """Why a key does nothing for that row."""


class Actions:
    """The changes, on a ledger that is connected to again for each."""

    def __init__(self, connect: Connect, store: Path) -> None:
        self._connect, self._store = connect, store

    def cancel(self, job: Job) -> Question:
        """As `jobs cancel --no-wait`. Refused for a job that has ended."""
        if job.state.ended:
            raise Refused(f"{job.id} has ended: {job.state}")
        return Question(f"Cancel {_named(job)}?", lambda: self._run(lambda ledger: self._cancel(ledger, job)))

    def retry(self, job: Job) -> Question:
        """As `jobs retry`. Refused for a job that has not ended."""
        if not job.state.ended:
            raise Refused(f"{job.id} is {job.state}: it has not ended")
        return Question(f"Retry {_named(job)}?", lambda: self._run(lambda ledger: self._retry(ledger, job), lasts=True))

    def change_priority(self, job: Job, by: int) -> Question:
        """As `jobs set-priority`. Refused for a job that has started, and beyond the ends of the scale."""
        if job.state not in (State.QUEUED, State.WAITING):
            raise Refused(f"{job.id} is {job.state}: only a job that has not started has a priority to change")
        priority = job.priority + by
        if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
            raise Refused(f"{job.id} has priority {job.priority} already, on a scale from 0 to 10")
        text = f"Priority {priority} instead of {job.priority} for {_named(job)}?"
        return Question(text, lambda: self._run(lambda ledger: job_actions.set_priority(ledger, job, priority)))

    def pause_or_resume(self, queue: str, *, is_paused: bool) -> Question:
        """As `queue pause` and `queue resume`."""
        change = job_actions.resume_queue if is_paused else job_actions.pause_queue
        verb = "Resume" if is_paused else "Pause"
        return Question(f"{verb} queue {queue}?", lambda: self._run(lambda ledger: change(ledger, queue), lasts=True))

    def _run(self, change: Callable[[Ledger], str], *, lasts: bool = False) -> str:
        """Make a change in a thread that owns no terminal; what it says and how it fails is the outcome."""
        from mistudio_cli.error_messages import explain

        with output.capture_talk() as said:
            try:
                ledger = self._connect(lasts)
                try:
                    said.append(change(ledger))
                finally:
                    ledger.close()
            except Exception as error:  # noqa: BLE001 - said on the screen, as the command would
                said.append(explain(error).sentence)
        return output.suggested(" ".join(filter(None, said)))

    @staticmethod
    def _cancel(ledger: Ledger, job: Job) -> str:
        waiting.ask_to_cancel(ledger, ledger.need(job.id))
        return ""

    def _retry(self, ledger: Ledger, job: Job) -> str:
        from mistudio_cli.fleet import replication
        from mistudio_cli.submission import retrying

        begun = retrying.try_again(ledger, self._store, [ledger.need(job.id)], from_checkpoint=None)
        replication.warn_if_unreplicated(ledger, begun.jobs)
        return "; ".join(job_actions.describe_retries(begun))


def _named(job: Job) -> str:
    return f"{job.id} ({job.kind} {job.name})"
