"""A run as a notebook shows it: the result in sentences, the classes and some mistakes."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from efftune.errors import DataError
from efftune.evaluation import predictions
from efftune.evaluation.metrics import Evaluation
from efftune.report import related, report, thumbnails, words
from efftune.report.page import reading
from efftune.report.stored_run import COLUMNS
from efftune.system import text

_MAX_MISTAKES = 8


def show(folder: Path, record: Mapping[str, Any], evaluation: Evaluation) -> Markup:
    """A run as HTML, without scripts or style sheets, for light and dark notebooks.

    What the folder no longer holds is left out.

    Args:
        folder: of the run.
        record: `run.json`.
        evaluation: of the run.
    """
    parts = [Markup("<h3>{}</h3>").format(text.name(folder.absolute().name))]
    with suppress(DataError):
        parts += _summary(folder, record, evaluation)
    parts.append(evaluation.test.class_table)
    with suppress(DataError):
        parts.append(_mistakes(folder))
    parts.append(_link(folder / report.FILE))
    return Markup("<div>{}</div>").format(Markup("").join(parts))


def _summary(folder: Path, record: Mapping[str, Any], evaluation: Evaluation) -> list[Markup]:
    with reading(folder):
        spent = text.seconds(sum(record["seconds"].values()))
        model = f"{record['model']['name']}, recipe {record['recipe']}, {spent}"
        told = words.summary(evaluation.to_dict(), record)
        groups = related.few_groups(related.findings(folder))
    remarks = [*told["remarks"], *filter(None, [Markup.escape(groups)])]
    lines = [*told["sentences"], *remarks, text.shown(model)]
    return [Markup("<div>{}</div>").format(line) for line in lines]


def _mistakes(folder: Path) -> Markup:
    """The most confident mistakes on the test split, with their thumbnails.

    Raises:
        DataError: the predictions are missing or damaged.
    """
    path = folder / predictions.FILE
    small: dict[str, str] = {}
    with suppress(DataError):
        small, _ = thumbnails.read(folder)
    with reading(path):
        rows = predictions.rows(folder, COLUMNS)
        judged = [row for row in rows if row["split"] in ("test", predictions.OUT_OF_FOLD)]
        wrong = [row for row in judged if row["label"] != row["predicted"]]
        wrong.sort(key=lambda row: -float(row["confidence"]))
        shown = Markup("").join(
            Markup(
                '<figure style="display:inline-block;width:9em;margin:.5em .5em 0 0;'
                'vertical-align:top" title="{}">{}'
                '<figcaption style="font-size:smaller">{}, taken for {} ({})</figcaption></figure>'
            ).format(
                text.shown(row["path"]),
                text.thumbnail(small.get(row["path"], ""), thumbnails.SIDE),
                *(text.name(row["label"]), text.name(row["predicted"])),
                text.percent(float(row["confidence"])),
            )
            for row in wrong[:_MAX_MISTAKES]
        )
    if not wrong:
        return Markup("")
    counted = text.counted(len(wrong), "mistake")
    out_of_fold = any(row["split"] == predictions.OUT_OF_FOLD for row in wrong)
    return Markup("<div>{} {}{}</div>{}").format(
        counted,
        "out of fold" if out_of_fold else "on the test pictures",
        ", the most confident first:" if len(wrong) > 1 else ":",
        shown,
    )


def _link(page: Path) -> Markup:
    """A link to the report, if it is there.

    Browsers follow no link from a notebook to the path of a file, but Jupyter serves what is below
    the notebook's folder.
    """
    if not page.exists():
        return Markup("")
    path = os.path.relpath(page)
    target = (
        page.absolute().as_uri() if path.startswith(os.pardir) else quote(Path(path).as_posix())
    )
    return Markup('<div><a href="{}" target="_blank">{}</a></div>').format(
        target, text.shown(str(page))
    )
