"""The report's charts as inline SVG, coloured by the style sheet of the page."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from efftune.system.text import interval, percent

Point = tuple[float, float]

# About the width of a phone screen, so that 11-unit text is legible there.
_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 348, 34, 184
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)  # tick spacing on an axis from 0 to 1
_MAX_TICKS = 5
_MAX_MARKERS = 40  # points of a line; longer lines have no markers
_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class _Scale:
    """The mapping from values to coordinates along an axis.

    Attributes:
        low: the value at `start`.
        high: the value at `end`.
        start: coordinate of the lower end.
        end: coordinate of the upper end.
        log: whether the scale is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def score(low: float, value: float, high: float, baseline: float | None) -> Markup:
    """An accuracy and its interval on an axis from 0 to 100 %.

    Args:
        low: lower end of the interval.
        value: the accuracy.
        high: upper end of the interval.
        baseline: accuracy of always predicting the most common class, if known.
    """
    x = _Scale(0, 1, 12, 348)
    parts = [
        Markup('<line class="grid" x1="12" x2="348" y1="24" y2="24"/>'),
        Markup('<rect class="span" x="{}" y="18" width="{}" height="12" rx="6"/>').format(
            x(low), max(2.0, round(x(high) - x(low), 1))
        ),
        Markup('<circle class="dot a" cx="{}" cy="24" r="4.5"/>').format(x(value)),
        *(_text(x(share), 48, _whole_percent(share), "middle") for share in (0.0, 0.5, 1.0)),
    ]
    title = f"Accuracy {percent(value)}, 95 % interval {interval(low, high)}"
    if baseline is not None:
        title += f"; always predicting the most common class would get {percent(baseline)}"
        parts.append(
            Markup('<line class="mark" x1="{0}" x2="{0}" y1="16" y2="32"/>').format(x(baseline))
        )
        anchor = "start" if baseline < 0.2 else "end" if baseline > 0.8 else "middle"
        parts.append(_text(x(baseline), 11, "always the most common class", anchor))
    return _svg(title, parts, height=54)


def curves(
    epochs: Sequence[Mapping[str, str]],
    results: Mapping[str, Mapping[str, Any]],
    held_out: str = "validation",
) -> Markup:
    """Accuracy after each epoch, all stages one after another.

    Args:
        epochs: rows of `history.csv`, at least one.
        results: the entries of `stages` in `run.json`, by stage name.
        held_out: `validation`, with a ring around the best epoch; or `out-of-fold`.
    """
    parts_of = itertools.groupby(epochs, lambda row: (row["stage"], row.get("network", "")))
    lines: dict[str, list[list[Point]]] = {"accuracy": [], "val_accuracy": []}
    total, starts, best = 0, [], list[Point]()
    passed: Counter[str] = Counter()  # epochs of each stage
    for (name, network), part in parts_of:
        rows = list(part)
        chosen = int(results.get(name, {}).get("best_epoch", 0)) - passed[name]
        if 0 < chosen <= len(rows) and rows[chosen - 1]["val_accuracy"]:
            best.append((total + chosen, float(rows[chosen - 1]["val_accuracy"])))
        passed[name] += len(rows)
        for column, stage_lines in lines.items():
            values = [(total + i, row[column]) for i, row in enumerate(rows, start=1)]
            stage_lines.append([(x, float(value)) for x, value in values if value])
        starts.append((total + 0.5, _part_name(name, network, results.get(name, {}))))
        total += len(rows)
    y = _accuracy_scale(point[1] for each in lines.values() for line in each for point in line)
    x = _Scale(0.5, total + 0.5, _LEFT, _RIGHT)
    parts = [*_grid_lines(y), *_epoch_ticks(total, x), *_stage_names(starts, x)]
    for column, style in (("accuracy", "b"), ("val_accuracy", "a")):
        for line in lines[column]:
            parts.extend(_line(line, style, x, y))
    for epoch, accuracy in best if held_out == "validation" else ():
        ring = Markup('<circle class="ring" cx="{}" cy="{}" r="6"/>')
        parts.append(ring.format(x(epoch), y(accuracy)))
    last = lines["val_accuracy"][-1]
    final = f"; final {held_out} accuracy {percent(last[-1][1])}" if last else ""
    trained = sum(row.get("network") != "all" for row in epochs)
    title = f"{held_out.capitalize()} and training accuracy after each of {trained} epochs{final}"
    return _svg(title, parts)


