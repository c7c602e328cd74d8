import itertools
import re
from xml.etree import ElementTree

import pytest

from efftune.report import charts

SVG = ElementTree.Element


def drawn(markup: str) -> SVG:
    return ElementTree.fromstring(markup)


def texts(svg: SVG) -> list[str]:
    return [each.text for each in svg.iter("text")]


def epochs(*counts: int) -> list[dict[str, str]]:
    return [
        {"stage": f"stage{n}", "accuracy": f"{0.5 + 0.01 * i}", "val_accuracy": f"{0.4 + 0.01 * i}"}
        for n, count in enumerate(counts)
        for i in range(count)
    ]


def heights(svg: SVG, tag: str, style: str) -> list[float]:
    return [float(each.get("cy")) for each in svg.iter(tag) if each.get("class") == style]


def test_charts_have_a_title_and_fit_a_phone():
    svg = drawn(charts.curves(epochs(1, 4), {}))
    assert svg.get("role") == "img"
    assert "after each of 5 epochs" in svg[0].text
    assert svg.get("viewBox").startswith("0 0 360 ")
    places = [
        float(value) for each in svg.iter() for value in (each.get("x"), each.get("cx")) if value
    ]
    assert 0 <= min(places) <= max(places) <= 360


def test_curves_join_stages_end_to_end_and_name_them():
    results = {"stage1": {"best_epoch": 2, "rolled_back": False}, "stage2": {"rolled_back": True}}
    svg = drawn(charts.curves(epochs(1, 3, 2), results))
    assert {"stage0", "stage1", "stage2, rolled back"} <= set(texts(svg))
    assert [each.get("class") for each in svg.iter("line")].count("edge") == 2
    lines = [each for each in svg.iter("polyline") if each.get("class") == "line a"]
    ends = [[float(x.split(",")[0]) for x in each.get("points").split()] for each in lines]
    assert [len(each) for each in ends] == [1, 3, 2]
    assert ends[0] + ends[1] + ends[2] == sorted(ends[0] + ends[1] + ends[2])


def test_networks_of_an_ensemble_are_lines_of_their_own():
    rows = [
        row | {"network": network} for network in ("1", "2", "all") for row in epochs(0, 0, 0, 2)
    ]
    rows = [*epochs(1), *rows[:-1]]
    rows[-1] |= {"accuracy": "", "val_accuracy": "0.6"}
    svg = drawn(charts.curves(rows, {"stage3": {"best_epoch": 5}}))
    assert {"stage0", "stage3 1", "stage3 2", "all"} <= set(texts(svg))
    assert "after each of 5 epochs; final validation accuracy 60" in svg[0].text
    assert heights(svg, "circle", "ring") == heights(svg, "circle", "dot a")[-1:]


def test_higher_accuracy_is_drawn_higher():
    svg = drawn(charts.curves(epochs(4), {}))
    places = heights(svg, "circle", "dot a")
    assert places == sorted(places, reverse=True)


def test_best_epoch_has_a_ring():
    svg = drawn(charts.curves(epochs(3), {"stage0": {"best_epoch": 3}}))
    assert heights(svg, "circle", "ring") == heights(svg, "circle", "dot a")[2:]


def test_epochs_without_validation_leave_no_line():
    rows = [row | {"val_accuracy": ""} for row in epochs(3)]
    assert not heights(drawn(charts.curves(rows, {"stage0": {"best_epoch": 1}})), "circle", "dot a")


@pytest.mark.parametrize("count", [1, 12, 40, 500])
def test_ticks_of_many_epochs_stay_apart(count):
    svg = drawn(charts.curves(epochs(count), {}))
    numbers = [each for each in svg.iter("text") if each.get("y") == "198"]
    places = [float(each.get("x")) for each in numbers]
    assert 1 <= len(places) <= 12
    assert all(later - sooner > 20 for sooner, later in itertools.pairwise(places))


def test_learning_curve_shows_measurements_band_and_extrapolation():
    curve = {
        "points": [{"pictures": 50, "accuracy": [0.7, 0.72]}, {"pictures": 100, "accuracy": [0.8]}],
        "now": {"pictures": 100, "accuracy": 0.8, "low": 0.78, "high": 0.82},
        "double": {"pictures": 200, "accuracy": 0.86, "low": 0.8, "high": 0.9},
    }
    svg = drawn(charts.learning_curve(curve))
    assert len(heights(svg, "circle", "dot b")) == 3
    assert {"50", "100", "200"} <= set(texts(svg))
    band = next(svg.iter("polygon")).get("points").split()
    assert len(band) == 4
    assert "86.0\N{NO-BREAK SPACE}% expected with 200" in svg[0].text


def test_reliability_bars_are_as_high_as_the_accuracy():
    part = {"low": 0.8, "high": 0.9, "pictures": 30, "confidence": 0.85, "accuracy": 0.5}
    few = part | {"low": 0.9, "high": 1.0, "pictures": 2, "accuracy": 1.0}
    svg = drawn(charts.reliability({"before": [part], "after": [part, few]}))
    half, whole = (each for each in svg.iter("rect"))
    assert float(half.get("height")) == pytest.approx(float(whole.get("height")) / 2, abs=0.2)
    assert float(half.get("fill-opacity")) > float(whole.get("fill-opacity"))
    assert "30 pictures, 50.0\N{NO-BREAK SPACE}% correct" in half[0].text
    assert len([each for each in svg.iter("circle") if each.get("class") == "ring"]) == 1


def test_score_marks_its_interval_and_baseline():
    svg = drawn(charts.score(0.5, 0.6, 0.7, 0.25))
    span = next(svg.iter("rect"))
    assert float(span.get("width")) == pytest.approx(336 * 0.2, abs=0.2)
    assert "always the most common class" in texts(svg)
    assert "always the most common class" not in texts(drawn(charts.score(0.5, 0.6, 0.7, None)))


def test_stage_names_are_escaped():
    rows = [row | {"stage": "<script>"} for row in epochs(2)]
    assert "<script>" not in charts.curves(rows, {})
    assert "<script>" in texts(drawn(charts.curves(rows, {})))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_line_has_a_scale(value):
    rows = [{"stage": "head", "accuracy": f"{value}", "val_accuracy": f"{value}"}]
    ticks = [text for text in texts(drawn(charts.curves(rows, {}))) if re.search(r"\d.%", text)]
    assert len(set(ticks)) == len(ticks) >= 2
