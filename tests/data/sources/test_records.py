import pytest

from efftune.data.sources import records


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["n02085620-a/b", "n02085621-c"], ["a-b", "c"]),
        (["n02085620-a", "n02085621-a"], ["n02085620-a", "n02085621-a"]),
        (["a/b", "a-b"], ["a-b 0", "a-b 1"]),
        (["..", ".net", "c\0d"], ["-.", "-net", "c-d"]),
        (["n02085620-Mus", "mus"], ["n02085620-Mus", "mus"]),
        (["Mus", "mus"], ["Mus 0", "mus 1"]),
        (["caf\u00e9", "cafe\u0301"], ["caf\u00e9 0", "caf\u00e9 1"]),
    ],
)
def test_class_names_become_different_visible_folders(names, folders):
    assert records.class_folders(names) == folders


def test_long_names_become_folders_that_can_be_made(tmp_path):
    names = ["é" * 300 + "x", "é" * 300 + "y"]
    folders = records.class_folders(names)
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert len(set(folders)) == 2


@pytest.mark.parametrize(
    ("content", "suffix"), [(b"\xff\xd8\xff", ".jpg"), (b"II*\0", ".tif"), (b"text", "")]
)
def test_content_gives_the_suffix(tmp_path, content, suffix):
    records.write(tmp_path / "cat", 17, content)
    (path,) = (tmp_path / "cat").iterdir()
    assert path.name == f"000017{suffix}"
    assert path.read_bytes() == content
