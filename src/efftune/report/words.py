"""The result of a run, in sentences."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from efftune.report.page import counted, interval, name, percent

_WIDE = 0.1  # an interval wider than that says little
_GAIN = 0.005  # of accuracy: less is hardly worth twice the photos


def judged(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The score that counts: on the test pictures that have no copy in training."""
    return dict(evaluation.get("test_without_leaks") or evaluation["test"])


def told(evaluation: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, list[Markup]]:
    """Two sentences about a classifier, and remarks on how far they can be trusted.

    Args:
        evaluation: `evaluation.json`.
        record: `run.json`.
    """
    score = judged(evaluation)
    reused = record["data"].get("val_is_test", False)
    sure = evaluation.get("unsure")
    second = [part for part in (_mixed_up(score), _when_sure(sure and sure["test"])) if part]
    sentences = [_named_right(score, _seen(evaluation, reused=reused)) + _compared(score)]
    if second:
        joined = Markup("; ").join(second) + "."
        sentences.append(joined[0].upper() + joined[1:])
    remarks = []
    if reused:
        remarks.append(
            "This flatters the classifier: the epoch to keep was chosen on the same pictures."
        )
    if "test_without_leaks" in evaluation:
        with_leaks = evaluation["test"]
        leaked = counted(with_leaks["pictures"] - score["pictures"], "test picture")
        remarks.append(
            f"{leaked} were left out because an earlier split contains copies of them; "
            f"with them, accuracy would be {percent(with_leaks['accuracy'])}."
        )
    if score["high"] - score["low"] > _WIDE:
        remarks.append(
            f"The interval is wide because there are only {counted(score['pictures'], 'picture')} "
            "to test on; four times as many would make it about half as wide."
        )
    return {"sentences": sentences, "remarks": [Markup("{}").format(text) for text in remarks]}


def more(curve: Mapping[str, Any]) -> str:
    """Whether more photos would help.

    Args:
        curve: `learning_curve` of `evaluation.json`.
    """
    now, double = curve["now"], curve["double"]
    gain = double["accuracy"] - now["accuracy"]
    expected = (
        f"With the current {now['pictures']:,} training pictures it reaches "
        f"{percent(now['accuracy'])} on validation; with twice as many, about "
        f"{percent(double['accuracy'])} can be expected "
        f"(95 % interval {interval(double['low'], double['high'])})"
    )
    if gain < _GAIN:
        return f"Hardly. {expected}."
    points = f"{100 * gain:.1f} points more"
    if double["low"] > now["accuracy"]:
        return f"Yes. {expected}: {points}."
    return f"Perhaps. {expected}: {points}, though the interval allows for none."


def _seen(evaluation: Mapping[str, Any], *, reused: bool) -> str:
    if reused:
        return "it was not trained on"
    if "test_without_leaks" in evaluation:
        return "it had never seen, and of which it had seen no copies"
    return "it had never seen"


def _named_right(score: Mapping[str, Any], seen: str) -> Markup:
    return Markup(
        "On {} {}, this classifier got <strong>{}</strong> right (95 % interval {})"
    ).format(
        counted(score["pictures"], "picture"),
        seen,
        percent(score["accuracy"]),
        interval(score["low"], score["high"]),
    )


def _compared(score: Mapping[str, Any]) -> Markup:
    """How that compares with knowing nothing but the commonest class."""
    if "commonest" not in score:
        return Markup(".")
    share, commonest = score["commonest_share"], name(score["commonest"])
    if share >= 1:
        return Markup("; but all of them are {}, so this says little.").format(commonest)
    if score["accuracy"] <= share:
        text = (
            "; it has learnt nothing useful: always predicting {}, the most common class, gets {}."
        )
    elif score["low"] <= share:
        text = "; that may be chance: always predicting {}, the most common class, would get {}."
    else:
        text = "; always predicting the most common class, {}, would get {}."
    return Markup(text).format(commonest, percent(share))  # noqa: S704  (one of the texts above)


def _mixed_up(score: Mapping[str, Any]) -> Markup | None:
    """What is taken for what most often."""
    if score["accuracy"] >= 1:
        return Markup(
            "it made no mistake, though on other such pictures the error may be up to {}"
        ).format(percent(1 - score["low"]))
    pairs = score.get("confused")
    if not pairs:
        return None
    first = pairs[0]
    label, answer, most = name(first["label"]), name(first["answer"]), first["pictures"]
    if most == 1:
        wrong = sum(pair["pictures"] for pair in pairs)
        if wrong == 1:
            return Markup("its one mistake was to confuse {} with {}").format(label, answer)
        return Markup("no two classes are confused more than once")
    support = next(each["support"] for each in score["per_class"] if each["name"] == first["label"])
    return Markup("it most often confuses {} with {} ({} of {})").format(
        label, answer, f"{most:,}", counted(support, "picture")
    )


def _when_sure(sure: Mapping[str, Any] | None) -> Markup | None:
    """How it fares on the pictures it is sure of."""
    if not sure:
        return None
    doubted = sure["pictures"] - sure["answered"]
    if not sure["answered"]:
        return Markup("it is unsure of every picture")
    if not doubted:
        return Markup("it is sure of every picture")
    return Markup(
        "leaving out the {} of pictures it is unsure of, {} of its predictions are correct"
    ).format(percent(doubted / sure["pictures"]), percent(1 - sure["wrong"] / sure["answered"]))
