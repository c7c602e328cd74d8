import csv
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import efftune
from conftest import COLOURS, fill, square
from efftune.cli import tables
from efftune.cli.main import app

MODULES = (
    "import sys; sys.argv[1:] = {arguments!r}\n"
    "from efftune.cli.main import main\n"
    "try:\n    main()\nfinally:\n"
    "    heavy = {{'keras', 'tensorflow', 'jax', 'torch'}} & set(sys.modules)\n"
    "    print('heavy:', sorted(heavy), file=sys.stderr)\n"
)


QUICK = ["--recipe", "quick", "--image-size", 32, "--test", 0.15]
FINE_TUNED = ["--image-size", 32, "--unfreeze", "block7", "--epochs", 1, "--test", 0.15]


def modules_after(*arguments):
    """Run a command in a new process; returns the line listing the frameworks it imported."""
    script = MODULES.format(arguments=[str(each) for each in arguments])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


LIGHT = {  # what --help may load in addition to the standard library
    *("efftune", "typer", "rich", "shellingham", "annotated_types", "typing_extensions"),
    "annotated_doc",
    *("markdown_it", "mdurl", "pygments", "attr"),  # which rich loads if they are installed
}
OF_TYPER = {"pydantic", "pydantic_core", "typing_inspection"}  # loaded when a command is built


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [(["--help"], LIGHT), (["--version"], LIGHT), (["train", "--help"], LIGHT | OF_TYPER)],
)
def test_help_loads_light_modules_only(arguments, allowed):
    script = (
        "import sys; before = set(sys.modules); "
        f"sys.argv[1:] = {arguments!r}; "
        "from efftune.cli.main import main\n"
        "try:\n    main()\nfinally:\n"
        "    loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "    print(*sorted(loaded - sys.stdlib_module_names), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {name for name in done.stderr.split() if not name.startswith("_")} <= allowed


@pytest.mark.ci
def test_predict_and_evaluate_import_no_framework(finished_run, source):
    assert modules_after("predict", finished_run.folder, source / "red") == "heavy: []"
    assert modules_after("evaluate", finished_run.folder, source) == "heavy: []"


@pytest.mark.ci
def test_quick_training_imports_keras_alone(source, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert modules_after("train", source, *QUICK, "--run", tmp_path / "run") == "heavy: ['keras']"


def test_version(efftune_command):
    assert efftune_command("--version").stdout == f"efftune {efftune.__version__}\n"


def test_train_prints_the_score_and_where_the_run_is(efftune_command, source, tmp_path):
    done = efftune_command("train", source, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "30 pictures of 3 classes: train 18 · val 6 · test 6" in done.stdout
    assert "100 %" in done.stdout
    assert "runs/squares-lite0-1" in done.stdout
    assert "features" in done.stderr
    assert (tmp_path / "runs" / "squares-lite0-1" / "run.json").exists()


@pytest.mark.ci
def test_train_json_ends_with_one_line(efftune_process, source):
    done = efftune_process(
        "train", source, "--recipe", "quick", "--image-size", 32, "--json", "--quiet"
    )
    (line,) = done.stdout.splitlines()
    output = json.loads(line)
    assert done.stderr == ""
    assert output["run"] == "runs/squares-lite0-1"
    assert (output["model"], output["recipe"]) == ("efficientnet-lite0", "quick")
    assert output["val"] == {"accuracy": 1.0}
    assert set(output["test"]) == {"accuracy", "low", "high"}
    assert output["seconds"] > 0


@pytest.mark.ci
def test_options_reach_the_recipe(efftune_command, source, tmp_path):
    (tmp_path / "mine.toml").write_text("seed = 5\nfit = 'pad'\nval_fraction = 0.3\n")
    options = ["--config", "mine.toml", "--fit", "stretch", "--test", 0.2, "--set", "head_folds=4"]
    done = efftune_command(
        "train", source, "--recipe", "quick", "--image-size", 32, *options, "--run", "mine"
    )
    assert done.returncode == 0, done.stderr
    recipe = efftune.Run.load(tmp_path / "mine").recipe
    assert (recipe.seed, recipe.backbone.fit, recipe.head.folds) == (5, "stretch", 4)
    assert (recipe.data.val, recipe.data.test) == (0.3, 0.2)


def test_evaluate_prints_every_class(efftune_command, finished_run, source):
    done = efftune_command("evaluate", finished_run.folder, source)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("red", "green", "blue", "95 % interval"))
    output = json.loads(efftune_command("evaluate", finished_run.folder, source, "--json").stdout)
    assert (output["pictures"], output["accuracy"]) == (30, 1.0)
    trained = finished_run.record["data"]["pictures"]["train"]
    assert output["trained_on"] == trained < 30
    assert f"was trained on {trained} of these pictures" in done.stdout


@pytest.mark.ci
def test_pictures_of_another_source_were_not_trained_on(efftune_command, finished_run, tmp_path):
    for seed, (name, colour) in enumerate(COLOURS.items()):
        (tmp_path / "new" / name).mkdir(parents=True)
        square(colour, seed=900 + seed).save(tmp_path / "new" / name / "a.png")
    done = efftune_command("evaluate", finished_run.folder, tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert "trained on" not in done.stdout


@pytest.mark.ci
def test_pictures_that_were_not_used_or_are_not_listed_were_not_trained_on(
    efftune_command, finished_run, source, tmp_path
):
    run = shutil.copytree(finished_run.folder, tmp_path / "run")
    text = (run / "examples.csv").read_text()
    command = ("evaluate", run, source, "--json")
    (run / "examples.csv").write_text(text.replace(",used,", ",set aside,"))
    assert json.loads(efftune_command(*command).stdout)["trained_on"] == 0
    (run / "examples.csv").write_text(text.replace("sha256", "other", 1))
    done = efftune_command(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert "examples.csv is damaged" in done.stderr
    (run / "examples.csv").unlink()  # as in a run from the Hub
    assert json.loads(efftune_command(*command).stdout)["trained_on"] is None


@pytest.mark.ci
def test_time_of_a_search_is_no_setting(efftune_command, source):
    done = efftune_command("search", source, "--set", "budget=15s")
    assert done.returncode == 2
    assert "time of a search is --budget" in done.stderr


@pytest.mark.parametrize(
    "words",
    [("train", ""), ("sort", "run", ".", "--into", ""), ("check", ".", "--out="), ("runs", "")],
)
def test_empty_argument_is_not_the_current_folder(efftune_command, tmp_path, words):
    done = efftune_command(*words)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "of the command is empty" in done.stderr


@pytest.mark.ci
@pytest.mark.parametrize("place", [0, 4])
def test_fetching_is_a_flag(efftune_command, source, place):
    command = ["train", "--model", "auto", "--weights", "advprop.h5"]
    command.insert(1 + place, "--fetch")
    done = efftune_command(*command, source)
    assert done.returncode == 2
    assert "name a model for --weights advprop.h5" in done.stderr


@pytest.mark.ci
def test_options_of_a_search_are_those_of_training(efftune_command):
    text = " ".join(efftune_command("search", "--help").stdout.replace("│", " ").split())
    assert "--set" in text
    assert "default: efficientnet-lite0" not in text
    assert "Fine-tuning ─" in text


def test_predict_prints_a_table(efftune_command, finished_run, source):
    done = efftune_command("predict", finished_run.folder, source / "red" / "01.png")
    assert done.returncode == 0, done.stderr
    assert "01.png" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("red")


def test_predict_json_is_an_object_a_line(efftune_command, finished_run, source):
    done = efftune_command("predict", finished_run.folder, source / "red", "--json", "--top", 2)
    output = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(output) == 10
    assert {each["label"] for each in output} == {"red"}
    assert all(len(each["top"]) == 2 for each in output)


def test_predict_prints_unsure_and_unlike(efftune_command, finished_run, source):
    command = ("predict", finished_run.folder, source / "red" / "01.png", "--top", 3)
    calibrated, raw = (
        json.loads(efftune_command(*command, "--json", *more).stdout) for more in ([], ["--raw"])
    )
    assert {"unsure", "unlike"} <= calibrated.keys()
    assert calibrated["confidence"] != raw["confidence"]
    done = efftune_command(*command, "--csv", "--max-error", "0%")
    header, *rows = csv.reader(io.StringIO(done.stdout))
    assert header == ["path", "rank", "label", "confidence", "unsure", "unlike"]
    assert {cell for row in rows for cell in row[4:]} <= {"yes", "no"}
    done = efftune_command(*command, "--max-error", "lots")
    assert (done.returncode, "max_error" in done.stderr) == (2, True)


def test_report_and_review_print_their_pages(efftune_command, finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    done = efftune_command("report", "run")
    assert (done.returncode, done.stdout) == (0, "run/report.html\n"), done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    done = efftune_command("review", "run")
    assert (done.returncode, done.stdout) == (0, "run/review.html\n"), done.stderr
    done = efftune_command("review", tmp_path / "nowhere")
    assert (done.returncode, "no run folder" in done.stderr) == (2, True)


def test_accepted_labels_come_with_the_command_that_uses_them(efftune_command, finished_run):
    done = efftune_command("review", finished_run.folder, "--accept", 0)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.ci
def test_command_of_accepted_labels_trains_with_them_and_the_run_s_settings(
    efftune_command, source, tmp_path
):
    photos = shutil.copytree(source, tmp_path / "my photos")
    chosen = [*QUICK, "--seed", 3, "--fit", "pad", "--max-error", "5%"]
    done = efftune_command("train", photos.name, *chosen, "--run", "my run")
    assert "Use it:          efftune predict 'my run' PHOTO.jpg" in done.stdout
    (tmp_path / "my run" / "labels.csv").write_text(
        "path,label,decision,new_label\nred/01.png,red,relabel,blue\n", encoding="utf-8"
    )
    done = efftune_command("review", "my run", "--accept", 1)
    (command,) = re.findall(r"Train with them: efftune (.*)", done.stdout)
    done = efftune_command(*shlex.split(command), "--run", "again")
    assert done.returncode == 0, done.stderr
    assert "red/01.png,blue" in (tmp_path / "again" / "examples.csv").read_text()
    before, after = (efftune.Run.load(tmp_path / name).recipe for name in ("my run", "again"))
    assert after == before.changed(labels="my run/labels.csv")


def test_json_has_ascii_alone(efftune_command, finished_run, source, tmp_path):
    shutil.copy(source / "red" / "01.png", tmp_path / "für später.png")
    for command in ("predict", "explain"):
        done = efftune_command(command, finished_run.folder, "für später.png", "--json")
        assert done.stdout.isascii(), command
        assert json.loads(done.stdout)["path"] == "für später.png"


def test_where_labels_look_wrong_is_told_by_a_command_that_can_be_pasted(
    finished_run, tmp_path, capsys
):
    run = efftune.Run.load(shutil.copytree(finished_run.folder, tmp_path / "my run"))
    run.record["likely_wrong_labels"] = 2
    tables.show_run(run)
    assert f"2 look wrong; see efftune review '{run.folder}' --open" in capsys.readouterr().out


@pytest.mark.ci
def test_labels_reach_training(efftune_command, source, tmp_path):
    (tmp_path / "labels.csv").write_text(
        "path,label,decision,new_label\nred/01.png,red,drop,\n", encoding="utf-8"
    )
    done = efftune_command("train", source, *QUICK, "--labels", "labels.csv", "--run", "run")
    assert done.returncode == 0, done.stderr
    assert "red/01.png,red" in (tmp_path / "run" / "examples.csv").read_text()
    assert "dropped in review" in (tmp_path / "run" / "examples.csv").read_text()
    assert "1 file set aside" in done.stdout
    done = efftune_command("train", source, *QUICK, "--labels", "gone.csv")
    assert (done.returncode, "gone.csv" in done.stderr) == (2, True)


def test_explain_draws_and_names_unreadable_pictures(
    efftune_command, finished_run, source, tmp_path
):
    (tmp_path / "broken.png").write_bytes(b"x")
    command = ("explain", finished_run.folder, source / "red" / "01.png")
    done = efftune_command(*command, "broken.png", "--out", "drawn")
    assert done.returncode == 1
    assert "broken.png: not an image" in done.stderr
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["01-explained.png"]
    done = efftune_command(*command, "--label", "rad")
    assert (done.returncode, "Did you mean 'red'" in done.stderr) == (2, True)


@pytest.mark.long
def test_compare_prints_runs_side_by_side(efftune_command, finished_run, tuned_run, tmp_path):
    folders = (finished_run.folder, tuned_run.folder)
    done = efftune_command("compare", *folders, "--out", "drawn.png")
    assert done.returncode == 0, done.stderr
    assert "On the 6 test pictures" in done.stdout
    assert (tmp_path / "drawn.png").exists()
    output = json.loads(efftune_command("compare", *folders, "--json").stdout)
    assert [each["recipe"] for each in output["runs"]] == ["quick", "balanced"]
    assert efftune_command("compare", finished_run.folder).returncode == 2


@pytest.mark.ci
def test_classify_names_what_a_picture_shows(efftune_command, source):
    done = efftune_command("classify", source / "red" / "01.png", "--json", "--top", 3)
    assert done.returncode == 0, done.stderr
    (output,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(output["top"]) == 3
    assert output["label"] == output["top"][0]["label"]
    answer = output["top"][0]
    assert answer["class_index"] == output["class_index"]
    assert re.fullmatch(r"n\d{8}", answer["wordnet_id"])
    done = efftune_command("classify", source / "red" / "01.png", "--csv", "--top", 2)
    header, first, _second = done.stdout.splitlines()
    assert header.endswith("unlike,class_index,wordnet_id")
    assert first.endswith(f"{answer['class_index']},{answer['wordnet_id']}")


def test_classify_with_other_weights_names_those_that_there_are(efftune_command, source):
    done = efftune_command("classify", source / "red" / "01.png", "--weights", "noisy-student")
    assert done.returncode == 2
    assert "No noisy-student weights are published for efficientnet-lite0" in done.stderr
    assert "imagenet, timm" in done.stderr


def test_classify_without_weights_names_a_model_that_has_them(efftune_command, source, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    done = efftune_command("classify", source / "red" / "01.png", "--model", "efficientnet-b0")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "efficientnet-lite0" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_lists_the_family(efftune_command):
    done = efftune_command("models")
    assert done.returncode == 0, done.stderr
    rows = [line.split()[0] for line in done.stdout.splitlines() if "efficientnet-" in line]
    assert len(rows) == 20
    assert "downloaded on first use" in done.stdout
    output = json.loads(efftune_command("models", "--json").stdout)
    assert {row["name"] for row in output} == set(rows)
    assert [row["here"] for row in output if row["name"] == "efficientnet-lite0"] == [True]
    assert re.search(r"b0 +noisy-student +78\.7 % +224 px +Apache-2\.0 +downloaded", done.stdout)
    (b4,) = (row for row in output if row["name"] == "efficientnet-b4")
    names = ["imagenet", "noisy-student", "advprop", "autoaugment", "timm"]
    assert [each["weights"] for each in b4["published"]] == names


def test_unknown_model_is_not_fetched(efftune_command):
    done = efftune_command("models", "--fetch", "efficientnet-b9")
    assert done.returncode == 2
    assert "Did you mean 'efficientnet-b" in done.stderr


def test_predict_csv_has_a_row_per_class(efftune_command, finished_run, source):
    done = efftune_command("predict", finished_run.folder, source / "red", "--csv", "--top", 2)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["rank"] for row in rows] == ["1", "2"] * 10
    assert rows[0]["label"] == "red"


def test_predict_goes_on_past_a_bad_file_and_exits_with_1(
    efftune_command, finished_run, source, tmp_path
):
    whole = (source / "red" / "00.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    done = efftune_command(
        "predict", finished_run.folder, "cut.jpg", source / "red" / "01.png", "--json"
    )
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "cut.jpg: truncated" in done.stderr


def no_number(text):
    raise ValueError(f"{text} is not JSON")


@pytest.mark.ci
@pytest.mark.parametrize(
    "command",
    [
        *(["check", "SOURCE"], ["train", "SOURCE", *QUICK, "--dry-run"], ["models"]),
        *(["evaluate", "RUN", "SOURCE"], ["predict", "RUN", "PICTURE"], ["classify", "PICTURE"]),
        *(["report", "RUN"], ["review", "RUN"], ["explain", "RUN", "PICTURE"]),
        ["compare", "RUN", "RUN"],
    ],
    ids=lambda command: command[0],
)
def test_json_is_all_that_is_printed(efftune_command, finished_run, source, tmp_path, command):
    """`train` and `demo` themselves: below, and in the test of the wheel."""
    run = shutil.copytree(finished_run.folder, tmp_path / "run")  # some commands write to it
    places = {"RUN": run, "SOURCE": source, "PICTURE": source / "red" / "01.png"}
    done = efftune_command(*(places.get(word, word) for word in command), "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    json.loads(done.stdout, parse_constant=no_number)


def test_every_command_has_json_and_quiet():
    for command in app.registered_commands:
        assert {"json", "quiet"} <= inspect.signature(command.callback).parameters.keys()


WARNS = """
import sys, warnings, efftune

def list_models():
    warnings.warn("from a dependency", RuntimeWarning, stacklevel=1)
    warnings.warn("from a dependency", UserWarning, stacklevel=2)
    warnings.warn("the cache is full", efftune.EfftuneWarning, stacklevel=2)
    return ()

efftune.models = list_models
sys.argv = ["efftune", "models", "--json"]
from efftune.cli.main import main
main()
"""


def test_warnings_of_dependencies_are_hidden_and_ours_are_not():
    done = subprocess.run([sys.executable, "-c", WARNS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert done.stderr == "efftune: the cache is full\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_streams_are_no_fault(finished_run, source, closed):
    """As in a service that closes what it does not use."""
    picture = source / "red" / "01.png"
    command = [sys.executable, "-m", "efftune", "predict", str(finished_run.folder), str(picture)]
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("red" in done.stdout) == (closed != ">&-")
    assert "Traceback" not in done.stderr


@pytest.fixture
def table(source, tmp_path):
    """A table of the squares with custom column names and a row for a missing file."""
    rows = [
        f"{path};{path.parent.name};{'test' if path.stem > '06' else 'train'};{path.stem}"
        for path in sorted(source.rglob("*.*g"))
    ]
    (tmp_path / "squares.csv").write_text(
        "\n".join(["file;colour;fold;who", *rows, "gone.png;red;;"])
    )
    return tmp_path / "squares.csv"


@pytest.mark.long
def test_table_with_other_columns_is_trained_on_and_evaluated(efftune_command, table, tmp_path):
    named = {"path": "file", "label": "colour", "split": "fold", "group": "who"}
    columns = [part for role, name in named.items() for part in (f"--{role}-column", name)]
    done = efftune_command("train", "squares.csv", *QUICK, *columns, "--run", "run")
    assert done.returncode == 0, done.stderr
    run = efftune.Run.load(tmp_path / "run")
    assert {role: getattr(run.recipe.data, f"{role}_column") for role in named} == named
    assert run.record["data"]["pictures"]["test"] == 9
    assert run.record["data"]["set_aside"] == 1
    done = efftune_command("evaluate", "run", "squares.csv", "--split", "train", "--json")
    assert json.loads(done.stdout)["pictures"] == 21
    table.write_text(table.read_text().replace("colour", "label"))
    done = efftune_command("evaluate", "run", "squares.csv", "--json")
    assert done.returncode == 1
    assert "no column 'colour'" in done.stderr
    done = efftune_command("evaluate", "run", "squares.csv", "--label-column", "label", "--json")
    assert json.loads(done.stdout)["pictures"] == 9


@pytest.mark.ci
@pytest.mark.parametrize(
    ("command", "stdin", "code"),
    [
        (["predict", "RUN", "-"], "{red}\n{blue}\n", 0),
        (["predict", "RUN", "{red}", "-"], "{blue}\0", 0),
        (["classify", "-"], "{red}\n{blue}\n", 0),
        (["predict", "RUN", "-"], "", 2),
    ],
)
def test_paths_are_read_from_standard_input(
    efftune_process, finished_run, source, command, stdin, code
):
    names = {"red": source / "red" / "01.png", "blue": source / "blue" / "01.png"}
    arguments = [
        str(finished_run.folder) if each == "RUN" else each.format(**names) for each in command
    ]
    done = efftune_process(*arguments, "--json", stdin=stdin.format(**names))
    assert done.returncode == code, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["path"] for line in lines] == ([] if code else [str(names[n]) for n in names])
    assert ("Standard input is empty" in done.stderr) == bool(code)


@pytest.fixture
def mistakes(tmp_path, finished_run, source):
    """A folder with everything that the invalid commands below refer to."""
    fill(tmp_path / "one" / "photos", count=3)
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "lonely", count=4)
    for extra in sorted((tmp_path / "lonely" / "red").iterdir())[1:]:
        extra.unlink()
    fill(tmp_path / "unreadable", count=1)
    for path in (tmp_path / "unreadable").rglob("*.*g"):
        path.write_text("text")
    fill(tmp_path / "onlyred", count=5)
    for name in ("blue", "green"):
        for path in (tmp_path / "onlyred" / name).iterdir():
            path.unlink()
        (tmp_path / "onlyred" / name).rmdir()
    for split in ("train", "val", "test"):
        fill(tmp_path / "gap" / split, count=2)
    for path in (tmp_path / "gap" / "val" / "red").iterdir():
        path.unlink()
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "split.csv").write_text("path,label,split\na.png,a,train\nb.png,b,tset\n")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "link").symlink_to(finished_run.folder)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "nowhere"], 2, "There is no folder 'nowhere'"),
        (["train", "text.txt"], 2, "is a file"),
        (["train", "gone.csv"], 2, "There is no file 'gone.csv'"),
        (["train", "split.csv"], 1, "split.csv, line 3: there is no split 'tset'"),
        (["train", "split.csv", "--path-column", "file"], 1, "--path-column"),
        (["train", "cut.zip"], 1, "cut.zip is damaged, truncated or not an archive"),
        (["train", "empty"], 1, "empty holds no picture that can be read. It is empty"),
        (["train", "onlyred"], 1, "contains only one class, 'red'"),
        (["train", "lonely"], 1, "Class 'red' has 1 usable training picture"),
        (["train", "unreadable"], 1, "Found: 3 not an image"),
        (["train", "gap"], 1, "class 'red' in the val split"),
        (["train", "lonely", "--model", "efficientnet-lite9"], 2, "Unknown model"),
        (["train", "lonely", "--recipe", "quik"], 2, "Did you mean 'quick'"),
        (["train", "lonely", "--set", "veiws=1"], 2, "Did you mean 'views'"),
        (["train", "lonely", "--set", "run=x"], 2, "Unknown recipe setting 'run'"),
        (["train", "lonely", "--set", "name=3"], 2, "Unknown recipe '3'"),
        (["train", "lonely", "--val", "1.5"], 2, "val = '1.5'"),
        (["train", "lonely", "--config", "gone.toml"], 2, "gone.toml"),
        (["train", "lonely", "--imgae-size", "32"], 2, "image-size"),
        (["train", "one/photos", "--run", "text.txt/run"], 2, "Cannot create the run folder"),
        (["train", "one/photos", "--run", "empty"], 2, "never overwritten"),
        (["train"], 2, "SOURCE"),
        (["predict", "link", "text.txt"], 1, "text.txt: not an image"),
        (["predict", "link", "empty"], 1, "empty holds no picture"),
        (["predict", "link", "gone.jpg"], 2, "no file or folder 'gone.jpg'"),
        (["predict", "link", "memory://gone/a.jpg"], 1, "memory://gone/a.jpg: no such file"),
        (["predict", "link", "memory://gone/photos"], 2, "There is nothing at memory://gone"),
        (["predict", "one", "one/photos/red/01.png"], 1, "one is not a finished run"),
        (["predict", "gone", "one/photos/red/01.png"], 2, "There is no run folder gone"),
        (["evaluate", "link", "gap", "--split", "tset"], 2, "Did you mean 'test'"),
        (["evaluate", "one", "gap"], 1, "one is not a finished run"),
        (["evaluate", "link", "empty"], 1, "holds no picture"),
    ],
)
def test_mistake_gets_one_clear_message(mistakes, efftune_command, arguments, code, words):
    before = sorted(mistakes.rglob("*"))
    done = efftune_command(*arguments)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert sorted(path for path in mistakes.rglob("*") if path.name != "runs") == before
    assert not list(mistakes.glob("runs/*"))


def test_altered_model_gets_a_clear_message(efftune_command, finished_run, source, tmp_path):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    with (folder / "openvino" / "model.bin").open("ab") as stream:
        stream.write(b"x")
    done = efftune_command("predict", "run", source / "red" / "01.png")
    assert done.returncode == 1
    assert "openvino/model.bin was modified" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ci
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
def test_stopped_command_leaves_no_run(tmp_path, number, code):
    fill(tmp_path / "photos", count=400)
    process = subprocess.Popen(
        [sys.executable, "-m", "efftune", "train", "photos", "--recipe", "quick"],
        cwd=tmp_path,
        env=os.environ | {"EFFTUNE_CACHE": str(tmp_path / "cache")},
        stderr=subprocess.PIPE,
        text=True,
        # Children of a background shell ignore Ctrl-C; this one must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(tmp_path.glob("cache/backbones/*/sha256.json")):  # features are being computed
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert ("Stopped." in stderr) == (number == signal.SIGINT)
    assert "Traceback" not in stderr
    assert list((tmp_path / "runs").iterdir()) == []


def test_libraries_do_not_write_to_the_terminal(efftune_command, source, tmp_path):
    shutil.copytree(source, tmp_path / "photos")
    scan = tmp_path / "photos" / "red" / "scan.tif"
    square(COLOURS["red"], 7).save(scan, compression="tiff_lzw")
    content = bytearray(scan.read_bytes())
    content[20:60] = b"\xff" * 40  # of which libtiff complains
    scan.write_bytes(content)
    done = efftune_command("check", "photos", "--quiet", "--json")
    assert "damaged" in json.loads(done.stdout)["kinds"]
    assert done.stderr == ""
    done = efftune_command("check", "nowhere")
    assert "efftune: There is no folder 'nowhere'" in done.stderr


@pytest.mark.long
def test_file_names_of_any_bytes_are_printed(efftune_process, finished_run, source, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    odd.write_bytes((source / "red" / "01.png").read_bytes())
    for form in ("--json", "--csv", "--quiet"):
        done = efftune_process("predict", finished_run.folder, odd, form)
        assert done.returncode == 0, done.stderr
        assert "red" in done.stdout


@pytest.mark.long
def test_fine_tuning_ends_with_the_same_line_and_no_noise(efftune_process, source):
    done = efftune_process("train", source, *FINE_TUNED, "--json", "--quiet")
    assert done.stderr == ""
    output = json.loads(done.stdout)
    assert (output["recipe"], output["test"]["accuracy"]) == ("balanced", 1)


@pytest.mark.long
def test_fine_tuning_prints_its_phases(efftune_command, source, tmp_path):
    done = efftune_command("train", source, *FINE_TUNED, "--run", "run")
    phases = ["find", "inspect", "start", "features", "head", "upper", "evaluate", "save"]
    phases += ["thumbnails", "report"]
    lines = [line.removesuffix(" …") for line in done.stderr.splitlines()]
    assert lines == [phases[0], f"{source}: class folders", *phases[1:]]
    assert done.returncode == 0


@pytest.mark.ci
def test_dry_run_prints_the_plan_and_trains_nothing(efftune_command, source, tmp_path):
    done = efftune_command("train", source, *FINE_TUNED, "--set", "views=1", "--dry-run", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "block7a and up" in done.stdout
    assert "Total: about" in done.stdout
    output = json.loads(efftune_command("train", source, *FINE_TUNED, "--dry-run", "--json").stdout)
    assert [stage["name"] for stage in output["stages"]] == ["head", "upper"]
    assert output["stages"][1]["epochs"] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ci
def test_plan_tells_what_time_that_is_left_is_for(source, capsys):
    plan = efftune.plan(source, recipe="quick", image_size=32, on_progress=None)
    tables.show_plan(plan)
    assert "another network" not in capsys.readouterr().out
    tables.show_plan(replace(plan, most_members=2))
    assert "and another network if time is left" in capsys.readouterr().out


@pytest.mark.long
def test_options_of_fine_tuning_reach_the_recipe(efftune_command, source, tmp_path):
    options = {
        "learning-rate": 0.002,
        "batch-size": 7,
        "augment": "light",
        "label-smoothing": 0.05,
        "dropout": 0.1,
        "class-weights": "balanced",
        "ema": 0.9,
    }
    pairs = [part for name, value in options.items() for part in (f"--{name}", value)]
    fine_tuned = ["--image-size", 32, "--unfreeze", "block7", "--epochs", 1]
    done = efftune_command("train", source, *fine_tuned, *pairs, "--run", "run")
    assert done.returncode == 0, done.stderr
    recipe = efftune.Run.load(tmp_path / "run").recipe
    for name, value in options.items():
        assert recipe.settings[name.replace("-", "_")] == value


@pytest.mark.ci
def test_few_photos_are_judged_by_cross_validation(efftune_command, source, finished_run, tmp_path):
    few = ["--recipe", "quick", "--image-size", 32]
    done = efftune_command("train", source, *few, "--run", "few")
    assert done.returncode == 0, done.stderr
    assert "30 pictures of 3 classes: all train, judged by 5-fold cross-validation" in done.stdout
    scores = next(line for line in done.stdout.splitlines() if line.startswith("out of fold"))
    assert scores.split()[3] == "30"
    assert "test" not in done.stdout
    page = (tmp_path / "few" / "report.html").read_text()
    assert "cross-validation on all 30 pictures, this classifier got" in page
    page = re.sub(r"<(pre|script|style|dl).*?</\1>", "", page, flags=re.DOTALL)
    text = page.replace("cross-validation", "").casefold()
    for wrong in ("test picture", "validation", "nan", "best epoch"):
        assert wrong not in text
    done = efftune_command("compare", finished_run.folder, "few", "--json")
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)
    assert (compared["pictures"], compared["trained_on"]) == (6, 0)
    done = efftune_command("predict", "few", source, "--max-error", "50%", "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 30


@pytest.mark.ci
def test_two_photos_a_class_are_enough(efftune_command, tmp_path):
    photos = fill(tmp_path / "photos", count=2)
    done = efftune_command("train", photos, *FINE_TUNED[:-2], "--run", "run", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["judged_by"] == "2 folds"
    assert summary["test"]["high"] - summary["test"]["low"] > 0.4
    page = (tmp_path / "run" / "report.html").read_text()
    assert "3 classes have fewer than 5 pictures" in page
    assert efftune_command("predict", "run", photos).returncode == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--folds", 1], 2, "give 2 folds or more"),
        (["--folds", 5, "--test", 0.2], 2, "give one or the other"),
        (["--folds", 5, "--recipe", "scratch"], 2, "fitted by regression"),
    ],
)
def test_folds_that_make_no_sense_are_errors(options, code, message, efftune_command, source):
    done = efftune_command("train", source, *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
