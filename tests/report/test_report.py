import ast
import html
import json
import re
import shlex
import shutil
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import pytest

from efftune.errors import DataError
from efftune.report import notebook, report, words
from efftune.report import page as pages
from efftune.report.stored_run import StoredRun
from report import made_run

RECORD = {"data": {"val_is_test": False}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run.write(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    left_out = shutil.ignore_patterns(report.FILE)
    return shutil.copytree(run, tmp_path / "run", ignore=left_out)


def page(folder: Path) -> str:
    return report.write(folder).read_text(encoding="utf-8")


def plain(markup: str) -> str:
    """Text as it is read, spaces alike."""
    text = html.unescape(re.sub(r"<[^>]*>", "", markup))
    return re.sub(r"\s+", " ", text).strip()


def body(folder: Path) -> str:
    return plain(page(folder).partition("<body>")[2].partition("<script")[0])


def data(text: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def scored(*pairs: tuple[str, str, int], classes=("hat", "shoe")) -> dict:
    rows = [{"label": a, "predicted": b} for a, b, count in pairs for _ in range(count)]
    return {"test": made_run.score(rows, classes)}


def sentences(evaluation: dict, record: dict = RECORD) -> list[str]:
    return [plain(each) for each in words.summary(evaluation, record)["sentences"]]


def remarks(evaluation: dict, record: dict = RECORD) -> str:
    return " ".join(plain(each) for each in words.summary(evaluation, record)["remarks"])


class Outline(HTMLParser):
    """Headings, ids, links and what would be loaded."""

    def __init__(self, text: str):
        super().__init__()
        self.levels: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.scopes: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "th":
            self.scopes.append(found.get("scope"))
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []


def test_summary_states_accuracy_interval_and_baseline():
    evaluation = scored(("hat", "hat", 60), ("shoe", "shoe", 34), ("shoe", "hat", 6))
    first, second = sentences(evaluation)
    assert first == (
        "On 100 test pictures that it had never seen, this classifier got 94.0 % right (95 % "
        "interval 87.5 to 97.2 %); always predicting the most common class, hat, would get 60.0 %."
    )
    assert second == "It most often confuses shoe with hat (6 of 40 pictures)."


def test_summary_states_accuracy_without_unsure_predictions():
    evaluation = scored(("hat", "hat", 60), ("shoe", "shoe", 34), ("shoe", "hat", 6))
    unsure = {"pictures": 100, "answered": 89, "wrong": 1}
    assert sentences(evaluation | {"unsure": {"test": unsure}})[1].endswith(
        "; without the 11.0 % of pictures it marks as unsure, 98.9 % are correct."
    )
    none, all_ = unsure | {"answered": 0}, unsure | {"answered": 100}
    assert (
        "it marks every picture as unsure." in sentences(evaluation | {"unsure": {"test": none}})[1]
    )
    assert "it marks no picture as unsure." in sentences(evaluation | {"unsure": {"test": all_}})[1]


def test_summary_without_mistakes_promises_nothing():
    evaluation = scored(("hat", "hat", 12), ("shoe", "shoe", 11))
    first, second = sentences(evaluation)
    assert "got 100 % right" in first
    assert second == (
        "It made no mistakes, but up to 14.3 % of predictions on similar pictures may be wrong."
    )


def test_summary_of_single_mistakes():
    one = scored(("hat", "hat", 60), ("shoe", "shoe", 39), ("shoe", "hat", 1))
    assert sentences(one)[1] == "Its only mistake was to confuse shoe with hat."
    two = scored(("hat", "hat", 60), ("shoe", "shoe", 39), ("shoe", "hat", 1), ("hat", "shoe", 1))
    assert sentences(two)[1] == "It confused no class with any one other class more than once."


def test_summary_mentions_that_nothing_was_learned():
    none = scored(("hat", "hat", 60), ("shoe", "hat", 40))
    assert "it has learned nothing useful" in sentences(none)[0]
    hardly = scored(
        ("hat", "hat", 58), ("hat", "shoe", 2), ("shoe", "hat", 33), ("shoe", "shoe", 7)
    )
    assert "this could be chance" in sentences(hardly)[0]
    assert "so this says little" in sentences(scored(("hat", "hat", 9)))[0]


def test_summary_mentions_a_wide_interval():
    assert "wide because there are only 20 test pictures" in remarks(
        scored(("hat", "hat", 10), ("shoe", "shoe", 8), ("shoe", "hat", 2))
    )
    many = scored(("hat", "hat", 600), ("shoe", "shoe", 380), ("shoe", "hat", 20))
    assert not remarks(many)
    # In cross-validation, the upper end may be high for another reason than few pictures.
    assert not remarks(many | {"test": many["test"] | {"high": 1.2}})


def test_summary_mentions_an_optimistic_score():
    record = {"data": {"val_is_test": True}}
    evaluation = scored(("hat", "hat", 600), ("shoe", "shoe", 380), ("shoe", "hat", 20))
    assert "On 1,000 test pictures that it was not trained on" in sentences(evaluation, record)[0]
    assert "This score is optimistic" in remarks(evaluation, record)


def test_summary_is_about_pictures_without_leaks():
    clean = scored(("hat", "hat", 500), ("shoe", "shoe", 380), ("shoe", "hat", 20))["test"]
    evaluation = scored(("hat", "hat", 600), ("shoe", "shoe", 380), ("shoe", "hat", 20))
    evaluation |= {"test_without_leaks": clean}
    first = sentences(evaluation)[0]
    assert "On 900 test pictures that have no copies in an earlier split" in first
    assert "97.8 % right" in first
    assert (
        "100 test pictures were left out because an earlier split contains copies of them; "
        "counting all test pictures, accuracy is 98.0 %."
    ) in remarks(evaluation)
    clean["pictures"] = 999
    assert "1 test picture was left out because an earlier split contains a copy of it" in remarks(
        evaluation
    )


def test_summary_of_an_older_run_omits_missing_values():
    score = scored(("hat", "hat", 60), ("shoe", "shoe", 34), ("shoe", "hat", 6))["test"]
    for part in ("commonest", "commonest_share", "confused", "ece"):
        del score[part]
    assert len(sentences({"test": score})) == 1


@pytest.mark.parametrize(
    ("double", "low", "answer"),
    [(0.9, 0.85, "Yes."), (0.9, 0.7, "Perhaps."), (0.801, 0.7, "Hardly.")],
)
def test_more_photos_are_promised_as_far_as_the_interval_allows(double, low, answer):
    now = {"pictures": 100, "accuracy": 0.8, "low": 0.75, "high": 0.85}
    then = {"pictures": 200, "accuracy": double, "low": low, "high": 0.95}
    assert words.more_photos({"now": now, "double": then}).startswith(answer)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.9999, "over 99.9 %"), (0.0001, "under 0.1 %"), (0.943, "94.3 %")],
)
def test_only_all_is_100_percent(share, text):
    assert plain(pages.percent(share)) == text


