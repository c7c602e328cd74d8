import pytest

from efftune.errors import DataError, UsageError
from efftune.system import stored


def test_rows_come_one_at_a_time(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa,b,c\r\n1,2,3\r\n\r\n4,5\r\n")
    rows = stored.rows(tmp_path / "t.csv", ["c", "a", "other"])
    assert next(rows) == {"a": "1", "c": "3"}
    with pytest.raises(DataError, match="row 2 does not have as many cells as the header"):
        next(rows)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(2, "No such file"), "f is missing. Restore it, or train again."),
        (PermissionError(13, "Permission denied", "f"), "f cannot be read: Permission denied."),
        (KeyError("x"), "f is damaged: 'x' is missing. Restore it, or train again."),
        (UsageError("So it is."), "f is damaged: So it is. Restore it, or train again."),
        (DataError("Other."), "Other."),
    ],
)
def test_errors_name_the_file(tmp_path, error, told):
    with pytest.raises(DataError) as raised, stored.reading(tmp_path / "f"):
        raise error
    assert str(raised.value).replace(f"{tmp_path / 'f'}", "f") == told


def test_empty_table_is_damaged(tmp_path):
    (tmp_path / "t.csv").touch()
    with pytest.raises(DataError, match="is damaged: it is empty"):
        list(stored.rows(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("a,b\n")
    assert list(stored.rows(tmp_path / "t.csv")) == []
