"""Whole runs as on a GPU, on JAX's CPU device: its graphs, programs and bfloat16."""

import csv
import json

import numpy as np
import pytest

import efftune
from conftest import TUNED
from efftune.data import images, picture_bytes
from efftune.model.backbone import Backbone
from efftune.model.engines import devices, jax_engine

SCRATCH = {"recipe": "scratch", "image_size": 32, "scratch_epochs": 2, "batch_size": 6}
EXACT = {"precision": "f32", "dtypes": ["float32"]}
EXAMPLE = {"recipe": "keras-example", "image_size": 32, "phases": "head,tune", "head_epochs": 2}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(devices, "chosen", lambda wanted: "cpu" if wanted == "cpu" else "gpu")
    monkeypatch.setattr(jax_engine, "fastest_precision", lambda: "bf16")


@pytest.mark.long
def test_what_a_run_computes_is_prepared(source, own_cache, tmp_path, as_on_a_gpu, monkeypatch):
    prepared, ran, judging = set(), set(), set()
    run, prepare = jax_engine.Network.run, jax_engine.Network.prepare

    def heard_run(self, *arguments, **named):
        ran.add(self)
        run(self, *arguments, **named)

    def heard_prepare(self):
        prepared.add(self)
        prepare(self)

    monkeypatch.setattr(jax_engine.Network, "run", heard_run)
    monkeypatch.setattr(jax_engine.Network, "prepare", heard_prepare)

    def trained(self, _output, **_):
        judging.add(self.pretrained(**EXACT))
        return self.pretrained(**EXACT)

    # A network that was trained cannot be prepared; another one stands for it.
    monkeypatch.setattr(Backbone, "trained", trained)
    efftune.train(source, run=tmp_path / "run", **(TUNED | {"flip": "auto"}))
    assert prepared == ran - judging
    assert len(prepared) == 5


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(TUNED | {"whole_epochs": 2, "test_flip": True}, marks=pytest.mark.long),
        pytest.param(TUNED | {"members": 2, "test_flip": True}, marks=pytest.mark.long),
        pytest.param(SCRATCH, marks=pytest.mark.slow),
        pytest.param(EXAMPLE, marks=pytest.mark.slow),
    ],
    ids=["all blocks", "thorough", "scratch", "keras-example"],
)
def test_runs_answer_as_they_do_with_openvino(choices, source, own_cache, tmp_path, as_on_a_gpu):
    run = efftune.train(source, run=tmp_path / "run", **choices)
    assert run.record["stages"][-1]["members"] == choices.get("members", 1)
    machine = json.loads((run.folder / "run.json").read_text())["machine"]
    assert (machine["device"], machine["engine"], machine["precision"]) == ("gpu", "jax", "bf16")
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    classifier = efftune.load(run.folder)
    assert classifier.engine.NAME == "openvino"
    answers = classifier.predict([source / row["path"] for row in rows])
    assert [each.label for each in answers] == [row["predicted"] for row in rows]
    fit = run.recipe.backbone.fit
    pixels = [images.decode(picture_bytes.read(source / row["path"]), 32, fit) for row in rows]
    probabilities = classifier.model.predict(np.array(pixels, np.float32), verbose=0)
    confidences = [float(row["confidence"]) for row in rows]
    assert [each.confidence for each in answers] == pytest.approx(confidences, abs=1e-3)
    assert probabilities.max(axis=1) == pytest.approx(confidences, abs=1e-3)