def test_sections_stand_in_order(run):
    ids = [each for each in Outline(page(run)).ids if not each.startswith("h-")]
    wanted = ["number", "done", "curves", "matrix", "classes", "mistakes", "suspects", "findings"]
    wanted += ["calibration", "learning", "use"]
    assert [each for each in ids if each in wanted] == wanted


def test_headings_descend_step_by_step_and_ids_are_unique(run):
    found = Outline(page(run))
    steps = zip(found.levels, found.levels[1:], strict=False)
    assert found.levels[0] == 1 and all(later <= sooner + 1 for sooner, later in steps)
    assert len(set(found.ids)) == len(found.ids)
    assert set(found.scopes) <= {"col", "row"}


def test_page_refers_to_nothing_outside(run):
    text = page(run)
    found = Outline(text)
    assert all(each.startswith("data:image/webp;base64,") for each in found.sources)
    anchors = {each[1:] for each in found.links if each.startswith("#")}
    assert anchors <= set(found.ids)
    assert {each for each in found.links if not each.startswith("#")} == {"data:,"}
    assert not re.search(r"https?://|url\(|@import", text)


def test_rolled_back_stages_are_marked(own_run):
    stages = json.loads((own_run / "run.json").read_text())["stages"]
    stages[0] |= {"rolled_back": True, "best_epoch": 0, "failures": ["too fast"]}
    made_run.change(own_run, "run.json", stages=stages)
    text = body(own_run)
    assert "rolled back: nothing was gained on validation; too fast" in text
    assert "upper, rolled back" in text


def test_matrix_counts_what_predictions_hold(run):
    rows = [row for row in made_run.read(run, "predictions.csv") if row["split"] == "test"]
    cells = re.findall(
        r'class="(correct|wrong)"[^>]*data-cell="(\d+) (\d+)"[^>]*>(\d+)<', page(run)
    )
    assert cells
    for kind, label, predicted, count in cells:
        names = made_run.CLASSES[int(label)], made_run.CLASSES[int(predicted)]
        assert int(count) == sum((row["label"], row["predicted"]) == names for row in rows)
        assert (kind == "correct") == (label == predicted)
    assert sum(int(cell[3]) for cell in cells) == len(rows)


