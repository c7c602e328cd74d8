from collections import Counter

from efftune.data import images, picture_bytes

from . import other_pictures


def test_kinds_have_equal_shares_and_all_can_be_decoded(tmp_path):
    made = other_pictures.make(tmp_path, 16, 0)
    assert set(Counter(kind for kind, _ in made).values()) == {2}
    for _, path in made:
        assert images.decode(picture_bytes.read(path), 64, "crop").std() > 1


def test_same_seed_gives_the_same_pictures(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        folder.mkdir()
        other_pictures.make(folder, 8, seed)
    first, again, other = ([p.read_bytes() for p in sorted(f.iterdir())] for f in folders)
    assert first == again
    assert first != other
