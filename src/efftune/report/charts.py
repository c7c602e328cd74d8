"""The report's figures: small SVG drawings that take their colours from the page they stand in."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from efftune.report.page import interval, percent

Point = tuple[float, float]

# Drawn about as wide as a phone, so that text of 11 units is legible there.
_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 348, 34, 184
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)  # between the ticks of a scale of shares
_MOST_TICKS = 5
_FINE = 40  # points of a line, up to which each is marked
_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class _Scale:
    """Numbers along an axis and where they lie in the drawing.

    Attributes:
        low: the number at `start`.
        high: the number at `end`.
        start: a coordinate.
        end: another.
        by_ratio: equal ratios, not equal differences, are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    by_ratio: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.by_ratio:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def score(low: float, value: float, high: float, chance: float | None) -> Markup:
    """An accuracy and its interval on a line from 0 to 100 %.

    Args:
        low: lower end of the interval.
        value: the accuracy.
        high: upper end of the interval.
        chance: what the most common class alone would get, if known.
    """
    x = _Scale(0, 1, 12, 348)
    parts = [
        Markup('<line class="grid" x1="12" x2="348" y1="24" y2="24"/>'),
        Markup('<rect class="span" x="{}" y="18" width="{}" height="12" rx="6"/>').format(
            x(low), max(2.0, round(x(high) - x(low), 1))
        ),
        Markup('<circle class="dot a" cx="{}" cy="24" r="4.5"/>').format(x(value)),
        *(_text(x(share), 48, _whole(share), "middle") for share in (0.0, 0.5, 1.0)),
    ]
    told = f"Accuracy {percent(value)}, 95 % interval {interval(low, high)}"
    if chance is not None:
        told += f"; the most common class alone would get {percent(chance)}"
        parts.append(
            Markup('<line class="mark" x1="{0}" x2="{0}" y1="16" y2="32"/>').format(x(chance))
        )
        anchor = "start" if chance < 0.2 else "end" if chance > 0.8 else "middle"
        parts.append(_text(x(chance), 11, "always the most common class", anchor))
    return _drawing(told, parts, height=54)


def curves(
    epochs: Sequence[Mapping[str, str]], outcomes: Mapping[str, Mapping[str, Any]]
) -> Markup:
    """Accuracy after each epoch of all stages, end to end.

    Args:
        epochs: rows of `history.csv`, at least one.
        outcomes: what `run.json` says of a stage, by its name.
    """
    stages = [
        (name, list(part)) for name, part in itertools.groupby(epochs, lambda row: row["stage"])
    ]
    lines: dict[str, list[list[Point]]] = {"accuracy": [], "val_accuracy": []}
    before, bounds = 0, []
    for name, rows in stages:
        for column, found in lines.items():
            told = [(before + i, row[column]) for i, row in enumerate(rows, start=1)]
            found.append([(x, float(value)) for x, value in told if value])
        bounds.append((before + 0.5, name))
        before += len(rows)
    y = _shares(point[1] for found in lines.values() for line in found for point in line)
    x = _Scale(0.5, before + 0.5, _LEFT, _RIGHT)
    parts = [*_across(y), *_epoch_ticks(before, x), *_stage_names(bounds, outcomes, x)]
    for column, look in (("accuracy", "b"), ("val_accuracy", "a")):
        for line in lines[column]:
            parts.extend(_line(line, look, x, y))
    for (name, _), line in zip(stages, lines["val_accuracy"], strict=True):
        kept = int(outcomes.get(name, {}).get("best_epoch", 0))
        if 0 < kept <= len(line):
            place = x(line[kept - 1][0]), y(line[kept - 1][1])
            parts.append(Markup('<circle class="ring" cx="{}" cy="{}" r="6"/>').format(*place))
    last = lines["val_accuracy"][-1]
    ended = f", at the end {percent(last[-1][1])}" if last else ""
    return _drawing(
        f"Accuracy on validation and training pictures after each of {before} epochs{ended}", parts
    )


