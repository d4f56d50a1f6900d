"""`mistudio quickstart`: a trained sparse autoencoder and its features in a few minutes, with nothing given."""

from __future__ import annotations

import typer

from mistudio_cli import session
from mistudio_cli.errors import Code
from mistudio_cli.terminal import output
from tasks.jobs.record import Job, State

app = typer.Typer(help="Train a small SAE and show its features in a few minutes")


@app.command()
def quickstart() -> None:
    """Train a toy model and a sparse autoencoder on it, and show its features. Takes a few minutes on two cores.

    The corpus is the source text of Python's standard library on this machine. Everything goes through the ordinary
    queues and workers; what is in the store already is used again. Ctrl-C ends it and leaves no process behind.
    """
    from mistudio_cli.submission import quickstart_pipeline, quickstart_view
    from tasks.storage.store import Store

    settings = session.current_settings()
    store = Store(settings.places.store)
    if all(store.exists(step.family, step.name) for step in quickstart_pipeline.steps()):
        output.talk("Everything was there already. To start over, give --home another folder.")
    else:
        with quickstart_pipeline.ledger_for(settings) as ledger:
            quickstart_pipeline.check_rights(ledger)
            jobs = quickstart_pipeline.submit_missing(ledger, store)
            under_way = [job for job in jobs.values() if job is not None]
            with quickstart_pipeline.workers_for(settings, ledger, under_way):
                ended = quickstart_view.follow_steps(ledger, quickstart_pipeline.steps(), jobs)
        if failed := [job for job in ended if job.state is not State.SUCCEEDED]:
            _print_failure(failed[0])
            raise typer.Exit(int(Code.FAILED))
    *_, train, extract = quickstart_pipeline.steps()
    features = store.manifest(extract.family, extract.name)["result"]
    quickstart_view.print_numbers(store.manifest(train.family, train.name)["result"], features)
    quickstart_view.print_features(features)
    output.data(f"\nAll features on one page:\n  {store.path(extract.family, extract.name) / features['page']}")
    output.data(output.suggested(_NEXT))


_NEXT = """
With a model and data of your own:
  mistudio workers start full
  mistudio submit train --model MODEL --dataset DATASET --layer 6 --arch topk --k 32
  mistudio queue ls
  mistudio top"""


def _print_failure(job: Job) -> None:
    reason = job.error["message"] if job.error else job.reason
    output.talk(f"The job {job.kind} {job.state}: {reason}")
    output.talk(f"  See: mistudio jobs show {job.id}, mistudio jobs logs {job.id}")
