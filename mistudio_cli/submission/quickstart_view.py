"""What the quickstart shows: the steps while they run, and at the end the numbers and the features."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mistudio_cli.jobs import waiting
from mistudio_cli.submission.quickstart_pipeline import QuickstartStep
from mistudio_cli.terminal import humanize, output
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.parsing.safe_text import visible

#: Without a terminal a running step says how far it is this often.
SAY_EVERY_S = 15.0

_MARK = "\x1b[30;48;5;{shade}m{text}\x1b[0m"
#: From faint to full orange on 256 colours, by share of the feature's strongest activation.
_SHADES = (230, 223, 216, 209, 202)


def follow_steps(ledger: Ledger, steps: Sequence[QuickstartStep], jobs: Mapping[str, Job | None]) -> list[Job]:
    """Show the steps until all have ended; returns the records of those that ran."""
    running = [job for job in jobs.values() if job is not None]
    if output.in_colour(sys.stderr):
        return _follow_live(ledger, steps, jobs, running)
    return _follow_lines(ledger, steps, jobs, running)


def _follow_live(
    ledger: Ledger, steps: Sequence[QuickstartStep], jobs: Mapping[str, Job | None], running: Sequence[Job]
) -> list[Job]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    latest = list(running)
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        for latest in waiting.watch(ledger, [job.id for job in running]):
            rows = _rows(ledger, steps, jobs, latest)
            live.update(Text("\n".join(rows), no_wrap=True, overflow="ellipsis"), refresh=True)
    return latest


def _follow_lines(
    ledger: Ledger, steps: Sequence[QuickstartStep], jobs: Mapping[str, Job | None], running: Sequence[Job]
) -> list[Job]:
    said: dict[str, tuple[str, float]] = {}
    latest = list(running)
    for latest in waiting.watch(ledger, [job.id for job in running]):
        by_id = {job.id: job for job in latest}
        for step in steps:
            first = jobs[step.title]
            job = by_id[first.id] if first else None
            state = str(job.state) if job else "there already"
            was, at = said.get(step.title, ("", 0.0))
            due = job is not None and job.state is State.RUNNING and time.monotonic() - at > SAY_EVERY_S
            if state != was or due:
                said[step.title] = (state, time.monotonic())
                output.talk(_row(ledger, step, job))
    return latest


def _rows(
    ledger: Ledger, steps: Sequence[QuickstartStep], jobs: Mapping[str, Job | None], latest: Sequence[Job]
) -> list[str]:
    by_id = {job.id: job for job in latest}
    now = ledger.now()
    return [_row(ledger, step, by_id[job.id] if (job := jobs[step.title]) else None, now) for step in steps]


def _row(ledger: Ledger, step: QuickstartStep, job: Job | None, now: float | None = None) -> str:
    if job is None:
        return f"{step.title:<27} there already: {step.family}/{step.name}"
    took = humanize.took(job, ledger.now() if now is None else now)
    note = "" if job.state in (State.WAITING, State.QUEUED) else humanize.note(job)
    return f"{step.title:<27} {job.state:<10} {took:>6}  {note}"


def print_numbers(sae: dict[str, Any], features: dict[str, Any]) -> None:
    """The numbers of the SAE, each beside what it has to be compared with."""
    dead = sae.get("dead_fraction", sae.get("dead_share"))  # an SAE made earlier has the latter, and no MSE
    mse = f"{sae['mse']:.4g}" if "mse" in sae else "n/a"
    rows = [
        ["MSE", mse, "squared error of a held-out token, over all dimensions"],
        ["L0", f"{sae['l0']:.1f}", "features active on a token"],
        ["explained variance", f"{sae['explained_variance']:.3f}", "on held-out tokens, as the two below"],
        ["  PCA", f"{sae['pca_explained_variance']:.3f}", "with as many components as the L0"],
        ["  random dictionary", f"{sae['random_explained_variance']:.3f}", "of the same size and L0"],
        ["dead features", f"{dead:.1%}", f"of {sae['d_sae']}: active on no held-out token"],
        ["tokens/s", _number(sae["tokens_per_s"]), "while training, the model's forward pass included"],
        ["patterned share", f"{features['patterned_share']:.2f}", f"of {features['live']} live features: see below"],
    ]
    output.data("")
    output.table(["WHAT", "VALUE", "MEANING"], rows, wrap=True)


def print_features(features: dict[str, Any]) -> None:
    """Print the most interpretable features with their strongest contexts."""
    output.data("\nThe most interpretable features; a context's strongest token is what the feature fires on:")
    for feature in features["telling"]:
        where = "on" if feature["where"] == "at" else "after"
        output.data(
            f"\n  feature {feature['feature']}: {where} {feature['token']!r}, on {feature['density']:.2%} of tokens"
        )
        for context in feature["contexts"]:
            output.styled("    " + _context(context, feature["max_activation"]))


def _context(context: Sequence[tuple[str, float]], strongest: float) -> str:
    peak = max(range(len(context)), key=lambda at: context[at][1])
    colour = output.in_colour(sys.stdout)
    parts = []
    for at, (token, activation) in enumerate(context):
        text = visible(token.replace("\n", "⏎").replace("\t", "⇥"))
        if colour and activation > 0:
            shade = _SHADES[min(len(_SHADES) - 1, int(activation / strongest * len(_SHADES)))]
            text = _MARK.format(shade=shade, text=text)
        elif at == peak:
            text = f"«{text}»"
        parts.append(text)
    return "".join(parts)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}"
