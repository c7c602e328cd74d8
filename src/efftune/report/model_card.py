"""The model card: what a classifier is for, how good it is, and what it does not know.

It is Markdown with metadata in YAML, as the Hugging Face Hub shows it. Source:
https://huggingface.co/docs/hub/model-cards. Everything is read from the files of a run, and of
these only what may be shown to others: no path, no name of a picture.
"""

import string
import tomllib
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from efftune.data.sources import addresses
from efftune.errors import DataError, EfftuneWarning, UsageError
from efftune.model import catalogue
from efftune.report import related, words
from efftune.report.page import read_json, read_table, reading
from efftune.system import files
from efftune.system.text import counted, interval, percent, shown

FILE = "MODEL_CARD.md"
_DIGITS = 4  # of scores in the metadata
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_ESCAPES = {ord(char): f"\\{char}" for char in "\\`*_[]<>|~&#$!"}


def write(folder: Path, into: Path | None = None, **place: Any) -> None:
    """Write the card of a run; a card that cannot be written is a warning, and no error.

    Args:
        folder: of a finished run.
        into: the folder for the card; by default the run's.
        **place: as for `text`.
    """
    path = (into or folder) / FILE
    try:
        files.write(path, text(folder, **place))
    except (DataError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"The model card {path} was not written: {reason}"
        warnings.warn(message, EfftuneWarning, stacklevel=2)


def text(folder: Path, *, repository: str = "", receipt: Mapping[str, Any] | None = None) -> str:
    """The card of a run, the same whenever it is made.

    Args:
        folder: of a finished run.
        repository: of the Hub, `USER/NAME`, if the card is for its page.
        receipt: `receipt.json` of an export, if the card is for that.

    Raises:
        DataError: a file of the run is missing or damaged.
    """
    record, evaluation = read_json(folder / "run.json"), read_json(folder / "evaluation.json")
    classes = read_json(folder / "classes.json")
    with reading(folder / "recipe.toml"):
        recipe = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    with reading(folder):
        licence = _licence(record["model"], recipe)
        dataset = dataset_name(record["source"])
        values = {
            **{"record": record, "evaluation": evaluation, "recipe": recipe},
            **{"licence": licence, "dataset": dataset, "classes": classes},
            **{"model": _model_name(record), "judged": words.judged_pictures(evaluation)},
            **{"rows": _class_rows(folder, record, evaluation, classes)},
            **{"scores": _scores(evaluation, record), "best": words.headline(evaluation)},
            **{"repository": repository, "receipt": receipt},
            **_leaks(record, evaluation),
            "few_groups": related.few_groups(related.findings(folder)),
            "unknown_classes": related.unknown_classes(evaluation),
        }
        metadata = _front_matter(values)
        return metadata + str(_template().render(values))


def dataset_name(source: str) -> str:
    """What to call a source before others: never a path of this machine.

    Args:
        source: as `train` was given it.
    """
    source = addresses.plain(source)
    kind, colon, rest = source.partition(":")
    is_named = colon and kind in ("sample", "tfds", "hf") and not rest.startswith((".", "~", "/"))
    if is_named and not (kind == "hf" and Path(rest).exists()):
        return source
    name = Path(rest if kind == "hf" and colon else source).name
    return name if name.strip(". ~") else "pictures"


def _licence(model: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    try:
        return catalogue.licence(model, recipe.get("backbone", {}).get("weights"))
    except UsageError:  # a model of another version
        return ""


def _model_name(record: Mapping[str, Any]) -> str:
    """The name of the network as its authors write it."""
    kind = str(record["model"]["name"]).removeprefix("efficientnet-")
    if kind.startswith("v2-"):
        return f"EfficientNetV2-{kind.removeprefix('v2-').upper()}"
    return f"EfficientNet-{kind.title() if kind.startswith('lite') else kind.upper()}"


def _front_matter(values: Mapping[str, Any]) -> str:
    """The metadata, as YAML between lines of dashes."""
    import yaml

    record, licence = values["record"], values["licence"]
    data = {
        "library_name": "efftune",
        "pipeline_tag": "image-classification",
        **({"license": licence.lower()} if licence else {}),
        "tags": ["image-classification", "efficientnet", record["model"]["name"], "efftune"],
        "model-index": [
            {
                "name": f"{shown(values['dataset'])}, {values['model']}",
                "results": [_result(values)],
            }
        ],
    }
    lines = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=10**6)
    return f"---\n{lines}---\n"


def _result(values: Mapping[str, Any]) -> dict[str, Any]:
    """The scores, as an entry of `model-index`."""
    evaluation, source, best = values["evaluation"], values["dataset"], values["best"]
    is_hub = source.startswith("hf:")
    name, _, config = source.removeprefix("hf:").partition(":") if is_hub else (source, "", "")
    metrics = {"accuracy": "Accuracy", "macro_f1": "Macro F1", "loss": "Cross-entropy"}
    types = {"accuracy": "accuracy", "macro_f1": "f1", "loss": "loss"}
    by = "cross-validation" if evaluation.get("cross_validation") else "test"
    return {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {
            "type": shown(name) if is_hub else "imagefolder",
            "name": shown(name),
            **({"config": shown(config)} if config else {}),
            "split": by,
        },
        "metrics": [
            {"type": types[key], "name": f"{label} ({by})", "value": round(best[key], _DIGITS)}
            for key, label in metrics.items()
        ],
    }


def _scores(
    evaluation: Mapping[str, Any], record: Mapping[str, Any]
) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of the table of scores."""
    if evaluation.get("cross_validation"):
        return [("all, out of fold", evaluation["test"])]
    names = {
        "test": "test",
        "test_without_leaks": f"test, without {related.relatives(record)} in an earlier split",
        "val": "validation",
    }
    return [(text, evaluation[key]) for key, text in names.items() if evaluation.get(key)]


def _leaks(record: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of leaks, and which numbers count them."""
    unsure, bins = evaluation.get("unsure"), (evaluation.get("calibration") or {}).get("bins", {})
    judged = {
        "unsure": unsure["test"]["pictures"] if unsure else 0,
        "calibration": sum(each["pictures"] for each in bins.get("after", ())),
    }
    counting = {part for part, count in judged.items() if related.counts_leaks(evaluation, count)}
    return {
        "relatives": related.relatives(record),
        "all_leaked": related.all_leaked(evaluation, record),
        "counting_leaks": counting,
    }


def _class_rows(
    folder: Path, record: Mapping[str, Any], evaluation: Mapping[str, Any], classes: list[str]
) -> list[dict[str, Any]]:
    """Name, pictures by split, and scores of each class."""
    counts = record["data"].get("classes") or class_counts(folder, classes)
    scores = words.headline(evaluation)["per_class"]
    return [
        {"name": name, **{split: counts[split][i] for split in _SPLITS}, "score": score}
        for i, (name, score) in enumerate(zip(classes, scores, strict=True))
    ]


def class_counts(folder: Path, classes: list[str]) -> dict[str, list[int]]:
    """The number of pictures of each class, by split, of a run that did not record them.

    Raises:
        DataError: its `examples.csv` is missing or damaged.
    """
    rows = read_table(folder / "examples.csv")
    with reading(folder / "examples.csv"):
        found = Counter((row["split"], row["label"]) for row in rows if row["status"] == "used")
    return {split: [found[split, name] for name in classes] for split in _SPLITS}


@cache
def _template() -> Any:
    """The template of the card, in which everything that is put in is escaped."""
    templates = Environment(
        loader=PackageLoader("efftune.report"),
        autoescape=False,  # noqa: S701  (which is for HTML; `finalize` escapes Markdown)
        undefined=StrictUndefined,
        finalize=_escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"percent": percent, "counted": counted, "code": _code}
    templates.globals |= {"interval": interval}
    return templates.get_template("model_card.md")


def _escaped(value: Any) -> Any:
    """A text as Markdown shows it, whatever characters are in it."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return shown(value).translate(_ESCAPES)


def _code(value: object) -> Markup:
    """A text of ours between backticks or in a block of code, where nothing is escaped."""
    kept = string.ascii_letters + string.digits + " ._-/:@+(),"
    return Markup("".join(char for char in str(value) if char in kept))  # noqa: S704
