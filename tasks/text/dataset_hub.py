"""Documents from the Hugging Face Hub, streamed; turns the Hub's errors into sentences.

A token is taken by the client from the worker's own environment (HF_TOKEN), never from a parameter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import UserError
from tasks.jobs.kind import Stopped
from tasks.text.files.readers import text_batches
from tasks.text.files.skipped_counts import SkippedCounts

if TYPE_CHECKING:
    import pyarrow as pa

_TIMEOUT_S = 10
#: The builders of `datasets` whose files are texts or tables; others decode pickles, images or programs' own formats.
_FORMS = frozenset({"arrow", "csv", "json", "parquet", "text"})
#: Characters of a library's message that are passed on.
_REASON = 200
_TOKEN = "Set HF_TOKEN in the environment in which the workers start"  # noqa: S105 - a hint, not a token


@dataclass(frozen=True)
class HubData:
    """A split of a dataset on the Hub, at a branch, tag or commit; None is the main branch."""

    dataset: str
    config: str | None
    split: str
    revision: str | None = None


def read_hub(wanted: HubData, column: str, counts: SkippedCounts) -> Iterator[pa.Array]:
    """Arrays of the documents of a dataset on the Hub, streamed: nothing but the result is kept on disk.

    `counts.commit` becomes the commit that is read. Raises UserError when the Hub cannot be reached, has no such
    dataset, revision, configuration, split or column, or refuses.
    """
    # Read by the client when it is first imported: an unreachable Hub is said after seconds, not after minutes.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT_S))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(_TIMEOUT_S))
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    dataset = wanted.dataset
    with hub_errors("dataset", dataset):
        # One plain request first: the client's own search for the dataset retries for half a minute without a word.
        info = HfApi().dataset_info(dataset, revision=wanted.revision, timeout=_TIMEOUT_S)
        if info.gated:  # everyone may know what it is; whether its files may be read is asked for
            HfApi().auth_check(dataset, repo_type="dataset")
        counts.commit = info.sha
        try:
            builder = load_dataset_builder(dataset, name=wanted.config, revision=counts.commit)
            _refuse_form(type(builder).__module__.rpartition(".")[2], dataset)
            rows = builder.as_streaming_dataset(split=wanted.split)
        except ValueError as error:  # an unknown configuration or split, said by name in the message
            raise UserError(
                f"{dataset} cannot be read: {' '.join(str(error).split())}", "See --config and --split"
            ) from (error)
        yield from text_batches(rows, column, counts)


def _refuse_form(form: str, dataset: str) -> None:
    """UserError for files that are no texts or tables: archives of WebDataset may hold pickles, which are decoded."""
    if form not in _FORMS:
        raise UserError(
            f"{dataset} has files in the form {form}, which is not read; read are {', '.join(sorted(_FORMS))}.",
            "Choose another dataset, or convert it",
        )


@contextmanager
def hub_errors(what: str, name: str) -> Iterator[None]:
    """Turn the Hub client's errors about the `what` (dataset or model) of that name into Problems.

    Other libraries wrap them in errors of their own; then the Hub's is the one that says why.
    """
    from huggingface_hub import errors

    try:
        yield
    except (UserError, Stopped):
        raise
    except Exception as error:
        said = next((cause for cause in _causes(error) if isinstance(cause, errors.HTTPError)), error)
        raise _problem_of(said, what, name) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _problem_of(error: BaseException, what: str, name: str) -> UserError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return UserError(f"The {what} {name} is gated: accept its terms at huggingface.co first.", f"Then: {_TOKEN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"The {what} {name} has no such revision.", "Check --revision")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"The Hub has no {what} {name} (and there is no such file here), or it is private.",
            f"Check the spelling; for a private one: {_TOKEN}",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UserError(f"HF_HUB_OFFLINE is set, so {name} is not fetched.", "Unset it, or give a local path")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code if error.response is not None else "an error"
        return UserError(f"The Hub answered {status} when asked for {name}.", "Try again later")
    if isinstance(error, errors.HTTPError | ConnectionError | TimeoutError):
        return UserError(
            f"The Hugging Face Hub cannot be reached for the {what} {name}: {error}.",
            "Check the network, or give a local path",
        )
    reason = (" ".join(str(error).split()) or type(error).__name__)[:_REASON]
    return UserError(f"The {what} {name} cannot be read: {reason}", "Download its files and give their path")
