"""Training pictures made ready to be shown, while the server answers."""

import asyncio
from collections.abc import Callable

from efftune.delivery import exported, photos
from efftune.delivery.photos import Photo
from efftune.errors import EfftuneError, UsageError
from efftune.runs.run import Run
from efftune.serving.nearest import Learning, TrainingPicture, TrainingPictures
from efftune.serving.service import Service
from efftune.serving.state import State

_MOST = 1000  # pictures, as many of each class as there are
_TOLD = 100  # pictures between two reports


async def gather(state: State, service: Service, on_event: Callable[[str, str], None]) -> None:
    """Make training pictures of a run ready to be shown; at most one is at work at a time.

    Args:
        state: of the server, which gets them.
        service: that was trained on them.
        on_event: called with `progress` and how far it is, or `problem` and why none are shown.
    """
    try:
        chosen = await asyncio.to_thread(_chosen, service)
    except EfftuneError as error:
        on_event("problem", f"No training pictures are shown: {error}")
        return
    found, work = list[TrainingPicture](), Learning(service.classifier)
    for number, photo in enumerate(chosen, 1):
        picture = await state.answering.patiently(work, photo)
        found += [] if picture is None else [picture]
        if number % _TOLD == 0 and number < len(chosen):
            on_event("progress", f"Training pictures to show: {number:,} of {len(chosen):,}.")
    if not found:
        on_event("problem", "No training pictures are shown: none is where it was, as it was.")
    elif state.service is service:
        state.training = TrainingPictures(service.classifier, found)
        on_event("progress", f"Training pictures to show: {len(found):,}, ready.")


def _chosen(service: Service) -> list[Photo]:
    """The training pictures that may be shown.

    Raises:
        UsageError: it is an exported file, or the source of the run is not on this machine.
        DataError: a table of the run is damaged.
    """
    classifier = service.classifier
    if isinstance(classifier, exported.ExportedClassifier):
        raise UsageError("an exported file does not know them. Serve its run.")
    run = Run.load(classifier.folder)
    source = run.record["source"]
    return photos.training(classifier.folder, run.recipe, source, classifier.class_names, _MOST)
