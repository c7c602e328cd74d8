import re
import shutil
from html.parser import HTMLParser

import pytest

import efftune
from report import made_run

CLASSES = (*made_run.CLASSES, *made_run.ODD_CLASSES)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run with odd names, whose report is there."""
    folder = made_run.write(
        tmp_path_factory.mktemp("made") / "<i>run 1",
        **{"classes": CLASSES, "counts": (240, 40, 120), "wrong": 0.4},
        names=made_run.ODD_NAMES,
    )
    efftune.Run.load(folder).report()
    return folder


class Elements(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_few_groups_are_told_with_the_result(stored, tmp_path):
    folder = shutil.copytree(stored, tmp_path / "run")
    row = dict.fromkeys(made_run.read(folder, "findings.csv")[0], "")
    row |= {"kind": "few-groups", "name": "test", "detail": "60 pictures of 5 groups"}
    made_run.write_table(folder / "findings.csv", [row])
    shown = Elements(efftune.Run.load(folder)._repr_html_())
    assert "these are 60 pictures of 5 groups of the source" in shown.text


def test_run_shows_its_result_its_classes_and_its_mistakes(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(stored.parent)
    run = efftune.Run.load(stored.name)
    html = run._repr_html_()
    shown = Elements(html)
    test = run.evaluation.test
    assert "<i>run 1" in shown.text
    assert f"{100 * test.accuracy:.1f}" in shown.text
    assert f"interval {100 * test.low:.1f} to {100 * test.high:.1f}" in shown.text.replace(
        "\xa0", " "
    )
    ranked = sorted((each for each in test.per_class if each.support), key=lambda each: each.f1)
    places = [html.index(f">{each.f1:.2f}</td>") for each in ranked]
    assert places == sorted(places)
    assert html.count('src="data:image/webp;base64,') == 8
    assert dict(shown.attributes)["href"] == "%3Ci%3Erun%201/report.html"
    monkeypatch.chdir(tmp_path)
    outside = Elements(efftune.Run.load(stored)._repr_html_())
    assert dict(outside.attributes)["href"] == (stored / "report.html").as_uri()
    assert len(repr(run)) < 200


def test_names_are_escaped_and_colours_are_left_to_the_notebook(stored):
    run = efftune.Run.load(stored)
    for html in (
        run._repr_html_(),
        run.evaluation._repr_html_(),
        run.evaluation.test._repr_html_(),
    ):
        shown = Elements(html)
        assert shown.tags <= {
            *("div", "h3", "bdi", "strong", "b", "table", "tr", "th", "td"),
            *("figure", "figcaption", "img", "span", "a"),
        }
        assert {name for name, _ in shown.attributes} <= {
            "style",
            "src",
            "alt",
            "title",
            "href",
            "target",
        }
        styles = " ".join(value for name, value in shown.attributes if name == "style")
        assert not re.search(r"(^|[; ])color:", styles)
        assert all(name in shown.text for name in ("<b>bold</b>", "</script>", 'quo"te'))
        html.encode()  # bytes of file names that are no text are escaped too


def test_run_whose_files_are_gone_still_shows(stored, tmp_path):
    folder = shutil.copytree(stored, tmp_path / "run")
    run = efftune.Run.load(folder)
    whole = run._repr_html_()
    (folder / "thumbnails.json").write_text("{")
    assert "taken for" in run._repr_html_()
    assert "data:image" not in run._repr_html_()
    (folder / "predictions.csv").write_text("path,split\na,test\n")
    (folder / "report.html").unlink()
    assert not {"img", "a"} & Elements(run._repr_html_()).tags
    shutil.rmtree(folder)
    table = run.evaluation.test.class_table
    assert table in run._repr_html_()
    assert table in whole
    run.record.clear()
    assert table in run._repr_html_()


def test_many_classes_are_shown_in_part(tmp_path):
    folder = made_run.write(
        tmp_path / "run", classes=[f"c{i:03}" for i in range(120)], counts=(240, 240, 480)
    )
    html = efftune.Run.load(folder)._repr_html_()
    assert "and 100 classes more" in html
    assert html.count("<tr>") == 21
