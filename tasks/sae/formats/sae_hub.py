"""SAEs on the Hugging Face Hub: downloads and uploads them.

A token is taken by the client from the worker's own environment (HF_TOKEN, HF_TOKEN_PATH), never from a parameter.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import UserError
from tasks.parsing.tensor_files import shown
from tasks.paths import replace_text
from tasks.text.dataset_hub import hub_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_S = "10"
_FEW = 5


def fetch(
    repo: str, path: str | None, revision: str | None, folder: Path, report: Callable[[int, int], None]
) -> tuple[str, str]:
    """Bring the SAE at `path` of a repository, or its only one, into `folder`, where what is there already stays.

    Returns the SAE's folder within it, and the commit that its files are of, which an earlier attempt may have chosen;
    `report` receives how many of the files are there. Raises UserError when the Hub cannot be reached or refuses, and
    when there is no such SAE or more than one.
    """
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", _TIMEOUT_S)
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", _TIMEOUT_S)
    from huggingface_hub import HfApi, hf_hub_download

    with hub_errors("SAE", repo), _fetching(repo, revision):
        commit = _chosen_before(folder) or str(HfApi().model_info(repo, revision=revision).sha)
        replace_text(_note_of(folder), commit)
        files = HfApi().list_repo_files(repo, revision=commit)
        where = _choose(files, path, repo)
        wanted = [file for file in files if _is_needed(file, where)]
        for done, file in enumerate(wanted):
            report(done, len(wanted))
            hf_hub_download(repo, file, revision=commit, local_dir=folder)
    return where, commit


def _note_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.commit")


def _chosen_before(folder: Path) -> str | None:
    """The commit that an earlier attempt began to fetch; its files and those of another would be no SAE together."""
    try:
        return _note_of(folder).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@contextmanager
def _fetching(repo: str, revision: str | None) -> Iterator[None]:
    """Say of a fetch what `hub_errors` cannot know: that it is about a revision, or about this machine's disk."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{repo} has no revision {shown(revision)}.", "Check --revision: a branch, tag or commit"
        ) from error
    except errors.HFValidationError as error:
        raise UserError(f"The Hub takes {shown(repo)} for no repository.", "Write it as owner/name") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"A file of {repo} cannot be fetched from the Hub.", "Check the network, and try again"
        ) from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"A file of {repo} is gone: it has changed since it was looked at.", "Try again") from error
    except OSError as error:
        if error.errno is None or isinstance(error, (ConnectionError, TimeoutError)):
            raise  # of the network, which is not about files here
        raise UserError(
            f"The files of {repo} cannot be written: {error.strerror}.", "See the disk: mistudio doctor"
        ) from (error)


def _choose(files: list[str], path: str | None, repo: str) -> str:
    from tasks.sae.importing.convert import folders_in

    there = folders_in(files)
    if path is not None:
        wanted = posixpath.normpath(path.strip("/"))
        wanted = "" if wanted == "." else wanted
        if wanted in there:
            return wanted
    some = ", ".join(name or "." for name in there[:_FEW]) + (", …" if len(there) > _FEW else "")
    if path is not None:
        raise UserError(f"{repo} has no SAE at {path}.", f"There are: {some}" if there else "")
    if not there:
        raise UserError(
            f"{repo} holds no SAE that can be read: none of SAELens, Gemma Scope or sparsify.",
            "dictionary_learning's ae.pt is a pickle, which can run any code, and is not read",
        )
    if len(there) > 1:
        raise UserError(f"{repo} holds {len(there)} SAEs.", f"Choose one with --path: {some}")
    return there[0]


def _is_needed(file: str, where: str) -> bool:
    """Whether a file belongs to the SAE in the folder `where`; sparsify names the model in the folder above."""
    from tasks.sae.importing.other_libraries import FILES

    folder, _, name = file.rpartition("/")
    above = where.rpartition("/")[0] if where else None
    return (folder == where and name in FILES) or (folder == above and name == "config.json")


def push(repo: str, files: Mapping[str, Path | bytes], private: bool, message: str) -> str:
    """Put files, by their paths in the repository, there in one commit; the repository is made if need be.

    Returns the commit's address. Raises UserError without a token, and when the Hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _refusals(repo):
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [
            CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
            for path, content in files.items()
        ]
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)


def others_in(repo: str, name: str) -> list[str]:
    """The folders of a repository that hold other SAEs than that of `name`; none when there is no such repository."""
    from huggingface_hub import HfApi, errors

    from tasks.sae.importing.convert import folders_in

    with _refusals(repo):
        try:
            return [folder for folder in folders_in(HfApi().list_repo_files(repo)) if folder != name]
        except errors.RepositoryNotFoundError:
            return []


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """Say of a push what `hub_errors` cannot know: that it is about writing."""
    from huggingface_hub import errors, get_token

    if get_token() is None:
        raise UserError(
            "Nothing can be pushed to the Hub without a token.",
            "Set HF_TOKEN in the environment in which the workers start",
        )
    with hub_errors("repository", repo):
        try:
            yield
        except errors.HfHubHTTPError as error:
            if error.response is not None and error.response.status_code in (401, 403):
                raise UserError(
                    f"The Hub does not let this token write to {repo}.",
                    "Set an HF_TOKEN with the right to write, where the workers start",
                ) from error
            raise
