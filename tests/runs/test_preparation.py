import shutil

import pytest

import efftune

QUICK = {"recipe": "quick", "model": "efficientnet-lite0", "image_size": 32}


@pytest.fixture(scope="module")
def split_source(source, tmp_path_factory):
    """The pictures of the source, with a test split of their own."""
    folder = tmp_path_factory.mktemp("split")
    for split in ("train", "test"):
        shutil.copytree(source, folder / split)
    return folder


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"folds": 20}, "--folds 20 becomes 10, as no class has more pictures"),
        ({"folds": 10}, ""),
        ({}, ""),
    ],
)
def test_folds_that_no_class_fills_are_told(source, choices, told):
    notes = "\n".join(efftune.plan(source, on_progress=None, **QUICK, **choices).notes)
    assert told in notes
    assert ("--folds" in notes) == bool(told)


@pytest.mark.parametrize("choices", [{"test": 0.2}, {"val": 0.2}])
def test_share_of_a_split_that_the_source_has_is_told(split_source, choices):
    notes = efftune.plan(split_source, on_progress=None, leaks="keep", **QUICK, **choices).notes
    assert any(note.startswith("--test 0.2 has no effect") for note in notes) == ("test" in choices)
