"""Printing of results to the terminal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from efftune.cli.console import echo, interval, percent, show_table, utf8_stdout
from efftune.data.examples import Examples, Split
from efftune.data.sources import addresses
from efftune.delivery.prediction_parts import Parts
from efftune.evaluation.comparison import Comparison, RunScore
from efftune.evaluation.metrics import SplitEvaluation
from efftune.evaluation.predictions import write_csv
from efftune.model.prediction import Prediction
from efftune.recipe.recipe import Recipe, Stage
from efftune.report import related, review, words
from efftune.report.explanation_images import ExplanationFile
from efftune.runs.run import Run
from efftune.system import shell
from efftune.system.text import counted, shown
from efftune.training.planning import Plan


def show_run(run: Run) -> None:
    """Print the results of a finished run."""
    if "scratch" in run.recipe.phases:
        echo((run.folder / "model.txt").read_text(encoding="utf-8"))
    _show_data(run)
    _show_notes(run)
    echo()
    evaluation, score = run.evaluation, run.evaluation.test
    scores = {"val": evaluation.val, "val without leaks": evaluation.val_without_leaks}
    scores |= {"test": score, "test without leaks": evaluation.test_without_leaks}
    if evaluation.cross_validation:
        scores = {"out of fold": score}
    _show_scores({name: part for name, part in scores.items() if part is not None})
    echo()
    per_class = (evaluation.test_without_leaks or score).per_class
    weakest = sorted((each for each in per_class if each.support), key=lambda each: each.f1)
    items = (
        f"{shown(each.name)} (F1 {each.f1:.2f}, {counted(each.support, 'picture')})"
        for each in weakest[:3]
    )
    echo(f"Weakest classes: {', '.join(items)}")
    _show_reliability(run)
    folder = shell.quoted(run.folder)
    if wrong := run.record["likely_wrong_labels"]:
        echo(f"Labels:          {wrong:,} look wrong; see efftune review {folder} --open")
    echo(f"Report:          {run.folder / 'report.html'}")
    echo(f"Run folder:      {run.folder}   ({run.summary['seconds']:.1f} s)")
    echo(f"Plots:           {run.folder / 'plots'}")
    echo(f"Use it:          efftune predict {folder} PHOTO.jpg")


def _show_data(run: Run) -> None:
    """Print the number of pictures by split, and the problems found in them."""
    data = run.record["data"]
    total = sum(data["pictures"].values()) - data["val_is_test"] * data["pictures"]["val"]
    folds = run.evaluation.cross_validation and run.evaluation.cross_validation.folds
    echo(
        f"{total:,} pictures of {len(run.evaluation.test.per_class)} classes: "
        f"{_counts(data['pictures'], folds or 0)}"
    )
    if data["set_aside"]:
        files = counted(data["set_aside"], "file")
        echo(f"{files} set aside; see {run.folder / 'examples.csv'}")
    for kind, count in data["findings"].items():
        echo(f"Found: {count:,} {kind}")
    if data["findings"]:
        echo(f"       see {run.folder / 'findings.csv'}")


def _counts(pictures: Mapping[Split, int], folds: int) -> str:
    """The number of pictures by split, or how they are judged without splits."""
    if folds:
        return f"all train, judged by {folds}-fold cross-validation"
    return " · ".join(f"{split} {count:,}" for split, count in pictures.items())


def _show_notes(run: Run) -> None:
    """Print notes and advice, and the stages that failed or were rolled back."""
    for note in (*run.record["plan"]["notes"], *run.record.get("advice", [])):
        echo(f"Note: {note}")
    evaluation = run.evaluation.to_dict()
    for verdict in (
        words.model_choice(run.record, evaluation),
        words.settings_search(run.record),
        words.fine_tuning(evaluation),
    ):
        if verdict:
            echo(f"{verdict}.".replace("\N{NO-BREAK SPACE}", " "))
    for stage in run.record["stages"]:
        for failure in stage["failures"]:
            echo(f"Stage {stage['name']}: {failure}")
        if stage["rolled_back"] and not run.evaluation.cross_validation:
            echo(f"Stage {stage['name']} was rolled back: nothing was gained on validation")


def _show_reliability(run: Run) -> None:
    """Print the baseline, the error rate of sure predictions, and the gain from more pictures."""
    evaluation, values = run.evaluation, run.evaluation.to_dict()
    unsure, curve = evaluation.unsure, evaluation.learning_curve
    score = evaluation.test_without_leaks or evaluation.test
    pictures = "pictures" if evaluation.cross_validation else "test pictures"
    if unsure is not None and related.counts_leaks(values, unsure.test.pictures):
        pictures += ", also of leaks"
    echo(f"Baseline:        {_baseline(score)}")
    if related.all_leaked(values, run.record):
        echo(f"Leaks:           {related.left_out(values, run.record)}")
    if unknown := related.unknown_classes(values):
        echo(f"Unknown:         {unknown}")
    if groups := related.few_groups(related.findings(run.folder)):
        echo(f"Groups:          {groups}")
    if unsure is not None and not unsure.test.answered:
        echo(f"Not unsure:      none of the {pictures}")
    elif unsure is not None:
        echo(
            f"Not unsure:      {percent(unsure.test.coverage)} of the {pictures}, with "
            f"{percent(unsure.test.error)} errors (target: {100 * unsure.max_error:.3g} % or less)"
        )
    if curve is not None and len(curve.points) >= words.LEAST_POINTS:
        gain = 100 * min(curve.double.accuracy - curve.now.accuracy, 1 - score.accuracy)
        echo(f"Twice the data:  about {gain:+.1f} points (estimated on frozen features)")


def _baseline(score: SplitEvaluation) -> str:
    return f"{percent(score.commonest_share)} by always predicting {shown(score.commonest)}"


def show_plan(plan: Plan) -> None:
    """Print the plan of a run."""
    total = f"{plan.pictures['train']:,}, " if plan.folds else ""
    echo(f"Model:    {plan.recipe.backbone.model}")
    echo(f"Pictures: {total}{_counts(plan.pictures, plan.folds)}")
    for note in plan.notes:
        echo(f"Note: {note}")
    echo()
    recipe = plan.recipe
    show_table(
        ("stage", "trains", "epochs", "learning rate", "time, about"),
        [
            (
                stage.name,
                _trained(stage, recipe),
                f"{stage.epochs:,}",
                f"{stage.learning_rate:g}" if stage.learning_rate else "",
                f"{plan.seconds.get(stage.name, 0):,.0f} s",
            )
            for stage in recipe.stages
        ],
        left=("trains",),
    )
    echo()
    if plan.activation_bytes:
        echo(
            f"Caches activations, {int(recipe.augmentation.views) + 1} per training picture: "
            f"{plan.activation_bytes / 2**30:.2f} GiB on disk, of which at most "
            f"{plan.mapped_bytes / 2**30:.2f} GiB in memory"
        )
    others = set(plan.seconds) - {stage.name for stage in recipe.stages}
    phases = ", ".join(f"{name} {plan.seconds[name]:,.0f} s" for name in sorted(others))
    echo(f"Other phases: {phases}")
    more = ", and another network if time is left" * (plan.most_members > recipe.members)
    echo(f"Total: about {sum(plan.seconds.values()):,.0f} s, plus start-up{more}")


def _trained(stage: Stage, recipe: Recipe) -> str:
    """What a stage trains."""
    networks = f", {recipe.members} networks" if recipe.members > 1 else ""
    return {
        "head": "the head",
        "upper": f"{recipe.tuning.unfreeze} and up{networks}",
        "whole": "all blocks",
        "scratch": "all blocks, from random weights",
    }[stage.name]


def show_parts(found: Parts) -> None:
    """Print how many pictures are of each class, and where the predictions are."""
    show_table(("class", "pictures"), [(name, f"{n:,}") for name, n in found.classes.items()])
    echo(f"{found.pictures:,} pictures, {found.unsure:,} unsure, {found.unlike:,} unlike")
    if found.problems:
        echo(f"Cannot be decoded: {found.problems:,}; the column `problem` tells why.")
    if before := found.pictures - found.computed:
        echo(f"There already: {before:,}")
    echo(f"Predictions: {found.folder}")


def show_evaluation(score: SplitEvaluation, examples: Examples, trained_on: int | None) -> None:
    """Print the metrics of a run on another source, overall and by class.

    Args:
        score: the metrics.
        examples: the pictures.
        trained_on: how many of them the run was trained on, if that is known.
    """
    _show_scores({examples.source: score})
    echo()
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
    echo()
    echo(f"Baseline:        {_baseline(score)}")
    if score.confused:
        pairs = (
            f"{each.label} predicted as {each.answer} ({each.pictures:,})"
            for each in score.confused[:3]
        )
        echo(f"Most confused:   {', '.join(pairs)}")
    if examples.set_aside:
        echo(f"\nSet aside: {examples.reasons_summary}")
    if trained_on:
        echo(
            f"\nNote: the run was trained on {trained_on:,} of these pictures and may know them: "
            "it may do worse with others."
        )


def show_predictions(predictions: Sequence[Prediction], form: str) -> None:
    """Print predictions.

    Args:
        predictions: one per picture, in order.
        form: `table`, `json` (one object per line) or `csv` (one row per class printed).
    """
    if form == "json":
        for each in predictions:
            print(json.dumps(each.to_dict()))
    elif form == "csv":
        write_csv(utf8_stdout(), predictions)
    elif predictions:
        rows = [
            (label, percent(value), *(_flags_and_path(each) if rank == 0 else ("", "")))
            for each in predictions
            for rank, (label, value) in enumerate(each.top)
        ]
        headings = ("class", "confidence", "flags", "picture")
        show_table(headings, rows, left=("flags", "picture"))


def _flags_and_path(prediction: Prediction) -> tuple[str, str]:
    flags = {"unsure": prediction.unsure, "unlike the training pictures": prediction.unlike}
    names = ", ".join(name for name, is_set in flags.items() if is_set)
    return names, addresses.shown(prediction.path) or ""


def show_labels(run: Run, path: Path) -> None:
    """Print where the accepted labels are, and the command that trains with them."""
    echo(f"Labels: {path}")
    echo(f"Train with them: {review.command(run.folder, run.record['source'])}")


def show_explanations(explanations: Sequence[ExplanationFile], *, as_json: bool) -> None:
    """Print the explained classes and the paths of the heatmaps."""
    if as_json:
        for each in explanations:
            line = {
                "path": addresses.shown(each.path),
                "png": str(each.png),
                "label": each.label,
                "confidence": each.confidence,
            }
            print(json.dumps(line))
        return
    rows = [(each.label, percent(each.confidence), str(each.png)) for each in explanations]
    show_table(("class", "confidence", "picture"), rows, left=("picture",))


def show_comparison(comparison: Comparison, plot: Path | None) -> None:
    """Print a comparison of runs, one per row."""
    show_table(
        ("run", "model", "recipe", "seconds", "accuracy", "95 % interval", "vs. first"),
        [_comparison_row(each) for each in comparison.standings],
        left=("model", "recipe", "vs. first"),
    )
    kind = "" if comparison.out_of_fold else f"{comparison.split} "
    echo(f"\nOn the {comparison.pictures:,} {kind}pictures that all runs share.")
    if comparison.trained_on:
        echo(f"Left out: {comparison.trained_on:,} that at least one run was trained on.")
    if comparison.relabelled:
        echo(f"Left out: {comparison.relabelled:,} whose class differs between runs.")
    if plot is not None:
        echo(f"Plot: {plot}")


def _comparison_row(each: RunScore) -> tuple[str, ...]:
    return (
        str(each.run.folder),
        each.run.model,
        each.run.recipe,
        f"{each.run.seconds:,.0f}",
        percent(each.accuracy),
        interval(each.low, each.high),
        each.difference.verdict if each.difference else "",
    )


def _show_scores(scores: dict[str, SplitEvaluation]) -> None:
    show_table(
        ("split", "pictures", "accuracy", "95 % interval", "top-5", "macro-F1"),
        [
            (
                name,
                f"{score.pictures:,}",
                percent(score.accuracy),
                interval(score.low, score.high),
                percent(score.top5),
                f"{score.macro_f1:.3f}",
            )
            for name, score in scores.items()
        ],
    )
