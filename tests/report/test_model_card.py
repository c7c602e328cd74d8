import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import efftune
from conftest import square
from efftune.errors import EfftuneWarning
from efftune.report import model_card
from efftune.system.text import shown
from report import made_run

HOSTILE = (
    *('quo"te', "it's: a - colon", "line\nbreak", "- list", "#hash", "---", "caf\udce9", "😀 猫"),
    *("a | b", "<script>x</script>", "*bold* `code` [x](y)", "\\", "{{ 7 * 7 }}", "no"),
    *("1e-05", "&amp;"),
    "turned \u202egpj",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run.write(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def own_run(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def tables(card):
    """The rows of all tables of a card, each cell as it is read."""
    found, row, in_cell = [], [], False
    for token in MarkdownIt("commonmark").enable("table").parse(ModelCard(card).text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append(row := [])
        elif token.type in ("th_open", "td_open"):
            in_cell = True
        elif token.type == "inline" and in_cell:
            in_cell = False
            row.append("".join(each.content for each in token.children))
    return found


def renamed(folder, names):
    """Give the classes of a made-up run other names, wherever they are."""
    made_run.write_json(folder / "classes.json", list(names))
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    for split in ("val", "test"):
        score = evaluation[split]
        for each, name in zip(score["per_class"], names, strict=True):
            each["name"] = name
        score["confused"] = [{"label": names[0], "answer": names[1], "pictures": 3}]
        score["commonest"] = names[0]
    made_run.write_json(folder / "evaluation.json", evaluation)
    made_run.change(folder, "run.json", source=f"/home/anna/{names[0].replace('/', '-')}")


def test_card_is_one_of_the_hub(own_run):
    model_card.write(own_run)
    card = ModelCard.load(own_run / "MODEL_CARD.md")
    assert isinstance(card.data, ModelCardData)
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.library_name == "efftune"
    (accuracy, *_) = card.data.eval_results
    evaluation = json.loads((own_run / "evaluation.json").read_text(encoding="utf-8"))
    assert accuracy.metric_value == round(evaluation["test"]["accuracy"], 4)
    assert (accuracy.metric_type, accuracy.dataset_name) == ("accuracy", "my photos")
    assert (accuracy.task_type, accuracy.dataset_split) == ("image-classification", "test")
    metadata = metadata_load(own_run / "MODEL_CARD.md")
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == card.data.model_name
    assert [each.metric_type for each in results] == ["accuracy", "f1", "loss"]


def test_card_tells_what_the_run_holds(finished_run):
    card = (finished_run.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == model_card.text(finished_run.folder)
    test = finished_run.evaluation.test
    assert ModelCard(card).data.license == "apache-2.0"
    classes = tables(card)[0]
    assert [row[0] for row in classes[1:]] == ["blue", "green", "red"]
    assert [row[1:4] for row in classes[1:]] == [["6", "2", "2"]] * 3
    assert f"{test.pictures} test pictures that were used for nothing else" in card
    assert f"temperature of {finished_run.evaluation.calibration.temperature:.3f}" in card
    assert "published weights that training began with are under Apache-2.0" in card
    assert finished_run.record["versions"]["keras"] in card
    source = Path(finished_run.record["source"])
    assert source.name in card
    for secret in (str(source.parent), str(finished_run.folder.parent), str(Path.home()) + os.sep):
        assert secret not in card


def test_run_without_counts_of_classes_reads_its_examples(finished_run, tmp_path):
    old = shutil.copytree(finished_run.folder, tmp_path / "old")
    data = {key: each for key, each in finished_run.record["data"].items() if key != "classes"}
    made_run.change(old, "run.json", data=data)
    assert model_card.text(old) == model_card.text(finished_run.folder)
    (old / "examples.csv").unlink()
    with pytest.raises(efftune.DataError, match=r"examples\.csv is missing"):
        model_card.text(old)


def test_weights_of_ones_own_have_no_known_licence(finished_run, tmp_path):
    own = shutil.copytree(finished_run.folder, tmp_path / "own")
    recipe = (own / "recipe.toml").read_text(encoding="utf-8")
    (own / "recipe.toml").write_text(recipe.replace('"imagenet"', '"/home/anna/mine.pt"'))
    card = model_card.text(own)
    assert ModelCard(card).data.license is None
    assert "not known" in card
    assert "anna" not in card


def test_few_groups_are_told_beside_the_interval(own_run):
    assert "for pictures of new groups" not in model_card.text(own_run)
    row = dict.fromkeys(made_run.read(own_run, "findings.csv")[0], "")
    row |= {"kind": "few-groups", "name": "test", "detail": "60 pictures of 5 groups"}
    made_run.write_table(own_run / "findings.csv", [row])
    assert "these are 60 pictures of 5 groups of the source" in model_card.text(own_run)
    (own_run / "findings.csv").unlink()  # as in a run from the Hub
    assert "for pictures of new groups" not in model_card.text(own_run)


def test_out_of_fold_scores_are_told_as_such(own_run):
    evaluation = json.loads((own_run / "evaluation.json").read_text(encoding="utf-8"))
    folds = {"folds": 5, "tried": [], "chosen": "head", "failure": ""}
    made_run.change(own_run, "evaluation.json", cross_validation=folds, val=evaluation["test"])
    card = model_card.text(own_run)
    assert "by 5-fold cross-validation" in card
    assert {each.dataset_split for each in ModelCard(card).data.eval_results} == {
        "cross-validation"
    }
    assert [row[0] for row in tables(card)[2][1:]] == ["all, out of fold"]


def test_leaks_and_reused_pictures_are_told(own_run):
    evaluation = json.loads((own_run / "evaluation.json").read_text(encoding="utf-8"))
    record = json.loads((own_run / "run.json").read_text(encoding="utf-8"))
    clean = evaluation["test"] | {"pictures": 58, "accuracy": 0.5}
    made_run.change(own_run, "evaluation.json", test_without_leaks=clean)
    made_run.change(own_run, "run.json", data=record["data"] | {"leaked": {"val": 0, "test": 2}})
    card = model_card.text(own_run)
    assert ModelCard(card).data.eval_results[0].metric_value == 0.5
    assert ["test pictures with a copy in an earlier split", "2"] in tables(card)[1]
    made_run.change(own_run, "run.json", data=record["data"] | {"val_is_test": True})
    assert "optimistic" in model_card.text(own_run)


@pytest.mark.parametrize("missing", ["calibration", "unsure", "unlike"])
def test_what_was_not_computed_is_left_out(own_run, missing):
    made_run.change(own_run, "evaluation.json", **{missing: None})
    card = model_card.text(own_run)
    assert ("not calibrated" in card) == (missing == "calibration")
    assert ("*Unsure*" in card) == (missing != "unsure")
    assert ("*Unlike" in card) == (missing != "unlike")


@pytest.mark.parametrize(
    ("threshold", "told"),
    [(0.0, "no answer is"), (1.1, "every answer is"), (0.7, "an answer below 70.0")],
)
def test_threshold_of_unsure_answers_is_told(own_run, threshold, told):
    unsure = json.loads((own_run / "evaluation.json").read_text(encoding="utf-8"))["unsure"]
    made_run.change(own_run, "evaluation.json", unsure=unsure | {"threshold": threshold})
    card = model_card.text(own_run)
    assert f"*Unsure*: {told}" in card
    assert "were marked; of the others" in card


NAMES = st.lists(
    st.one_of(
        st.sampled_from(HOSTILE),
        st.text(st.characters(codec=None), min_size=1, max_size=40),
    ),
    min_size=5,
    max_size=5,
    unique=True,
)


@settings(max_examples=25, deadline=None)
@given(names=NAMES)
def test_hostile_names_break_neither_metadata_nor_tables(run, tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("hostile") / "run"
    folder.mkdir()
    for name in ("run.json", "evaluation.json", "recipe.toml"):
        shutil.copy(run / name, folder)
    renamed(folder, names)
    made_run.change(
        folder,
        "run.json",
        data=json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
        | {"classes": {split: [1, 2, 3, 4, 5] for split in ("train", "val", "test")}},
    )
    model_card.write(folder)
    card = ModelCard.load(folder / "MODEL_CARD.md")
    seen = [shown(each.encode(errors="backslashreplace").decode()) for each in names]
    assert [row[0] for row in tables(str(card))[0][1:]] == [each.strip() for each in seen]
    assert card.data.tags[-1] == "efftune"
    assert len(card.data.eval_results) == 3
    name = card.data.eval_results[0].dataset_name
    assert isinstance(name, str)
    assert name
    assert "anna" not in name or "anna" in names[0]
    assert metadata_load(folder / "MODEL_CARD.md")["model-index"][0]["results"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/home/anna/photos", "photos"),
        ("photos/", "photos"),
        (".", "pictures"),
        ("..", "pictures"),
        ("~", "pictures"),
        ("sample:digits", "sample:digits"),
        ("tfds:stanford_dogs", "tfds:stanford_dogs"),
        ("hf:beans", "hf:beans"),
        ("hf:./saved-set", "saved-set"),
        ("hf:/home/anna/set", "set"),
        ("C: drive", "C: drive"),
        ("s3://bucket/photos/", "photos"),
        ("hf://datasets/anna/set", "set"),
        ("https://example.org/photos.zip?key=secret", "photos.zip"),
    ],
)
def test_source_is_named_without_its_place(source, name):
    assert model_card.dataset_name(source) == name


def test_sets_of_the_hub_are_named_as_such(own_run):
    made_run.change(own_run, "run.json", source="hf:user/beans:small")
    result = ModelCard(model_card.text(own_run)).data.eval_results[0]
    assert (result.dataset_type, result.dataset_config) == ("user/beans", "small")


def test_report_writes_the_card_again(finished_run, tmp_path):
    copy = shutil.copytree(finished_run.folder, tmp_path / "elsewhere")
    card = copy / "MODEL_CARD.md"
    before = card.read_bytes()
    card.write_text("edited")
    efftune.Run.load(copy).report()
    assert card.read_bytes() == before


def test_card_that_cannot_be_written_is_a_warning(own_run):
    (own_run / "MODEL_CARD.md").mkdir()
    with pytest.warns(EfftuneWarning, match=r"MODEL_CARD\.md was not written"):
        model_card.write(own_run)
    (own_run / "MODEL_CARD.md").rmdir()
    (own_run / "evaluation.json").write_text("{}")
    with pytest.warns(EfftuneWarning, match="damaged"):
        model_card.write(own_run)
    assert not (own_run / "MODEL_CARD.md").exists()


def blocks(card, language):
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


@pytest.mark.long
def test_every_command_of_the_card_runs(finished_run, efftune_command, tmp_path):
    run = shutil.copytree(finished_run.folder, tmp_path / "run")
    square((200, 50, 40), seed=1).save(run / "photo.jpg")
    card = (run / "MODEL_CARD.md").read_text(encoding="utf-8")
    (commands,) = blocks(card, "sh")
    assert len(commands.splitlines()) == 3
    for command in commands.splitlines():
        program, *arguments = command.split()
        assert program == "efftune"
        done = efftune_command(*arguments, cwd=run)
        assert done.returncode == 0, done.stderr
    (code,) = blocks(card, "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("red 0.")


@pytest.mark.parametrize(
    "name",
    [
        "onnx",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("openvino-f16", "litert", "litert-int8", "openvino-int8", "savedmodel")
        ),
    ],
)
@pytest.mark.parametrize(
    "fit", ["crop", *(pytest.param(fit, marks=pytest.mark.long) for fit in ("pad", "stretch"))]
)
def test_code_in_the_card_of_an_export_runs(finished_run, tmp_path, name, fit):
    run = efftune.Run.load(shutil.copytree(finished_run.folder, tmp_path / "run"))
    (made,) = run.export(name, tmp_path)
    folder = made.path.parent
    card = ModelCard.load(folder / "MODEL_CARD.md")
    assert made.receipt.runtime in card.text
    assert card.data.eval_results
    model = finished_run.record["model"] | {"fit": fit}
    made_run.change(run.folder, "run.json", model=model)
    card = model_card.text(run.folder, receipt=made.receipt.to_dict())
    square((200, 50, 40), seed=1).save(folder / "photo.jpg")
    (code,) = blocks(card, "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("red 0.")


def test_card_tells_which_numbers_count_leaks(own_run):
    evaluation = json.loads((own_run / "evaluation.json").read_text(encoding="utf-8"))
    record = json.loads((own_run / "run.json").read_text(encoding="utf-8"))
    groups = {"leaked": {"val": 0, "test": 2}, "findings": {"group-leak": 2}}
    made_run.change(own_run, "run.json", data=record["data"] | groups)
    clean = evaluation["test"] | {"pictures": 58}
    clean["per_class"] = [each | {"recall": 0.123} for each in clean["per_class"]]
    made_run.change(own_run, "evaluation.json", test_without_leaks=clean)
    card = model_card.text(own_run)
    related = "copies or pictures of the same group in an earlier split"
    assert f"the test pictures that have no {related}." in card
    assert f"test, without {related}" in [row[0] for row in tables(card)[2]]
    assert [f"test pictures with {related}", "2"] in tables(card)[1]
    assert {row[4] for row in tables(card)[0][1:]} == {"12.3\N{NO-BREAK SPACE}%"}
    assert f"These are of all test pictures, also of those with {related}." in card
    assert "Of all test pictures, " in card
    unsure = evaluation["unsure"] | {"test": {"pictures": 58, "answered": 50, "wrong": 1}}
    made_run.change(own_run, "evaluation.json", unsure=unsure)
    assert "Of the test pictures, " in model_card.text(own_run)


def test_accuracy_on_leaks_alone_is_told_as_such(own_run):
    record = json.loads((own_run / "run.json").read_text(encoding="utf-8"))
    leaked = {"leaked": {"val": 0, "test": 60}}
    made_run.change(own_run, "run.json", data=record["data"] | leaked)
    card = model_card.text(own_run)
    assert "used for nothing else" not in card
    assert "on 60 test pictures, all of which have copies\nin an earlier split: this says" in card


def test_promise_about_unsure_answers_leaves_out_what_could_not_be_judged(own_run):
    evaluation = json.loads((own_run / "evaluation.json").read_text(encoding="utf-8"))
    folds = {"folds": 5, "tried": [], "chosen": "head", "failure": "", "unknown": 6}
    calibration = evaluation["calibration"]
    made_run.change(own_run, "evaluation.json", cross_validation=folds, val=evaluation["test"])
    card = model_card.text(own_run)
    assert "among the others (not counting 6 pictures whose class no other fold has)." in card
    assert "6 pictures count as mistakes, since no other fold has their class; of the other" in card
    told = "Pictures whose class no other fold has are not counted."
    assert told not in card  # earlier versions counted them
    bins = [each | {"pictures": each["pictures"] // 2} for each in calibration["bins"]["after"]]
    calibration["bins"]["after"] = bins
    made_run.change(own_run, "evaluation.json", calibration=calibration)
    assert told in model_card.text(own_run)
