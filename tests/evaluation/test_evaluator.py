import shutil

import pytest

import efftune
from conftest import COLOURS, fill
from efftune.evaluation import evaluator

QUICK = {"recipe": "quick", "model": "efficientnet-lite0", "image_size": 32}


@pytest.mark.parametrize(("clean", "counted"), [(8, 24), (5, 21)])
def test_copies_of_training_pictures_do_not_choose_the_thresholds(
    tmp_path, monkeypatch, clean, counted
):
    """Unless too few others are left."""
    for number, (split, count) in enumerate({"train": 10, "val": clean, "test": 3}.items()):
        fill(tmp_path / split, count=count, offset=200 * number)
    for colour in COLOURS:
        for i in (1, 2):
            copy = tmp_path / "val" / colour / f"copy {i}.png"
            shutil.copyfile(tmp_path / "train" / colour / f"0{i}.png", copy)
    sizes = {}

    def spy(name):
        function = getattr(evaluator.uncertainties, name)

        def spied(values, *others):
            sizes[name] = len(values)
            return function(values, *others)

        monkeypatch.setattr(evaluator.uncertainties, name, spied)

    spy("fit_temperature")
    spy("confidence_threshold")
    run = efftune.train(tmp_path, run=tmp_path / "run", on_progress=None, **QUICK)
    assert run.evaluation.val.pictures == 3 * clean + 6
    assert sizes == {"fit_temperature": counted, "confidence_threshold": counted}