def learning_curve(curve: Mapping[str, Any], held_out: str = "validation") -> Markup:
    """Accuracy by number of training pictures, extrapolated to twice as many.

    Args:
        curve: `learning_curve` of `evaluation.json`.
        held_out: the name of the pictures that it was measured on.
    """
    now, double = curve["now"], curve["double"]
    measured = [
        (point["pictures"], value) for point in curve["points"] for value in point["accuracy"]
    ]
    means = [(p["pictures"], sum(p["accuracy"]) / len(p["accuracy"])) for p in curve["points"]]
    fewest = min([count for count, _ in measured] + [now["pictures"]])
    x = _Scale(fewest / 1.15, double["pictures"] * 1.15, _LEFT, _RIGHT, log=True)
    edges = [value for part in (now, double) for value in (part["low"], part["high"])]
    y = _accuracy_scale([value for _, value in measured] + edges)
    expected = [(part["pictures"], part["accuracy"]) for part in (now, double)]
    band = [(part["pictures"], part["low"], part["high"]) for part in (now, double)]
    parts = [*_grid_lines(y), _band(band, x, y)]
    parts.extend(_dot(point, "b", x, y) for point in measured)
    parts.extend(_line(means, "a", x, y, marked=False))
    parts.extend(_line(expected, "ahead", x, y, marked=False))
    parts.extend(_dot(point, "a", x, y) for point in expected)
    counts = dict.fromkeys([count for count, _ in means] + [now["pictures"], double["pictures"]])
    parts.extend(_count_ticks(list(counts), x))
    parts.append(_text((_LEFT + _RIGHT) / 2, 216, "training pictures", "middle"))
    return _svg(
        f"{held_out.capitalize()} accuracy by number of training pictures: "
        f"{percent(now['accuracy'])} with {now['pictures']:,}, about "
        f"{percent(double['accuracy'])} expected with {double['pictures']:,}",
        parts,
    )


def reliability(bins: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """A reliability diagram: bars for accuracy after calibration, rings before.

    Args:
        bins: `before` and `after`, as in `calibration` of `evaluation.json`.
    """
    x = _Scale(0, 1, _LEFT, _RIGHT)
    y = _Scale(0, 1, _BOTTOM, 12)
    most = max((part["pictures"] for part in bins["after"]), default=1)
    parts = list(_grid_lines(y))
    for part in bins["after"]:
        left, top = x(part["low"]), y(part["accuracy"])
        title = (
            f"confidence {interval(part['low'], part['high'])}: {part['pictures']:,} pictures, "
            f"{percent(part['accuracy'])} correct"
        )
        # Bars with fewer pictures are paler.
        parts.append(
            Markup(
                '<rect class="bar" x="{}" y="{}" width="{}" height="{}" fill-opacity="{}">'
                "<title>{}</title></rect>"
            ).format(
                *(left + 0.5, top, round(x(part["high"]) - left - 1, 1), round(_BOTTOM - top, 1)),
                *(round(0.25 + 0.65 * math.sqrt(part["pictures"] / most), 2), title),
            )
        )
    ends = [(0.0, 0.0), (1.0, 1.0)]
    parts.extend(_line(ends, "ahead", x, y, marked=False))
    for part in bins["before"]:
        centre = x(part["confidence"]), y(part["accuracy"])
        parts.append(Markup('<circle class="ring" cx="{}" cy="{}" r="3.5"/>').format(*centre))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(x(share), 198, _whole_percent(share), "middle"))
    parts.append(_text((_LEFT + _RIGHT) / 2, 216, "confidence", "middle"))
    return _svg("Accuracy by confidence, before and after calibration", parts)


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f}{_NO_BREAK}%"


def _accuracy_scale(values: Iterable[float]) -> _Scale:
    """A vertical scale around the values, with round numbers at its ends."""
    shares = list(values) or [0.0, 1.0]
    low, high = max(0.0, min(shares)), min(1.0, max(shares))
    step = next((each for each in _STEPS if (high - low) / each <= _MAX_TICKS - 1.5), _STEPS[-1])
    bottom = math.floor(low / step + 1e-9) * step
    top = min(1.0, math.ceil(high / step - 1e-9) * step)
    return _Scale(bottom, max(top, bottom + step), _BOTTOM, _TOP)


