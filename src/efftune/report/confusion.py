"""The confusion matrix of the report, and the metrics of its classes."""

import math
from collections.abc import Sequence
from typing import Any

from efftune.report import related, words
from efftune.report.stored_run import StoredRun
from efftune.system.text import counted, shown

_MAX_MATRIX_CLASSES = 40


def matrix(stored: StoredRun) -> dict[str, Any]:
    """The confusion matrix, limited to the classes with the most mistakes."""
    evaluation = stored.evaluation["test"]
    confusion: Sequence[Sequence[int]] = evaluation["confusion"]
    indices = range(len(stored.classes))
    mistakes = [
        sum(confusion[i]) + sum(row[i] for row in confusion) - 2 * confusion[i][i] for i in indices
    ]
    chosen = sorted(sorted(indices, key=lambda i: -mistakes[i])[:_MAX_MATRIX_CLASSES])
    names = [stored.classes[i] for i in chosen]
    rows = [
        (stored.classes[i], [_cell(stored.classes, confusion[i], i, j) for j in chosen])
        for i in chosen
    ]
    number = {each: i for i, each in enumerate(stored.classes)}
    pairs = [
        pair
        | {"row": number[pair["label"]], "column": number[pair["answer"]]}
        | {"support": sum(confusion[number[pair["label"]]])}
        for pair in evaluation.get("confused", [])
    ]
    return {
        **{"names": names, "rows": rows, "pairs": pairs, "left_out": len(indices) - len(chosen)},
        **{"pictures": evaluation["pictures"], "wrong": sum(mistakes) // 2},
        "counts_leaks": related.counts_leaks(stored.evaluation, evaluation["pictures"]),
    }


def _cell(classes: Sequence[str], row: Sequence[int], label: int, predicted: int) -> dict[str, Any]:
    count, correct = row[predicted], label == predicted
    text = f"{counted(count, 'picture')} of {shown(classes[label])} "
    text += "predicted correctly" if correct else f"confused with {shown(classes[predicted])}"
    # The square root keeps rare mistakes visible.
    shade = round(100 * math.sqrt(count / max(1, sum(row))))
    values = {"count": count, "text": text, "shade": shade}
    return values | {"classes": (label, predicted), "correct": correct}


def per_class(stored: StoredRun) -> list[dict[str, Any]]:
    """Metrics of the classes, lowest F1 first, classes without test pictures last."""
    scores: list[dict[str, Any]] = words.headline(stored.evaluation)["per_class"]
    return sorted(scores, key=lambda score: (not score["support"], score["f1"], score["name"]))
