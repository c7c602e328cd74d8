import shutil

import pytest

from conftest import COLOURS, square
from efftune.errors import DataError, UsageError
from efftune.evaluation import other_pictures
from efftune.system.progress import silent


def test_pictures_without_class_folders_are_told_as_such(finished_run, tmp_path):
    for seed, colour in enumerate(COLOURS.values()):
        square(colour, seed=seed).save(tmp_path / f"{seed}.png")
    told = rf"no picture in a class folder\. Found: {len(COLOURS)} not in a class folder\. Put the"
    for split in (None, "test"):
        with pytest.raises(DataError, match=told):
            finished_run.evaluate(tmp_path, split, on_progress=None)


def test_split_that_a_source_lacks_is_told(finished_run, source):
    with pytest.raises(UsageError, match="has no test split"):
        finished_run.evaluate(source, "test", on_progress=None)


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_list_of_pictures_that_is_cut_off_is_named(finished_run, source, tmp_path, kept):
    _, examples = finished_run.evaluate(source, on_progress=None)
    whole = (finished_run.folder / "examples.csv").read_bytes()
    cut = whole[: int(len(whole) * kept)].rpartition(b",")[0]
    (tmp_path / "examples.csv").write_bytes(cut)
    with pytest.raises(DataError, match=r"examples\.csv is damaged: row .* Restore it, or train"):
        other_pictures.trained_on(tmp_path, examples, None, silent)
    shutil.copy(finished_run.folder / "examples.csv", tmp_path)
    assert other_pictures.trained_on(tmp_path, examples, None, silent) > 0