def test_script_gets_every_test_picture_once(run):
    rows = [row for row in made_run.read(run, "predictions.csv") if row["split"] == "test"]
    found = data(page(run))
    listed = {
        (each[0], found["classes"][each[1]], found["classes"][each[2]])
        for each in found["pictures"]
    }
    assert listed == {(row["path"], row["label"], row["predicted"]) for row in rows}
    assert len(found["pictures"]) == len(rows)


def test_many_classes_show_those_with_most_mistakes(tmp_path):
    names = [f"class {i:03}" for i in range(60)]
    text = page(made_run.write(tmp_path / "run", classes=names, counts=(60, 30, 400), wrong=0.3))
    assert "Only the 40 classes with the most mistakes are shown; 20 others are left out" in plain(
        text
    )
    assert "20 more classes" in plain(text)
    assert len(re.findall(r'<tr><th scope="row"><span', text)) == 40
    wrong = dict.fromkeys(names, 0)
    for row in made_run.read(tmp_path / "run", "predictions.csv"):
        if row["split"] == "test" and row["label"] != row["predicted"]:
            wrong[row["label"]] += 1
            wrong[row["predicted"]] += 1
    shown = set(re.findall(r'<tr><th scope="row"><span title="([^"]*)"', text))
    assert min(wrong[each] for each in shown) >= max(wrong[each] for each in {*names} - shown)


def test_classes_are_sorted_by_f1(run):
    table = page(run).partition('id="classes"')[2].partition("</table>")[0]
    scores = [float(each) for each in re.findall(r"<td>(\d\.\d\d)</td>", table)]
    assert len(scores) == len(made_run.CLASSES) and scores == sorted(scores)


def test_odd_names_are_text(tmp_path):
    folder = made_run.write(
        tmp_path / "run", names=made_run.ODD_NAMES, classes=made_run.ODD_CLASSES, wrong=0.6
    )
    text = page(folder)
    assert "<script>alert" not in text and "<b>bold" not in text
    assert text.count("<script") == text.count("</script") == 2
    assert "<!--" not in text
    visible = body(folder)
    assert "line\\nbreak.jpg" in visible and "turned \\u202egpj.exe" in visible
    assert "שלום.jpg" in visible
    assert "not text \\udcff.jpg" in visible and "{{ 7 * 7 }} ${name}.jpg" in visible
    names = [each[0] for each in data(text)["pictures"] if each[5]]
    assert len(names) == 60  # all thumbnails were found, whatever their names


def test_missing_parts_are_explained(own_run):
    for file in ("suspects.csv", "thumbnails.json", "findings.csv", "recipe.toml"):
        (own_run / file).unlink()
    parts = ("calibration", "unsure", "unlike", "learning_curve")
    made_run.change(own_run, "evaluation.json", **dict.fromkeys(parts))
    made_run.change(own_run, "run.json", not_available={"suspects": "there are too few pictures"})
    text = body(own_run)
    assert "Not available: there are too few pictures." in text
    reason = "ot available: this run was trained without it; train again to get it."
    assert text.count(reason) == 5


def test_report_of_a_run_without_mistakes_mentions_it(tmp_path):
    text = body(made_run.write(tmp_path / "run", wrong=0))
    assert "No mistakes on the test pictures." in text
    assert "0 mistakes on 60 test pictures." in text


@pytest.mark.parametrize(
    "file",
    [
        "run.json",
        "evaluation.json",
        "classes.json",
        "predictions.csv",
        "history.csv",
        "examples.csv",
    ],
)
def test_missing_files_are_named_with_a_remedy(own_run, file):
    (own_run / file).unlink()
    with pytest.raises(DataError, match=rf"{file} is missing\. Restore it, or train again"):
        report.write(own_run)


@pytest.mark.parametrize("read", [StoredRun.read, notebook._mistakes])
def test_probabilities_of_many_classes_are_not_kept(own_run, read):
    made_run.widen(own_run, 3000)
    size = (own_run / "predictions.csv").stat().st_size
    tracemalloc.start()
    assert read(own_run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * size  # as dictionaries, they take 8 times as much


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", "{}"),
        ("evaluation.json", '{"test": {}}'),
        ("evaluation.json", "[]"),
        ("predictions.csv", "path,split\na,test\n"),
        ("predictions.csv", "path,split,label,predicted,confidence,unsure,unlike\n"),  # cut off
        ("predictions.csv", 'path,split\na,test,"b\n'),
        ("history.csv", "stage,epoch,accuracy,val_accuracy,loss\nhead,1,0.5,0.5\n"),
        ("history.csv", "stage,epoch,accuracy,val_accuracy\nhead,1,high,0.5\n"),
        ("suspects.csv", "path,label,suggested,p_label\na,b,c,0.5\n"),
        ("findings.csv", "name\na\n"),
        ("examples.csv", "name\na\n"),
        ("thumbnails.json", '{"thumbnails": 7}'),
    ],
)
def test_damaged_files_are_named_and_leave_no_page(own_run, file, content):
    (own_run / file).write_text(content)
    with pytest.raises(DataError, match=rf"{file} is damaged: .*Restore it, or train again"):
        report.write(own_run)
    assert not (own_run / report.FILE).exists()


