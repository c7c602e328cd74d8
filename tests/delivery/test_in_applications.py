"""Exported files in the applications that they are for, in environments of their own.

Their packages clash with efftune's. `make exports` runs these tests; each environment is made once,
in EFFTUNE_APPLICATIONS or beside the tests' other temporary files.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import efftune
from efftune.delivery import applications, runtimes

pytestmark = [pytest.mark.exports, pytest.mark.shared]
PROGRAMS = Path(__file__).parent / "programs"
PACKAGES = {
    "mediapipe": ["mediapipe>=0.10"],
    "model-api": ["openvino-model-api>=0.4"],
    "python": ["onnxruntime", "numpy", "pillow"],
    "raspberry-pi": ["ai-edge-litert", "backports-strenum<1.3", "numpy", "pillow"],
}


@pytest.fixture(scope="module")
def run(clothing, tmp_path_factory):
    """A classifier of photos of clothes, which crops."""
    return efftune.train(
        clothing, recipe="quick", run=tmp_path_factory.mktemp("clothes") / "run", on_progress=None
    )


@pytest.fixture(scope="module")
def photos(clothing):
    """124 photos that the classifier has not seen."""
    return sorted((clothing / "test").glob("*/*.jpg"))[::3]


@pytest.fixture(scope="module")
def expected(run, photos):
    """What the classifier answers, (photos, classes)."""
    names = run.classifier.class_names
    found = run.classifier.predict(photos, top=len(names))
    return np.array([[dict(each.top)[name] for name in names] for each in found])


def answers(python, program, model, photos, names):
    """What an application answers, (photos, classes)."""
    done = subprocess.run(
        [python, PROGRAMS / program, model, *photos], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    return np.array([[found[str(path)][name] for name in names] for path in photos])


def agreement(first, second):
    return (first.argmax(axis=1) == second.argmax(axis=1)).mean()


def test_mediapipe(run, photos, expected, tmp_path, python_with):
    (made,) = run.export("mediapipe", tmp_path)
    names = run.classifier.class_names
    found = answers(
        python_with("mediapipe", PACKAGES["mediapipe"]), "in_mediapipe.py", made.path, photos, names
    )
    loaded, size = runtimes.litert(made.path), run.classifier.image_size
    replayed = np.concatenate(
        [
            loaded.answer(applications.mediapipe(each.read_bytes(), size)[None].astype(np.float32))
            for each in photos
        ]
    )
    assert agreement(found, replayed) >= 0.99
    assert np.abs(found - replayed).max() <= 0.05
    assert np.abs(found - replayed).mean() <= 0.002
    assert agreement(found, expected) < 0.99  # it stretches, and the run crops


def test_model_api(run, photos, expected, tmp_path, python_with):
    (made,) = run.export("openvino", tmp_path)
    names = run.classifier.class_names
    found = answers(
        python_with("model-api", PACKAGES["model-api"]), "in_model_api.py", made.path, photos, names
    )
    assert agreement(found, expected) >= 0.97  # it does not average before it interpolates


@pytest.mark.parametrize("target", ["python", "raspberry-pi"])
def test_script_in_an_environment_of_its_packages(
    run, photos, expected, tmp_path, python_with, target
):
    (made,) = run.export(target, tmp_path)
    python = python_with(target, PACKAGES[target])
    for package in ("efftune", "openvino", "tensorflow"):
        missing = subprocess.run([python, "-c", f"import {package}"], capture_output=True)
        assert missing.returncode != 0
    done = subprocess.run(
        [python, made.path.parent / "predict.py", *photos], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    labels = [
        line.removeprefix(f"{photo} ").split()[0]
        for line, photo in zip(done.stdout.splitlines(), photos, strict=True)
    ]
    own = [run.classifier.class_names[i] for i in expected.argmax(axis=1)]
    assert np.mean([a == b for a, b in zip(labels, own, strict=True)]) >= 0.97
