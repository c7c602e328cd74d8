"""The small pictures that report and review show, kept in the run: sources may move away."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from efftune.data import images
from efftune.data.examples import Example
from efftune.data.images import Pixels
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
_FILE_BEFORE = "pictures.json"  # of runs made by earlier versions
SIDE = 96  # pixels
MOST_BYTES = 2_500_000  # of all squares, as text: what is left is shown by name
EXPLAINED = 12  # worst mistakes
_QUALITY = 60  # of WebP, 1 to 100
_SUSPECTS = 100  # shown at most, before other pictures


def write(
    folder: Path,
    classifier: Classifier,
    test: SplitPredictions,
    suspects: Sequence[Suspect],
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Write `thumbnails.json`: squares of pictures, and explanations of the worst mistakes.

    Args:
        folder: of the run.
        classifier: as saved there.
        test: its answers to the test split. Mistakes come first, then the other pictures in any
            order, as long as there is room.
        suspects: training pictures whose label looks wrong; the first hundred come before all else.
        on_progress: called with the pictures done and their total.
    """
    label = [row.label for row in test.rows]
    answer = [classifier.class_names[i] for i in test.probabilities.argmax(axis=1)]
    confidence = test.probabilities.max(axis=1)
    wrong = [i for i in np.argsort(-confidence, kind="stable") if label[i] != answer[i]]
    others = np.random.default_rng(0).permutation(
        [i for i in range(len(label)) if label[i] == answer[i]]
    )
    rows = [each.example for each in suspects[:_SUSPECTS]]
    rows += [test.rows[i] for i in (*wrong, *others.astype(int))]
    total = len(rows) + min(EXPLAINED, len(wrong))
    kept: dict[str, str] = {}
    room = MOST_BYTES
    for done, (row, text) in enumerate(_encoded(rows, classifier), start=1):
        room -= len(text)
        if room < 0:
            break
        if text:
            kept[row.name] = text
        on_progress(done, total)
    explainer = Explainer(classifier)
    explained = {}
    for done, i in enumerate(wrong[:EXPLAINED], start=len(rows) + 1):
        with suppress(DataError):  # it was there when it was judged
            found = explainer.explain(test.rows[i].path)
            explained[test.rows[i].name] = _webp(explanation_images.pair(found, SIDE))
        on_progress(done, total)
    files.write(folder / FILE, json.dumps({"thumbnails": kept, "explanations": explained}))


def read(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Thumbnails and explanations of a run, WebP in base 64 by picture name; empty if it has none.

    Raises:
        DataError: the file is damaged.
    """
    path = next((p for p in (folder / FILE, folder / _FILE_BEFORE) if p.exists()), None)
    if path is None:
        return {}, {}
    stored = read_json(path)
    with reading(path):
        kinds = (("thumbnails", "squares"), ("explanations", "explained"))
        found, explained = (dict(stored.get(now, stored.get(before, {}))) for now, before in kinds)
    return found, explained


def _encoded(rows: Sequence[Example], classifier: Classifier) -> Iterator[tuple[Example, str]]:
    """Each row with its square, as text; empty where it cannot be decoded any more."""

    def encode(row: Example) -> str:
        try:
            return _webp(images.decode(images.read(row.path), SIDE, classifier.fit))
        except BadImage:
            return ""

    ahead = 64  # a few at a time: most may not be needed
    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="squares") as pool:
        for start in range(0, len(rows), ahead):
            part = rows[start : start + ahead]
            yield from zip(part, pool.map(encode, part), strict=True)


def _webp(pixels: Pixels) -> str:
    """Pixels, uint8 (height, width, 3), as WebP in base 64."""
    _, content = cv2.imencode(
        ".webp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, _QUALITY]
    )
    return base64.b64encode(content.tobytes()).decode()