def _grid_lines(y: _Scale) -> list[Markup]:
    """Horizontal grid lines at round numbers, with tick labels."""
    span = y.high - y.low
    step = next((each for each in _STEPS if span / each <= _MAX_TICKS + 1e-9), _STEPS[-1])
    parts = []
    for i in range(math.ceil(y.low / step - 1e-9), math.floor(y.high / step + 1e-9) + 1):
        height = y(i * step)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                _LEFT, _RIGHT, height, height
            )
        )
        parts.append(_text(_LEFT - 6, height + 4, _whole_percent(i * step), "end"))
    return parts


def _epoch_ticks(count: int, x: _Scale) -> list[Markup]:
    step = next(each for each in (1, 2, 5, 10, 20, 50, 100, 1000, count) if count / each <= 12)
    marked = range(step, count + 1, step)
    parts = [_text(x(epoch), 198, str(epoch), "middle") for epoch in marked]
    return [*parts, _text((_LEFT + _RIGHT) / 2, 216, "epoch", "middle")]


def _part_name(stage: str, network: str, result: Mapping[str, Any]) -> str:
    """What a part of the curves shows: a stage, or one network of its ensemble, or all of them."""
    if network == "all":
        return "all"
    suffix = ", rolled back" if result.get("rolled_back") else ""
    return f"{stage} {network}".rstrip() + suffix


def _stage_names(starts: Sequence[tuple[float, str]], x: _Scale) -> list[Markup]:
    """Lines and names where stages begin.

    Names alternate between two rows, because the one epoch of the head is narrow.
    """
    parts = []
    for i, (start, name) in enumerate(starts):
        if i:
            parts.append(
                Markup('<line class="edge" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                    x(start), _TOP - 24 + 12 * (i % 2), _BOTTOM
                )
            )
        fits = x(start) + 4 + 6 * len(name) <= _WIDTH
        place = (x(start) + 4, "start") if fits else (x(start) - 4, "end")
        parts.append(_text(place[0], _TOP - 20 + 12 * (i % 2), name, place[1]))
    return parts


def _count_ticks(counts: Sequence[int], x: _Scale) -> list[Markup]:
    """Tick labels of the picture counts, omitting those that would overlap."""
    parts: list[Markup] = []
    limit = math.inf
    for count in sorted(counts, reverse=True):  # the largest matters most
        text = f"{count:,}"
        half_width = 3.5 * len(text)
        if x(count) + half_width < limit:
            parts.append(_text(x(count), 198, text, "middle"))
            limit = x(count) - half_width - 4
    return parts


def _line(
    points: Sequence[Point], style: str, x: _Scale, y: _Scale, *, marked: bool = True
) -> list[Markup]:
    """A line with markers unless it has many points; a single point is a dot."""
    coordinates = " ".join(f"{x(point_x)},{y(point_y)}" for point_x, point_y in points)
    parts = [Markup('<polyline class="line {}" points="{}"/>').format(style, coordinates)]
    if marked and len(points) <= _MAX_MARKERS:
        parts.extend(_dot(point, style, x, y) for point in points)
    return parts


def _dot(point: Point, style: str, x: _Scale, y: _Scale) -> Markup:
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.5"/>').format(
        style, x(point[0]), y(point[1])
    )


def _band(band: Sequence[tuple[float, float, float]], x: _Scale, y: _Scale) -> Markup:
    """The area between a lower and an upper line."""
    edge = [(count, high) for count, _, high in band]
    edge += [(count, low) for count, low, _ in reversed(band)]
    coordinates = " ".join(f"{x(count)},{y(value)}" for count, value in edge)
    return Markup('<polygon class="band" points="{}"/>').format(coordinates)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _svg(title: str, parts: Iterable[Markup], height: int = _HEIGHT) -> Markup:
    return Markup(
        '<svg class="chart" role="img" viewBox="0 0 {} {}"><title>{}</title>{}</svg>'
    ).format(_WIDTH, height, title, Markup().join(parts))