def more_pictures(curve: Mapping[str, Any]) -> Markup:
    """Accuracy by the number of training pictures, and what twice as many promise.

    Args:
        curve: `learning_curve` of `evaluation.json`.
    """
    now, double = curve["now"], curve["double"]
    tried = [(point["pictures"], value) for point in curve["points"] for value in point["accuracy"]]
    means = [(p["pictures"], sum(p["accuracy"]) / len(p["accuracy"])) for p in curve["points"]]
    fewest = min([count for count, _ in tried] + [now["pictures"]])
    x = _Scale(fewest / 1.15, double["pictures"] * 1.15, _LEFT, _RIGHT, by_ratio=True)
    edges = [value for part in (now, double) for value in (part["low"], part["high"])]
    y = _shares([value for _, value in tried] + edges)
    ahead = [(part["pictures"], part["accuracy"]) for part in (now, double)]
    band = [(part["pictures"], part["low"], part["high"]) for part in (now, double)]
    parts = [*_across(y), _band(band, x, y)]
    parts.extend(_dot(point, "b", x, y) for point in tried)
    parts.extend(_line(means, "a", x, y, marked=False))
    parts.extend(_line(ahead, "ahead", x, y, marked=False))
    parts.extend(_dot(point, "a", x, y) for point in ahead)
    counts = dict.fromkeys([count for count, _ in means] + [double["pictures"]])
    parts.extend(_counts_along(list(counts), x))
    parts.append(_text((_LEFT + _RIGHT) / 2, 216, "training pictures", "middle"))
    return _drawing(
        f"Accuracy on validation pictures by number of training pictures: "
        f"{percent(now['accuracy'])} with {now['pictures']:,}, about "
        f"{percent(double['accuracy'])} expected with {double['pictures']:,}",
        parts,
    )


def reliability(bins: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """How often answers of a confidence are right: bars after calibration, rings before.

    Args:
        bins: `before` and `after`, as in `calibration` of `evaluation.json`.
    """
    x = _Scale(0, 1, _LEFT, _RIGHT)
    y = _Scale(0, 1, _BOTTOM, 12)
    most = max((part["pictures"] for part in bins["after"]), default=1)
    parts = list(_across(y))
    for part in bins["after"]:
        left, top = x(part["low"]), y(part["accuracy"])
        told = (
            f"confidence {interval(part['low'], part['high'])}: {part['pictures']:,} pictures, "
            f"{percent(part['accuracy'])} correct"
        )
        # The fewer pictures a bar stands on, the paler it is.
        parts.append(
            Markup(
                '<rect class="bar" x="{}" y="{}" width="{}" height="{}" fill-opacity="{}">'
                "<title>{}</title></rect>"
            ).format(
                *(left + 0.5, top, round(x(part["high"]) - left - 1, 1), round(_BOTTOM - top, 1)),
                *(round(0.25 + 0.65 * math.sqrt(part["pictures"] / most), 2), told),
            )
        )
    ends = [(0.0, 0.0), (1.0, 1.0)]
    parts.extend(_line(ends, "ahead", x, y, marked=False))
    for part in bins["before"]:
        place = x(part["confidence"]), y(part["accuracy"])
        parts.append(Markup('<circle class="ring" cx="{}" cy="{}" r="3.5"/>').format(*place))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(x(share), 198, _whole(share), "middle"))
    parts.append(_text((_LEFT + _RIGHT) / 2, 216, "confidence of the prediction", "middle"))
    return _drawing(
        "Share of correct predictions by confidence, before and after calibration", parts
    )


def _whole(share: float) -> str:
    return f"{100 * share:.0f}{_NO_BREAK}%"


