"""A synthetic run folder: the files that report and review page read, with consistent numbers."""

import base64
import csv
import io
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from efftune.evaluation.metrics import wilson
from efftune.system import files

CLASSES = ("dress", "hat", "shirt", "shoes", "t-shirt")
THRESHOLD = 0.7
# File names may contain any bytes other than the slash and NUL.
ODD_NAMES = (
    "<img src=x onerror=alert(1)>.jpg",
    "<script>alert(1)</script>.jpg",
    "</script><!--<script>.jpg",
    "a, \"b\" 'c' & d.jpg",
    "line\nbreak.jpg",
    "שלום.jpg",
    "turned \u202egpj.exe",
    "not text \udcff.jpg",
    "{{ 7 * 7 }} ${name}.jpg",
)
ODD_CLASSES = ("<b>bold</b>", 'quo"te', "מעיל", "</script>", "a,b")


def write(
    folder: Path,
    *,
    classes: Sequence[str] = CLASSES,
    counts: tuple[int, int, int] = (240, 40, 60),
    wrong: float = 0.2,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Write the files of a run.

    Args:
        folder: to make.
        classes: their names.
        counts: pictures in train, val and test.
        wrong: share of wrong predictions.
        names: of the first test pictures and the first suspects.
        seed: of the random numbers.
    """
    chance = random.Random(seed)
    rows = {"val": _rows("val", counts[1], classes, wrong, chance)}
    rows["test"] = _rows("test", counts[2], classes, wrong, chance)
    for row, name in zip(rows["test"], names, strict=False):
        row["path"] = f"test/{row['label']}/{name}"
    suspects = _suspects(counts[0], classes, names, chance)
    folder.mkdir(parents=True)
    write_json(folder / "run.json", _record(counts))
    write_json(folder / "classes.json", list(classes))
    write_json(folder / "evaluation.json", evaluation(rows, classes))
    write_table(folder / "predictions.csv", [*rows["val"], *rows["test"]])
    write_table(folder / "suspects.csv", suspects)
    write_table(folder / "examples.csv", _examples(rows))
    write_table(folder / "findings.csv", _findings())
    write_table(folder / "history.csv", _history())
    files.write(folder / "recipe.toml", 'name = "balanced"\nviews = 3\n')
    mistakes = [row["path"] for row in rows["test"] if row["label"] != row["predicted"]]
    small = _images(96, 96, chance)
    shown = mistakes + [row["path"] for row in [*suspects, *rows["test"]]]
    pictures = {name: small[i % len(small)] for i, name in enumerate(dict.fromkeys(shown))}
    wide = _images(192, 96, chance)
    explained = {name: wide[i % len(wide)] for i, name in enumerate(mistakes[:12])}
    write_json(folder / "thumbnails.json", {"thumbnails": pictures, "explanations": explained})
    return folder


def widen(folder: Path, columns: int) -> None:
    """Add columns of probabilities to `predictions.csv`, as many classes have them."""
    rows = read(folder, "predictions.csv")
    more = {f"p_more {i}": "0.000000" for i in range(columns)}
    write_table(folder / "predictions.csv", [row | more for row in rows])


def change(folder: Path, file: str, **values: object) -> None:
    """Change values of a JSON file; None removes a key."""
    content = json.loads((folder / file).read_text(encoding="utf-8")) | values
    content = {key: value for key, value in content.items() if value is not None}
    write_json(folder / file, content)


def read(folder: Path, file: str) -> list[dict[str, str]]:
    """The rows of a table."""
    with (folder / file).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_json(path: Path, content: object) -> None:
    """Write JSON as runs do."""
    files.write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_table(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write a CSV file as runs do."""
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write(path, table.getvalue())


def evaluation(rows: dict[str, list[dict]], classes: Sequence[str]) -> dict:
    """The contents of `evaluation.json`."""
    bins = _bins(rows["test"])
    unsure = {
        split: {
            "pictures": len(part),
            "answered": sum(row["unsure"] == "no" for row in part),
            "wrong": sum(
                row["unsure"] == "no" and row["label"] != row["predicted"] for row in part
            ),
        }
        for split, part in rows.items()
    }
    unlike = {
        split: {"pictures": len(part), "flagged": sum(row["unlike"] == "yes" for row in part)}
        for split, part in rows.items()
    }
    error = {"before": 0.081, "after": 0.019}
    return {
        **{split: score(part, classes) for split, part in rows.items()},
        "calibration": {
            "temperature": 0.71,
            "ece": {"val": error, "test": error},
            "bins": {"before": bins, "after": bins},
        },
        "unsure": {"max_error": 0.02, "threshold": THRESHOLD, **unsure},
        "unlike": {"threshold": 1.07, **unlike},
        "learning_curve": {
            "points": [
                {"pictures": 60, "accuracy": [0.71, 0.73, 0.72]},
                {"pictures": 120, "accuracy": [0.78, 0.8, 0.79]},
                {"pictures": 240, "accuracy": [0.84, 0.83, 0.85]},
            ],
            "now": {"pictures": 240, "accuracy": 0.841, "low": 0.82, "high": 0.86},
            "double": {"pictures": 480, "accuracy": 0.879, "low": 0.85, "high": 0.9},
            "gains": [{"name": classes[0], "now": 0.71, "double": 0.79}],
        },
    }


def score(rows: Sequence[dict], classes: Sequence[str]) -> dict:
    """A split's part of `evaluation.json`."""
    pairs = Counter((row["label"], row["predicted"]) for row in rows)
    confusion = [[pairs[label, predicted] for predicted in classes] for label in classes]
    correct = sum(pairs[name, name] for name in classes)
    low, high = wilson(correct, len(rows))
    commonest, most = Counter(row["label"] for row in rows).most_common(1)[0]
    per_class = []
    for i, name in enumerate(classes):
        support, predicted = sum(confusion[i]), sum(row[i] for row in confusion)
        recall, precision = confusion[i][i] / max(support, 1), confusion[i][i] / max(predicted, 1)
        f1 = 2 * confusion[i][i] / max(support + predicted, 1)
        values = {"name": name, "precision": precision, "recall": recall, "f1": f1}
        per_class.append(values | {"support": support})
    confused = [
        {"label": label, "answer": predicted, "pictures": count}
        for (label, predicted), count in pairs.most_common()
        if label != predicted
    ]
    return {
        **{"pictures": len(rows), "accuracy": correct / len(rows), "low": low, "high": high},
        **{"top5": 1.0, "loss": 0.31, "macro_f1": sum(s["f1"] for s in per_class) / len(classes)},
        **{"ece": 0.019, "commonest": commonest, "commonest_share": most / len(rows)},
        **{"per_class": per_class, "confusion": confusion, "confused": confused[:10]},
    }


def _rows(
    split: str, count: int, classes: Sequence[str], wrong: float, chance: random.Random
) -> list[dict]:
    rows = []
    for i in range(count):
        # Later classes are more frequent, and neighbouring classes are confused with each other.
        number = max(chance.randrange(len(classes)), chance.randrange(len(classes)))
        mistaken = chance.random() < wrong
        predicted = (number + chance.choice((-1, -1, -1, 1))) % len(classes) if mistaken else number
        confidence = chance.uniform(0.4, 0.95) if mistaken else chance.uniform(0.6, 1)
        shares = [(1 - confidence) / max(1, len(classes) - 1)] * len(classes)
        shares[predicted] = confidence
        row = {"path": f"{split}/{classes[number]}/{i:05}.jpg", "split": split}
        row |= {"label": classes[number], "predicted": classes[predicted]}
        row |= {"confidence": f"{confidence:.6f}"}
        row |= {"unsure": "yes" if confidence < THRESHOLD else "no"}
        row |= {"unlike": "yes" if chance.random() < 0.1 else "no"}
        share = zip(classes, shares, strict=True)
        rows.append(row | {f"p_{name}": f"{value:.6f}" for name, value in share})
    return rows


def _bins(rows: Sequence[dict]) -> list[dict]:
    parts: dict[int, list[dict]] = {}
    for row in rows:
        parts.setdefault(min(14, int(float(row["confidence"]) * 15)), []).append(row)
    return [
        {
            **{"low": i / 15, "high": (i + 1) / 15, "pictures": len(part)},
            "confidence": sum(float(row["confidence"]) for row in part) / len(part),
            "accuracy": sum(row["label"] == row["predicted"] for row in part) / len(part),
        }
        for i, part in sorted(parts.items())
    ]


def _suspects(
    train: int, classes: Sequence[str], names: Sequence[str], chance: random.Random
) -> list[dict]:
    rows = []
    for i in range(max(len(names), train // 30)):
        number = chance.randrange(len(classes))
        label, suggested = classes[number], classes[(number + 1) % len(classes)]
        name = names[i] if i < len(names) else f"{i:05}.jpg"
        numbers = {"p_label": f"{0.01 * i:.6f}", "p_suggested": "0.900000"}
        row = {"path": f"train/{label}/{name}", "label": label, "suggested": suggested}
        rows.append(row | numbers | {"score": f"{0.05 + 0.005 * i:.6f}", "likely": "yes"})
    return rows


def _examples(rows: dict[str, list[dict]]) -> list[dict]:
    used = [
        {"path": row["path"], "label": row["label"], "split": row["split"], "status": "used"}
        | {"reason": "", "sha256": ""}
        for part in rows.values()
        for row in part
    ]
    aside = {"path": "LICENSE", "label": "", "split": "", "status": "set aside", "sha256": ""}
    return [*used, aside | {"reason": "not in a split folder"}]


def _findings() -> list[dict]:
    row = {"problem": "yes", "kind": "near-copy", "name": "test/hat/1.jpg"}
    row |= {"other": "train/hat/2.jpg", "label": "hat", "split": "test"}
    leak = row | {"kind": "leak", "detail": "similarity 0.976; in train and test"}
    grey = {"problem": "no", "kind": "greyscale", "name": "train/hat/3.jpg", "other": ""}
    grey |= {"label": "hat", "split": "train", "detail": ""}
    return [row | {"detail": "similarity 0.976"}, leak, grey]


def _history() -> list[dict]:
    values = [("head", 1, 0.98, 0.83)]
    values += [("upper", i, 0.78 + 0.04 * i, 0.82 + 0.025 * i) for i in range(1, 5)]
    return [
        {"stage": stage, "epoch": epoch, "seconds": "12.30", "loss": "0.5"}
        | {"accuracy": f"{accuracy:.6f}", "val_loss": "0.3", "val_accuracy": f"{val_accuracy:.6f}"}
        | {"learning_rate": ""}
        for stage, epoch, accuracy, val_accuracy in values
    ]


def _record(counts: tuple[int, int, int]) -> dict:
    pictures = dict(zip(("train", "val", "test"), counts, strict=True))
    upper = {"name": "upper", "block": "block5a", "epochs": 4}
    return {
        **{"state": "finished", "command": "efftune train 'my photos'", "source": "my photos"},
        "data": {
            **{"fingerprint": "0" * 64, "pictures": pictures, "val_is_test": False},
            **{"set_aside": 1, "findings": {"near-copy": 1}, "leaked": {"val": 0, "test": 0}},
        },
        "model": {
            **{"name": "efficientnet-lite0", "image_size": 224, "fit": "crop"},
            **{"test_flip": False, "weights": "sha256:0123"},
        },
        **{"recipe": "balanced", "seed": 0, "versions": {"python": "3.11.7", "efftune": "0.1.0"}},
        "machine": {"system": "Linux", "processor": "AMD EPYC", "processors": 2},
        "plan": {
            "stages": [{"name": "head", "block": "", "epochs": 1}, upper],
            **{"pictures": pictures, "notes": []},
        },
        "stages": [
            upper
            | {"best_epoch": 4, "rolled_back": False, "failures": []}
            | {"val_accuracy": {"before": 0.83, "after": 0.92}}
        ],
        "advice": ["more may be won with --recipe thorough"],
        "seconds": {"find": 0.2, "features": 27.9, "head": 7.7, "upper": 165.3, "evaluate": 4.9},
        "files": {"classes.json": "0" * 64},
    }


def _images(width: int, height: int, chance: random.Random) -> list[str]:
    """A few images as detailed as photos: about two kilobytes at 96 x 96 pixels."""
    encoded = []
    for _ in range(6):
        noise = np.random.default_rng(chance.randrange(2**31))
        rough = Image.fromarray(noise.integers(0, 255, (height // 4, width // 4, 3), np.uint8))
        stream = io.BytesIO()
        rough.resize((width, height), Image.Resampling.BICUBIC).save(stream, "WEBP", quality=60)
        encoded.append(base64.b64encode(stream.getvalue()).decode())
    return encoded