def test_parts_that_lack_a_number_are_damage_too(own_run):
    val = json.loads((own_run / "evaluation.json").read_text())["val"]
    del val["loss"]
    made_run.change(own_run, "evaluation.json", val=val)
    with pytest.raises(DataError, match=r"run is damaged: .*'loss'.*Restore it, or train again"):
        report.write(own_run)
    assert not (own_run / report.FILE).exists()


def test_commands_work_wherever_the_run_lies(tmp_path):
    folder = made_run.write(tmp_path / "it's my run; $HOME")
    commands = re.findall(r"<code>(efftune [^<]*)</code></pre>", page(folder))
    verbs = set()
    for command in commands:
        words = shlex.split(html.unescape(command))
        verbs.add(words[1])
        assert words[2] == str(folder)
    assert verbs == {"predict", "evaluate", "explain", "review", "compare"}
    literal = re.search(r"efftune\.load\((.*?)\)\n", html.unescape(page(folder)))[1]
    assert ast.literal_eval(literal) == str(folder)


def test_ten_thousand_pictures_fit_into_five_megabytes(tmp_path):
    classes = [f"class {i:02}" for i in range(20)]
    folder = made_run.write(tmp_path / "run", classes=classes, counts=(7000, 1500, 1500))
    stored = (folder / "thumbnails.json").stat().st_size
    written = report.write(folder).stat().st_size
    assert stored > 3_000_000  # else this says nothing
    assert written <= 5_000_000


def test_thumbnails_beyond_the_size_limit_are_left_out(own_run, monkeypatch):
    monkeypatch.setattr(report, "_MAX_THUMBNAIL_BYTES", 20_000)
    pictures = data(page(own_run))["pictures"]
    assert 0 < sum(len(each[5]) for each in pictures) <= 20_000
    # Mistakes come first, so their thumbnails are included.
    assert all(each[5] for each in pictures[:3])


def test_more_pictures_than_can_be_listed_are_counted(own_run, monkeypatch):
    monkeypatch.setattr(report, "_MAX_LISTED", 50)
    found = data(page(own_run))
    assert (len(found["pictures"]), found["left_out"]) == (50, 10)
    assert all(each[1] == each[2] for each in found["pictures"][-10:])


def test_page_is_written_again_the_same(run):
    assert page(run) == page(run)


def test_mistake_with_a_copy_of_another_label_says_so(own_run):
    rows = made_run.read(own_run, "predictions.csv")
    wrong = next(r for r in rows if r["split"] == "test" and r["label"] != r["predicted"])
    copy = next(r for r in made_run.read(own_run, "examples.csv") if r["split"] == "val")
    assert "its copy" not in body(own_run)
    finding = {"problem": "yes", "kind": "contradiction", "name": wrong["path"]}
    finding |= {"other": copy["path"], "label": wrong["label"], "split": "test", "detail": ""}
    findings = [finding, *made_run.read(own_run, "findings.csv")]
    made_run.write_table(own_run / "findings.csv", findings)
    name = Path(copy["path"]).name
    assert f"its copy {name} is labelled {copy['label']}" in body(own_run)


def leaked(folder: Path, clean: int | None, findings: dict[str, int]) -> None:
    """Say of a made-up run that its test pictures leaked: all of them, or all but so many."""
    record = json.loads((folder / "run.json").read_text())["data"]
    test = json.loads((folder / "evaluation.json").read_text())["test"]
    count = test["pictures"] - (clean or 0)
    change = {"leaked": {"val": 0, "test": count}, "findings": findings}
    made_run.change(folder, "run.json", data=record | change)
    if clean:
        rows = [row for row in made_run.read(folder, "predictions.csv") if row["split"] == "test"]
        scores = made_run.score(rows[:clean], made_run.CLASSES) | {"ece": 0.123}
        made_run.change(folder, "evaluation.json", test_without_leaks=scores)


