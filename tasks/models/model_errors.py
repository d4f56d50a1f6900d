"""What libraries raise about a model, as one sentence in the user's words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import UserError
from tasks.text.dataset_hub import hub_errors

_LONGEST = 300
#: What is in the words of those who get no memory: CUDA, the system, torch.
_OF_A_GPU = "CUDA out of memory"
_NO_MEMORY = ("out of memory", "allocate memory", "Storage size calculation")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """UserError in place of whatever a library raises inside; `what` begins its sentence.

    Config files and weights of others lead transformers, tokenizers and safetensors to raise nearly any exception.
    A full disk and a full GPU pass: a job has words of its own for those.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{what}: {_first_sentence(error)}.", "Install it where the workers run") from error
    except RecursionError as error:
        raise UserError(f"{what}: it is nested too deep.") from error
    except Exception as error:
        if _is_full_disk(error) or _OF_A_GPU in str(error):
            raise
        if isinstance(error, MemoryError) or any(word in str(error) for word in _NO_MEMORY):
            raise UserError(f"{what}: there is not enough memory for it.", "Run it where there is more") from error
        raise UserError(f"{what}: {_reason(error)}") from error


@contextmanager
def hub_translated(reference: str) -> Iterator[None]:
    """The same for what the Hub's client raises about a model."""
    from huggingface_hub import errors

    with translated(f"The model {reference} cannot be fetched"), hub_errors("model", reference):
        try:
            yield
        except errors.RevisionNotFoundError as error:
            raise UserError(f"The Hub's {reference.replace('@', ' has no revision ')}.", "Check it there") from error
        except errors.LocalEntryNotFoundError as error:
            if isinstance(error.__cause__, errors.HfHubHTTPError):  # it was reached, and refused
                raise error.__cause__ from None
            raise UserError(
                f"{reference} is not on this machine and the Hub cannot be reached.",
                "Check the network, or give the path of a local model folder",
            ) from error


def _first_sentence(error: BaseException) -> str:
    """Of an exception's words, such as those of transformers on a package that is missing."""
    return _one_line(error).partition(". ")[0].rstrip(".")


def _is_full_disk(error: Exception) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)


def _reason(error: Exception) -> str:
    """The exception's own words on one line; its type where those alone say little, as a KeyError's."""
    words = _one_line(error)
    says_little = isinstance(error, LookupError | AttributeError | TypeError | ArithmeticError | AssertionError)
    reason = f"{type(error).__name__}: {words}" if says_little or not words else words
    return reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} …"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
