"""A run put on the Hugging Face Hub."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efftune.delivery import hub, hub_files
from efftune.errors import DataError, UsageError
from efftune.recipe.recipe import Recipe
from efftune.report import model_card
from efftune.system import files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OF_THE_HUB = (".gitattributes", hub_files.CARD, ".gitignore")


@dataclass(frozen=True)
class Pushed:
    """A run on the Hub.

    Attributes:
        repository: `USER/NAME`.
        url: of its page.
        commit: the hash of the commit that holds it.
        files: names of its files there.
        bytes: their size.
    """

    repository: str
    url: str
    commit: str
    files: tuple[str, ...]
    bytes: int


def push(
    folder: Path,
    recipe: Recipe,
    repo: str,
    on_progress: Callable[[int, int], None],
    *,
    private: bool = False,
    with_report: bool = False,
) -> Pushed:
    """Put a run into a repository of the Hub, by one commit.

    Args:
        folder: of a finished run.
        recipe: of it.
        repo: `USER/NAME`; made if there is none.
        on_progress: called with the number of bytes sent and their total.
        private: only those may see it whom its owner allows.
        with_report: also what the report shows: names, small pictures and predictions.

    Raises:
        UsageError: there is no token, access is refused, the repository holds something else, or
            is public though a private one is asked for.
        DataError: a file of the run is missing or damaged, or the Hub cannot be reached.
    """
    hub.require_token()
    with (
        tempfile.TemporaryDirectory(prefix="efftune-push-") as name,
        hub.client(repo, here := Path(name)) as api,
    ):
        found = hub_files.collect(folder, recipe, here, with_report=with_report)
        files.write(here / hub_files.CARD, model_card.text(folder, repository=repo))
        found |= {hub_files.CARD: here / hub_files.CARD}
        parent, there = _opened(api, repo, private=private)
        commit = _sent(api, repo, found, on_progress, (parent, there))
        total = sum(path.stat().st_size for path in found.values())
    return Pushed(repo, f"{api.endpoint}/{repo}", commit, tuple(sorted(found)), total)


def _opened(api: "HfApi", repo: str, *, private: bool) -> tuple[str | None, set[str]]:
    """Make a repository if there is none; its last commit, and the names of its files.

    Raises:
        UsageError: it holds something else than a run, or is public though it should not be.
    """
    api.create_repo(repo, private=True if private else None, exist_ok=True)
    info = api.model_info(repo)
    names = {each.rfilename for each in info.siblings or ()}
    if private and not info.private:
        raise UsageError(
            f"{repo} is there already, and public. Make it private in its settings, or choose "
            "another name."
        )
    others = names - {*_OF_THE_HUB}
    if others and hub_files.MANIFEST not in names:
        raise UsageError(
            f"{repo} holds something else than a run, such as {min(others)}. Choose another name."
        )
    return info.sha, names


def _sent(
    api: "HfApi",
    repo: str,
    found: dict[str, Path],
    on_progress: Callable[[int, int], None],
    before: tuple[str | None, set[str]],
) -> str:
    """Send files, and commit them together; what an earlier run had besides is removed."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    parent, there = before
    total, done = sum(path.stat().st_size for path in found.values()), 0
    on_progress(0, total)
    operations: list[Any] = []
    for name, path in found.items():
        operations.append(CommitOperationAdd(name, path))
        api.preupload_lfs_files(repo, additions=[operations[-1]])
        done += path.stat().st_size
        on_progress(done, total)
    gone = sorted(there & {*hub_files.KNOWN} - {*found})
    operations += [CommitOperationDelete(name) for name in gone]
    made = api.create_commit(
        repo, operations, commit_message="Run of efftune", parent_commit=parent
    )
    now = {each.rfilename for each in api.model_info(repo, revision=made.oid).siblings or ()}
    if missing := sorted({*found} - now):
        raise DataError(f"{repo} has not taken {missing[0]}: its .gitignore may leave that out.")
    return str(made.oid)
