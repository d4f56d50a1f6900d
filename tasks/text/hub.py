"""Documents from the Hugging Face Hub, streamed; the only place where the Hub's errors become sentences.

A token is taken by the client from the worker's own environment (HF_TOKEN), never from a parameter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.problem import Problem
from tasks.text.reading import Tally, text_batches

if TYPE_CHECKING:
    import pyarrow as pa

_TIMEOUT_S = 10
_TOKEN = "Set HF_TOKEN in the environment in which the workers start"  # noqa: S105 - a hint, not a token


def read_hub(dataset: str, config: str | None, split: str, column: str, tally: Tally) -> Iterator[pa.Array]:
    """Arrays of the documents of a dataset on the Hub, streamed: nothing but the result is kept on disk.

    Raises Problem when the Hub cannot be reached, has no such dataset, configuration, split or column, or refuses.
    """
    # Read by the client when it is first imported: an unreachable Hub is said after seconds, not after minutes.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT_S))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(_TIMEOUT_S))
    from datasets import load_dataset
    from huggingface_hub import HfApi

    with hub_errors("dataset", dataset):
        # One plain request first: the client's own search for the dataset retries for half a minute without a word.
        HfApi().dataset_info(dataset, timeout=_TIMEOUT_S)
        try:
            rows = load_dataset(dataset, name=config, split=split, streaming=True)
        except ValueError as error:  # an unknown configuration or split, said by name in the message
            raise Problem(
                f"{dataset} cannot be read: {' '.join(str(error).split())}", "See --config and --split"
            ) from (error)
        yield from text_batches(rows, column, tally)


@contextmanager
def hub_errors(what: str, name: str) -> Iterator[None]:
    """Turn the Hub client's errors about the `what` (dataset or model) of that name into Problems."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise Problem(
            f"The {what} {name} is gated: accept its terms at huggingface.co first.", f"Then: {_TOKEN}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise Problem(
            f"The Hub has no {what} {name} (and there is no such file here), or it is private.",
            f"Check the spelling; for a private one: {_TOKEN}",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise Problem(f"HF_HUB_OFFLINE is set, so {name} is not fetched.", "Unset it, or give a local path") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise Problem(f"The Hub answered {status} when asked for {name}.", "Try again later") from error
    except (errors.HTTPError, ConnectionError, TimeoutError) as error:
        raise Problem(
            f"The Hugging Face Hub cannot be reached for the {what} {name}: {error}.",
            "Check the network, or give a local path",
        ) from error