def test_page_of_leaks_alone_says_that_the_accuracy_means_nothing(own_run):
    leaked(own_run, None, {"group-leak": 60})
    text = body(own_run)
    assert "all of which have copies or pictures of the same group in an earlier split" in text
    assert "Leaks: 60 pictures of test have copies or pictures of the same group" in text
    assert "so the accuracy above counts them and says nothing about new pictures" in text
    assert "does not count them" not in text
    made_run.write_table(own_run / "findings.csv", [dict.fromkeys(made_run._findings()[0], "")])
    (own_run / "findings.csv").write_text("problem,kind,name,other,label,split,detail\n")
    assert "no leaks" not in body(own_run)


def test_numbers_that_count_leaks_say_so(own_run):
    rows = [row for row in made_run.read(own_run, "predictions.csv") if row["split"] == "test"]
    assert not re.search("(with|without|also the) leaks", body(own_run))
    leaked(own_run, 20, {"leak": 40})
    text = body(own_run)
    assert "on 60 test pictures. Rows are" in text
    assert "Unlike the accuracy above, this counts all test pictures, also the leaks." in text
    assert "without them, confidence and accuracy differ by 12.3 %" in text
    assert "test, with leaks" in text
    assert "validation, with leaks" not in text
    assert "The leaks among the test pictures are not counted." in text
    table = page(own_run).partition('id="classes"')[2].partition("</table>")[0]
    supports = [int(each) for each in re.findall(r"</th><td>(\d+)</td>", table)]
    assert sum(supports) == 20 < len(rows)
    unsure = json.loads((own_run / "evaluation.json").read_text())["unsure"]
    unsure["test"] = {"pictures": 20, "answered": 15, "wrong": 1}
    made_run.change(own_run, "evaluation.json", unsure=unsure)
    assert "test, without leaks201" in body(own_run).replace(" ", "").replace(
        "test,withoutleaks", "test, without leaks"
    )


def test_stage_that_was_left_out_is_not_called_trained(own_run):
    assert "left out" not in re.search(r'aria-label="Stages".*?</table>', page(own_run), re.S)[0]
    made_run.change(own_run, "run.json", stages=[])
    rows = re.findall(r"<tr>(.*?)</tr>", re.search(r'"Stages".*?</table>', page(own_run), re.S)[0])
    head, upper = (re.findall(r"<td[^>]*>(.*?)</td>", each) for each in rows[-2:])
    assert (head[-1], plain(head[-2])) == ("fitted", "83.0 %")
    assert upper[1:] == ["–", "–", "–", "left out"]


def test_unjudged_pictures_are_left_out_of_the_promise_about_unsure_ones(own_run):
    folds = {"folds": 5, "tried": [], "chosen": "head", "failure": ""}
    unsure = json.loads((own_run / "evaluation.json").read_text())["unsure"]
    rows = [row for row in made_run.read(own_run, "predictions.csv") if row["split"] == "test"]
    made_run.write_table(
        own_run / "predictions.csv", [row | {"split": "out-of-fold"} for row in rows]
    )
    for threshold in (0.0, 0.7, 1.1):
        made_run.change(
            own_run,
            "evaluation.json",
            cross_validation=folds | {"unknown": 6},
            unsure=unsure | {"threshold": threshold},
        )
        text = body(own_run)
        assert text.count("(not counting 6 pictures whose class no other fold has, so that") == 1
    made_run.change(own_run, "evaluation.json", cross_validation=folds)
    assert "not counting" not in body(own_run)


def test_curve_of_one_size_is_not_drawn(own_run):
    curve = json.loads((own_run / "evaluation.json").read_text())["learning_curve"]
    assert "extrapolated" in body(own_run)
    one = curve | {"points": curve["points"][:1]}
    made_run.change(own_run, "evaluation.json", learning_curve=one)
    text = body(own_run)
    assert "This cannot be told" in text
    assert "extrapolated" not in text
    assert "Classes that would gain most" not in text


def test_few_groups_are_told_beside_the_interval(own_run):
    row = dict.fromkeys(made_run.read(own_run, "findings.csv")[0], "")
    row |= {"problem": "no", "kind": "few-groups", "name": "test"}
    row |= {"detail": "60 pictures of 5 groups"}
    findings = [row, *made_run.read(own_run, "findings.csv")]
    made_run.write_table(own_run / "findings.csv", findings)
    header = plain(page(own_run).partition("<header>")[2].partition("</header>")[0])
    assert "these are 60 pictures of 5 groups of the source" in header
    assert "few groups" in body(own_run)


def test_macro_f1_is_explained_as_it_is_computed(run):
    assert "Macro-F1 is the mean F1 of the classes that these pictures are of" in body(run)
