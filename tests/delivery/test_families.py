"""Exports of other models and recipes than the usual: written, judged, and asked by efftune."""

import numpy as np
import pytest

import efftune

SMALL = {"image_size": 32, "test": 0.2, "on_progress": None}
RUNS = {
    "efficientnet-b0": {"recipe": "scratch", "model": "efficientnet-b0", "scratch_epochs": 1},
    "efficientnet-v2-b0": {"recipe": "scratch", "model": "efficientnet-v2-b0", "scratch_epochs": 1},
    "thorough": {
        "recipe": "thorough",
        "members": 2,
        "epochs": 1,
        "unfreeze": "block7",
    },
}


def formats(name):
    """Those that are converted in a process of their own take long."""
    return pytest.param(name, marks=[] if name in ("onnx", "openvino") else [pytest.mark.long])


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    """Runs, trained once each."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("families") / name
            made[name] = efftune.train(source, run=folder, **RUNS[name], **SMALL)
        return made[name]

    return run


@pytest.mark.variant
@pytest.mark.parametrize("name", list(RUNS))
@pytest.mark.parametrize(
    "format_name",
    [
        *map(formats, ("onnx", "openvino", "openvino-f16", "openvino-int8")),
        *map(formats, ("litert", "litert-f16", "litert-int8", "savedmodel")),
    ],
)
def test_every_model_and_recipe_in_every_format(trained, tmp_path, source, name, format_name):
    run = trained(name)
    (made,) = run.export(format_name, tmp_path)
    if made.receipt.bound is not None:
        assert all(each.agreement == 1 for each in made.receipt.same_pixels)
    if format_name == "savedmodel":
        return  # which efftune does not load
    paths = sorted(source.rglob("*.png"))[:6]
    found = efftune.load(made.path).predict(paths)
    expected = run.classifier.predict(paths)
    near = 0.3 if format_name.endswith("int8") else 0.05
    gaps = [abs(a.confidence - b.confidence) for a, b in zip(found, expected, strict=True)]
    assert np.max(gaps) <= near