def _shares(values: Iterable[float]) -> _Scale:
    """An upward scale of shares from below the lowest to above the highest, in round numbers."""
    found = list(values) or [0.0, 1.0]
    low, high = max(0.0, min(found)), min(1.0, max(found))
    step = next((each for each in _STEPS if (high - low) / each <= _MOST_TICKS - 1.5), _STEPS[-1])
    bottom = math.floor(low / step + 1e-9) * step
    top = min(1.0, math.ceil(high / step - 1e-9) * step)
    return _Scale(bottom, max(top, bottom + step), _BOTTOM, _TOP)


def _across(y: _Scale) -> list[Markup]:
    """Fine lines across the drawing at round numbers, with these."""
    span = y.high - y.low
    step = next((each for each in _STEPS if span / each <= _MOST_TICKS + 1e-9), _STEPS[-1])
    parts = []
    for i in range(math.ceil(y.low / step - 1e-9), math.floor(y.high / step + 1e-9) + 1):
        place = y(i * step)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                _LEFT, _RIGHT, place, place
            )
        )
        parts.append(_text(_LEFT - 6, place + 4, _whole(i * step), "end"))
    return parts


def _epoch_ticks(count: int, x: _Scale) -> list[Markup]:
    step = next(each for each in (1, 2, 5, 10, 20, 50, 100, 1000, count) if count / each <= 12)
    marked = range(step, count + 1, step)
    parts = [_text(x(epoch), 198, str(epoch), "middle") for epoch in marked]
    return [*parts, _text((_LEFT + _RIGHT) / 2, 216, "epoch", "middle")]


def _stage_names(
    bounds: Sequence[tuple[float, str]], outcomes: Mapping[str, Mapping[str, Any]], x: _Scale
) -> list[Markup]:
    """Where stages begin. Names take turns in two lines, for the head's one epoch is narrow."""
    parts = []
    for i, (start, name) in enumerate(bounds):
        if i:
            parts.append(
                Markup('<line class="edge" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                    x(start), _TOP - 24 + 12 * (i % 2), _BOTTOM
                )
            )
        back = ", rolled back" if outcomes.get(name, {}).get("rolled_back") else ""
        parts.append(_text(x(start) + 4, _TOP - 20 + 12 * (i % 2), name + back, "start"))
    return parts


def _counts_along(counts: Sequence[int], x: _Scale) -> list[Markup]:
    """Numbers of pictures along the lower edge, as many as there is room for."""
    parts: list[Markup] = []
    free = math.inf
    for count in sorted(counts, reverse=True):  # the largest is what the figure is about
        text = f"{count:,}"
        reach = 3.5 * len(text)
        if x(count) + reach < free:
            parts.append(_text(x(count), 198, text, "middle"))
            free = x(count) - reach - 4
    return parts


def _line(
    points: Sequence[Point], look: str, x: _Scale, y: _Scale, *, marked: bool = True
) -> list[Markup]:
    """A line, its points marked unless they are many; a single point is a dot."""
    places = " ".join(f"{x(across)},{y(up)}" for across, up in points)
    parts = [Markup('<polyline class="line {}" points="{}"/>').format(look, places)]
    if marked and len(points) <= _FINE:
        parts.extend(_dot(point, look, x, y) for point in points)
    return parts


def _dot(point: Point, look: str, x: _Scale, y: _Scale) -> Markup:
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.5"/>').format(
        look, x(point[0]), y(point[1])
    )


def _band(band: Sequence[tuple[float, float, float]], x: _Scale, y: _Scale) -> Markup:
    """The area between a lower and an upper line."""
    edge = [(across, high) for across, _, high in band]
    edge += [(across, low) for across, low, _ in reversed(band)]
    places = " ".join(f"{x(across)},{y(up)}" for across, up in edge)
    return Markup('<polygon class="band" points="{}"/>').format(places)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _drawing(told: str, parts: Iterable[Markup], height: int = _HEIGHT) -> Markup:
    return Markup(
        '<svg class="chart" role="img" viewBox="0 0 {} {}"><title>{}</title>{}</svg>'
    ).format(_WIDTH, height, told, Markup().join(parts))
