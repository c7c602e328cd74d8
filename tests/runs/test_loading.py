import json
import pickle
import shutil

import numpy as np
import pytest

import efftune
from efftune.errors import DataError, UsageError
from efftune.model.engines import openvino_engine


@pytest.fixture(scope="module")
def paths(source):
    return sorted(source.rglob("*.png"))[:12]


def probabilities(run, paths, precision):
    return efftune.load(run.folder, precision=precision).probabilities(paths)[0]


@pytest.mark.skipif(
    openvino_engine.fastest_precision() == "f32", reason="the processor has no bfloat16"
)
def test_answers_in_bfloat16_are_those_in_float32_but_for_rounding(finished_run, paths):
    exact = probabilities(finished_run, paths, "f32")
    for precision in ("bf16", "auto"):
        found = probabilities(finished_run, paths, precision)
        assert found.dtype == np.float32
        assert 0 < np.abs(found - exact).max() < 0.05
        assert (found.argmax(axis=1) == exact.argmax(axis=1)).all()


def test_precisions_of_a_processor_without_bfloat16(finished_run, paths, monkeypatch):
    monkeypatch.setattr(openvino_engine, "fastest_precision", lambda: "f32")
    exact = probabilities(finished_run, paths, "f32")
    assert np.array_equal(probabilities(finished_run, paths, "auto"), exact)
    with pytest.raises(UsageError, match="no bfloat16"):
        efftune.load(finished_run.folder, precision="bf16")


def test_precision_that_does_not_exist_is_an_error(finished_run):
    with pytest.raises(UsageError, match=r"f16.*f32, bf16, auto"):
        efftune.load(finished_run.folder, precision="f16")


def test_a_classifier_keeps_its_precision_when_it_is_pickled(finished_run):
    classifier = efftune.load(finished_run.folder)
    classifier.precision = "bf16"
    assert pickle.loads(pickle.dumps(classifier)).precision == "bf16"


@pytest.mark.ci
@pytest.mark.parametrize("precision", ["f32", "auto"])
def test_predict_computes_as_it_is_told(efftune_command, finished_run, paths, precision):
    done = efftune_command(
        "predict", finished_run.folder, paths[0], "--json", "--precision", precision
    )
    (expected,) = efftune.load(finished_run.folder, precision=precision).predict(paths[0])
    assert json.loads(done.stdout)["confidence"] == expected.confidence


@pytest.mark.parametrize("name", ["recipe.toml", "evaluation.json"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is missing"),
        ("[", r"is damaged: [^\n]*[^.]"),
        ("views = 3.5\n", "is damaged: .*[^.]"),
    ],
)
def test_missing_and_damaged_files_are_named(finished_run, tmp_path, name, content, told):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(DataError, match=rf"run.{name} {told}\. Restore it, or train again\.$"):
        efftune.Run.load(folder)
