"""Thumbnails for the report and the review page, stored in the run because sources may move."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from efftune.data import images, picture_bytes, pictures
from efftune.data.examples import Example
from efftune.errors import BadImage, DataError
from efftune.evaluation.explanation import Explainer
from efftune.evaluation.predictions import SplitPredictions
from efftune.evaluation.suspects import Suspect
from efftune.model.classifier import Classifier
from efftune.report import explanation_images
from efftune.report.page import read_json, reading
from efftune.system import files
from efftune.system.machine import usable_processors

FILE = "thumbnails.json"
OLD_FILE = "pictures.json"  # written by earlier versions
SIDE = 96  # pixels
MAX_BYTES = 2_500_000  # of all thumbnails in base64; other pictures are shown by name
MAX_EXPLAINED = 12  # most confident mistakes
_MAX_SUSPECTS = 100


def write(
    folder: Path,
    classifier: Classifier,
    test: SplitPredictions,
    suspects: Sequence[Suspect],
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    is_enough: Callable[[], bool] = lambda: False,
) -> None:
    """Write `thumbnails.json`: thumbnails, and heat maps of the most confident mistakes.

    Suspects come first, then mistakes, then the other test pictures in random order, up to
    `MAX_BYTES`.

    Args:
        folder: of the run.
        classifier: as saved there.
        test: its predictions on the test split, or those out of fold.
        suspects: training pictures whose label looks wrong; the first hundred are included.
        on_progress: called with the number of pictures done and their total.
        is_enough: called after each picture; if it says so, the others are left out.
    """
    labels = [row.label for row in test.rows]
    predicted = [classifier.class_names[i] for i in test.probabilities.argmax(axis=1)]
    confidence = test.probabilities.max(axis=1)
    wrong = [i for i in np.argsort(-confidence, kind="stable") if labels[i] != predicted[i]]
    others = np.random.default_rng(0).permutation(
        [i for i in range(len(labels)) if labels[i] == predicted[i]]
    )
    rows = [each.example for each in suspects[:_MAX_SUSPECTS]]
    rows += [test.rows[i] for i in (*wrong, *others.astype(int))]
    total = len(rows) + min(MAX_EXPLAINED, len(wrong))
    encoded: dict[str, str] = {}
    remaining = MAX_BYTES
    for done, (row, text) in enumerate(_encoded(rows, classifier), start=1):
        remaining -= len(text)
        if remaining < 0:
            break
        if text:
            encoded[row.name] = text
        on_progress(done, total)
        if is_enough():
            break
    explainer = Explainer(classifier)
    explained = {}
    for done, i in enumerate(wrong[:MAX_EXPLAINED], start=len(rows) + 1):
        if is_enough():
            break
        with suppress(DataError):  # the file may have been removed since
            explanation = explainer.explain(test.rows[i].path, predicted[i])
            explained[test.rows[i].name] = pictures.webp(explanation_images.pair(explanation, SIDE))
        on_progress(done, total)
    files.write(folder / FILE, json.dumps({"thumbnails": encoded, "explanations": explained}))


def read(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Read the thumbnails and explanations of a run; both are empty if the file is missing.

    Returns:
        Two dictionaries from picture name to WebP in base64.

    Raises:
        DataError: the file is damaged.
    """
    path = next((p for p in (folder / FILE, folder / OLD_FILE) if p.exists()), None)
    if path is None:
        return {}, {}
    stored = read_json(path)
    with reading(path):
        keys = (("thumbnails", "squares"), ("explanations", "explained"))  # new and old
        encoded, explained = (dict(stored.get(new, stored.get(old, {}))) for new, old in keys)
    return encoded, explained


def _encoded(rows: Sequence[Example], classifier: Classifier) -> Iterator[tuple[Example, str]]:
    """Each row with its thumbnail in base64; empty if the picture can no longer be decoded."""

    def encode(row: Example) -> str:
        try:
            pixels = images.decode(
                picture_bytes.read(row.path), SIDE, classifier.fit, classifier.depth
            )
            return pictures.webp(pixels)
        except BadImage:
            return ""

    batch = 64  # the size limit may stop the iteration early
    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="thumbnails") as pool:
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            yield from zip(part, pool.map(encode, part), strict=True)
