"""The parts of the verdict on a classifier: how often it is right, and what that means."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from efftune.report import related
from efftune.system.text import counted, interval, name, percent

_CLEAR = 20  # pictures of other classes, all taken for the most common: more than chance


def accuracy(
    score: Mapping[str, Any], evaluation: Mapping[str, Any], record: Mapping[str, Any]
) -> Markup:
    """How many pictures of which kind it got right, as the start of a sentence.

    Args:
        score: that is reported.
        evaluation: `evaluation.json`.
        record: `run.json`.
    """
    if evaluation.get("cross_validation"):
        return Markup(
            "Judged by {}-fold cross-validation on all {}, this classifier got <strong>{}</strong> "
            "right (95 % interval {})"
        ).format(
            evaluation["cross_validation"]["folds"],
            counted(score["pictures"], "picture"),
            percent(score["accuracy"]),
            interval(score["low"], score["high"]),
        )
    if related.all_leaked(evaluation, record):
        pictures = f", all of which have {related.relatives(record)} in an earlier split"
    elif record["data"].get("val_is_test"):
        pictures = " that it was not trained on"
    elif "test_without_leaks" in evaluation:
        pictures = f" that have no {related.relatives(record)} in an earlier split"
    else:
        pictures = " that it had never seen"
    return Markup(
        "On {}{}, this classifier got <strong>{}</strong> right (95 % interval {})"
    ).format(
        counted(score["pictures"], "test picture"),
        pictures,
        percent(score["accuracy"]),
        interval(score["low"], score["high"]),
    )


def baseline(score: Mapping[str, Any]) -> Markup:
    """The comparison with always predicting the most common class, as the end of a sentence."""
    if "commonest" not in score:
        return Markup(".")
    share, commonest = score["commonest_share"], name(score["commonest"])
    if share >= 1:
        return Markup("; but all of them are {}, so this says little.").format(commonest)
    if score["high"] <= share or _answers_one_class(score):
        text = "; it has learned nothing useful: always predicting {}, the most common class, "
        text += "gets {}."
    elif score["low"] <= share:
        text = "; this could be chance: always predicting {}, the most common class, would get {}."
    else:
        text = "; always predicting the most common class, {}, would get {}."
    return Markup(text).format(commonest, percent(share))  # noqa: S704  (one of the texts above)


def _answers_one_class(score: Mapping[str, Any]) -> bool:
    """Whether it only ever predicts the most common class, shown by enough pictures of others."""
    classes: list[str] = [each["name"] for each in score["per_class"]]
    number = classes.index(score["commonest"])
    support: list[int] = [sum(row) for row in score["confusion"]]
    answered: int = sum(row[number] for row in score["confusion"])
    return answered == sum(support) and sum(support) - support[number] >= _CLEAR


def confusion(score: Mapping[str, Any]) -> Markup | None:
    """The most frequent confusion."""
    if score["accuracy"] >= 1:
        most = percent(1 - score["low"])
        most = most if most.startswith("under") else f"up to {most}"
        return Markup(
            "it made no mistakes, but {} of predictions on similar pictures may be wrong"
        ).format(most)
    pairs = score.get("confused")
    if not pairs:
        return None
    first = pairs[0]
    label, predicted, count = name(first["label"]), name(first["answer"]), first["pictures"]
    if count == 1:
        if sum(pair["pictures"] for pair in pairs) == 1:
            return Markup("its only mistake was to confuse {} with {}").format(label, predicted)
        return Markup("it confused no class with any one other class more than once")
    support = next(each["support"] for each in score["per_class"] if each["name"] == first["label"])
    return Markup("it most often confuses {} with {} ({} of {})").format(
        label, predicted, f"{count:,}", counted(support, "picture")
    )


def without_unsure(
    unsure: Mapping[str, Any] | None, evaluation: Mapping[str, Any]
) -> Markup | None:
    """The accuracy on the pictures that are not marked unsure."""
    if not unsure:
        return None
    marked = unsure["pictures"] - unsure["answered"]
    if not unsure["answered"]:
        return Markup("it marks every picture as unsure")
    if not marked:
        return Markup("it marks no picture as unsure")
    share = percent(marked / unsure["pictures"])
    which = f"{share} of pictures"
    if not share[0].isdigit():  # "the over 99.9 % of" would read badly
        which = counted(marked, "picture")
    counting = ""
    if related.counts_leaks(evaluation, unsure["pictures"]):
        counting = f"counting all {unsure['pictures']:,} test pictures, "
    return Markup("{}without the {} it marks as unsure, {} are correct").format(
        counting, which, percent(1 - unsure["wrong"] / unsure["answered"])
    )
