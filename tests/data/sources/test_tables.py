import csv
import io
import os
import sys
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import COLOURS, fill, square
from efftune.data.sources import discovery
from efftune.data.sources.table_columns import Columns
from efftune.errors import DataError, UsageError
from efftune.recipe.recipe import Recipe

LISTED = "path,label,split\nred/01.png,red,train\nblue/01.png,blue,Test\ngreen/01.png,green,\n"


@pytest.fixture
def folder(tmp_path):
    """Two pictures of each colour, for a table to lie beside."""
    return fill(tmp_path, count=2)


def written(folder, text, name="pictures.csv"):
    content = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(content)
    return folder / name


def reasons(examples):
    return {(row.line, row.name): row.reason for row in examples.set_aside}


def test_rows_are_the_pictures_in_their_order(folder):
    table = written(folder, LISTED)
    examples = discovery.find(table)
    assert examples.source == str(table)
    assert [(row.path, row.name, row.label, row.split, row.line) for row in examples.rows] == [
        (folder / "red/01.png", "red/01.png", "red", "train", 2),
        (folder / "blue/01.png", "blue/01.png", "blue", "test", 3),
        (folder / "green/01.png", "green/01.png", "green", "", 4),
    ]
    assert examples.set_aside == ()


def test_paths_may_be_absolute_or_begin_at_home(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "blue"))
    (folder / "tables").mkdir()
    text = f"path,label\n{folder}/red/01.png,red\n~/01.png,blue\n../green/01.png,green\n"
    examples = discovery.find(written(folder / "tables", text))
    assert examples.set_aside == ()
    names = [path.resolve().relative_to(folder) for path in (row.path for row in examples.rows)]
    assert [str(name) for name in names] == ["red/01.png", "blue/01.png", "green/01.png"]
    assert examples.rows[1].name == "~/01.png"


def test_unusable_rows_have_a_reason_and_a_line(folder):
    (folder / "notes.txt").write_text("text")
    text = (
        "path,label\nred/01.png,red\nred/9.png,red\n,red\nred/00.jpg, \n\n./red/01.png,red\n"
        "red/../red/01.png,blue\nnotes.txt,red\nred,red\nred/00.jpg,red\n"
    )
    examples = discovery.find(written(folder, text))
    assert reasons(examples) == {
        (3, "red/9.png"): "no such file",
        (4, ""): "no path",
        (5, "red/00.jpg"): "no label",
        (7, "./red/01.png"): "listed before, on line 2",
        (8, "red/../red/01.png"): "listed before with another label, on line 2",
        (9, "notes.txt"): "not an image",
        (10, "red"): "a folder, not a picture",
    }
    assert [row.line for row in examples.rows if row.usable] == [2, 11]


def test_repeated_rows_are_counted_as_one_reason(folder):
    text = "path,label\n" + "red/01.png,red\n" * 4 + "red/00.jpg,red\n" * 2
    assert discovery.find(written(folder, text)).reasons_summary == "4 listed before"


def test_columns_may_have_other_names_and_places(folder):
    text = "id,breed,file,fold,who\n1,red,red/01.png,val,ann\n2,blue,blue/01.png,test, bob \n"
    columns = Columns(path="file", label="breed", split="fold", group="who")
    rows = discovery.find(written(folder, text), columns=columns).rows
    assert [(row.label, row.split, row.group) for row in rows] == [
        ("red", "val", "ann"),
        ("blue", "test", "bob"),
    ]


def test_default_names_of_columns_may_have_capitals(folder):
    text = "Path,LABEL,Split,Group\nred/01.png,red,val,ann\nblue/01.png,blue,test,bob\n"
    rows = discovery.find(written(folder, text)).rows
    assert [(row.label, row.split, row.group) for row in rows] == [
        ("red", "val", "ann"),
        ("blue", "test", "bob"),
    ]
    other = text.replace("red,val", "red,A")  # another kind of split than ours
    assert [row.split for row in discovery.find(written(folder, other)).rows] == ["", ""]
    folders = "Path,Filename,Label\nred,red/01.png,red\nblue,blue/01.png,blue\n"
    assert [row.reason for row in discovery.find(written(folder, folders)).rows] == ["", ""]
    twice = text.replace("Split,Group", "Split,SPLIT")  # which of them is meant is not known
    rows = discovery.find(written(folder, twice)).rows
    assert [row.split for row in rows] == ["", ""]


@pytest.fixture
def dogs(folder):
    """Pictures in folders beside the table, named by ids."""
    (folder / "train").mkdir()
    for name in COLOURS:
        for i in range(2):
            (folder / name / f"{i:02}.{'jpg' if i == 0 else 'png'}").rename(
                folder / "train" / f"{name[0]}{i}f.{'JPG' if i == 0 else 'png'}"
            )
        (folder / name).rmdir()
    (folder / "test").mkdir()
    square(COLOURS["red"], 1).save(folder / "test" / "zzz.png")
    return folder


TABLES = {  # of the same six pictures, and what is found of their columns
    "ids and another name": (
        "id,breed\nb0f,blue\nb1f,blue\ng0f,green\ng1f,green\nr0f,red\nr1f,red\n",
        "paths in column 'id' (in train/), classes in column 'breed'",
    ),
    "Windows paths": (
        "path,label\ntrain\\b0f.JPG,blue\ntrain\\b1f.png,blue\ntrain\\g0f,green\n"
        "train\\g1f.png,green\ntrain\\r0f.JPG,red\ntrain\\r1f,red\n",
        "paths in column 'path', classes in column 'label'",
    ),
    "a column for each class": (
        "\ufeffImage;blue;green;red\r\nb0f.JPG;1;0;0\r\nb1f.png;1.0;0.0;0.0\r\ng0f.JPG;0;1;0\r\n"
        "g1f.png;0;1;0\r\nr0f.JPG;0;0;1\r\nr1f.png;0;0;1\r\n",
        "paths in column 'Image' (in train/), classes in columns 'blue', 'green', 'red'",
    ),
    "more columns and a usual name": (
        "nr,filename,width,Class\n1,b0f.JPG,48,blue\n2,b1f.png,48,blue\n3,g0f.JPG,48,green\n"
        "4,g1f.png,48,green\n5,r0f.JPG,48,red\n6,r1f.png,48,red\n",
        "paths in column 'filename' (in train/), classes in column 'Class'",
    ),
    "the default names in capitals": (
        "PATH,Label,note\nb0f.JPG,blue,x\nb1f.png,blue,x\ng0f.JPG,green,x\ng1f.png,green,x\n"
        "r0f.JPG,red,x\nr1f.png,red,x\n",
        "paths in column 'PATH' (in train/), classes in column 'Label'",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_as_people_have_them_are_read(dogs, kind, caplog):
    text, description = TABLES[kind]
    with caplog.at_level("INFO", logger="efftune"):
        found = discovery.find(written(dogs, text, "labels.csv"))
    assert [row.label for row in found.rows] == ["blue"] * 2 + ["green"] * 2 + ["red"] * 2
    assert found.set_aside == ()
    assert {row.path.stem for row in found.rows} == {f"{n}{i}f" for n in "bgr" for i in range(2)}
    assert caplog.messages[-1].endswith(f"labels.csv with {description}")
    assert discovery.find(dogs).rows == found.rows  # the table beside the pictures


def test_root_names_the_folder_of_the_pictures(dogs, tmp_path):
    elsewhere = tmp_path / "tables" / "labels.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_text("id,label\nb0f,blue\nr1f,red\n")
    columns = Columns(path="id", root=str(dogs / "train"))
    assert discovery.find(elsewhere, columns=columns).set_aside == ()
    assert len(discovery.find(elsewhere, columns=Columns(path="id")).set_aside) == 2
    with pytest.raises(UsageError, match=r"There is no folder 'nowhere'\. Set --root"):
        discovery.find(elsewhere, columns=Columns(path="id", root="nowhere"))


def test_pictures_that_may_be_in_two_folders_are_asked_for(dogs):
    square(COLOURS["red"], 1).save(dogs / "test" / "b1f.png")
    table = written(dogs, "id,label\nb0f,blue\nb1f,blue\nr1f,red\n")
    with pytest.raises(DataError, match=r"'b1f' .* may be in \w+/ or in \w+/.*--root"):
        discovery.find(table)


def test_two_columns_of_pictures_are_asked_for(dogs):
    table = written(dogs, "front,back,label\nb0f,b1f,blue\nr0f,r1f,red\n")
    with pytest.raises(DataError, match=r"Several columns .*'front', 'back'.*--path-column"):
        discovery.find(table)
    found = discovery.find(table, columns=Columns(path="back"))
    assert [row.path.stem for row in found.rows] == ["b1f", "r1f"]


def test_columns_of_classes_may_be_chosen(dogs):
    table = written(dogs, "id,age,blue,red\nb0f,7,1,0\nr0f,8,0,1\nr1f,9,0,0\n")
    with pytest.raises(DataError, match="no column 'label'"):
        discovery.find(table)
    found = discovery.find(table, columns=Columns(labels=("blue", "red")))
    assert [row.label for row in found.rows] == ["blue", "red", ""]
    assert reasons(found) == {(4, "r1f"): "no label"}
    with pytest.raises(DataError, match="line 2: '7' in column 'age' is neither 0 nor 1"):
        discovery.find(table, columns=Columns(labels=("blue", "red", "age")))
    with pytest.raises(DataError, match=r"no column 'green'"):
        discovery.find(table, columns=Columns(labels=("blue", "green")))


def test_blanks_around_paths_are_left_out(dogs):
    table = written(dogs, "breed, path\nblue, train/b0f.JPG\nred, train\\r1f.png \n")
    assert [row.path.name for row in discovery.find(table).rows] == ["b0f.JPG", "r1f.png"]
    (dogs / " b0f.JPG").write_bytes((dogs / "train" / "b1f.png").read_bytes())
    table = written(dogs, 'breed,path\nblue," b0f.JPG"\n')
    assert discovery.find(table).rows[0].path == dogs / " b0f.JPG"


@pytest.mark.parametrize("hint", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;"])
def test_separator_that_excel_notes_is_no_header(dogs, hint):
    table = written(dogs, f"{hint}\r\nid;label\r\nb0f;blue, pale\r\nzzz;red\r\n")
    blue, red = discovery.find(table).rows
    assert (blue.label, blue.line, blue.path.stem) == ("blue, pale", 3, "b0f")
    assert (red.label, red.line) == ("red", 4)


def test_separator_that_excel_notes_may_be_a_tab(dogs):
    table = written(dogs, "sep=\t\r\nid\tlabel\r\nb0f\tblue, pale\r\nzzz\tred\r\n")
    blue, red = discovery.find(table).rows
    assert (blue.label, blue.line, blue.path.stem) == ("blue, pale", 3, "b0f")
    assert (red.label, red.line) == ("red", 4)


def test_paths_of_another_machine_come_with_a_way_out(dogs):
    table = written(dogs, "path,label\n/content/b0f.JPG,blue\n/content/r1f.png,red\n")
    with pytest.raises(DataError, match=r"2 no such file\. Correct the paths .* --root"):
        discovery.find(table).require_splittable(allow_missing=False)


def test_long_texts_in_other_columns_are_no_paths(dogs):
    text = "/".join(["a" * 300] * 20)
    table = written(dogs, f"about,id,breed\n{text},b0f,blue\n~,r1f,red\n\0,g0f,green\n")
    assert [row.path.stem for row in discovery.find(table).rows] == ["b0f", "r1f", "g0f"]


def test_several_labels_of_a_picture_are_refused(dogs):
    table = written(dogs, "id,blue,red\nb0f,1,0\nr0f,1,1\n")
    with pytest.raises(DataError, match="line 3, has a 1 in several columns: blue, red"):
        discovery.find(table)


@pytest.mark.parametrize(
    ("header", "columns", "words"),
    [
        ("file,label", {}, r"no column 'path'. Its columns: 'file', 'label'.*--path-column"),
        (
            "path,kind,size",
            {},
            r"no column 'label'. Its columns: 'path', 'kind', 'size'.*--label-column",
        ),
        ("path,label", {"label": "breed"}, r"no column 'breed'.*--label-column"),
        ("path,label", {"split": "fold"}, r"no column 'fold'.*--split-column; only 'split' may"),
        ("path,label", {"group": "who"}, r"no column 'who'.*--group-column; only 'group' may"),
        ("path,label,label", {}, r"several columns 'label'"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_column_is_named(folder, header, columns, words, suffix):
    if suffix == ".csv":
        table = written(folder, f"{header}\n{','.join(['nowhere'] * (1 + header.count(',')))}\n")
    else:
        arrow = pytest.importorskip("pyarrow", reason='pip install "efftune[parquet]"')
        from pyarrow import parquet

        names = header.split(",")
        table = folder / "pictures.parquet"
        parquet.write_table(arrow.table([["nowhere"]] * len(names), names=names), table)
    with pytest.raises(DataError, match=words):
        discovery.find(table, columns=Columns(**columns))


def test_unknown_split_is_named(folder):
    table = written(folder, "path,label,split\nred/01.png,red,train\nred/00.jpg,red,tset\n")
    with pytest.raises(DataError, match=r"pictures\.csv, line 3: .*'tset'. Known: train, val, "):
        discovery.find(table)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".CSV"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tables_as_programs_write_them_are_read(folder, delimiter, suffix, end, mark):
    text = LISTED.replace(",", delimiter).replace("\n", end)
    examples = discovery.find(written(folder, mark + text.encode(), f"pictures{suffix}"))
    assert [row.label for row in examples.rows if row.usable] == ["red", "blue", "green"]
    assert [row.line for row in examples.rows] == [2, 3, 4]


def test_other_separators_in_cells_do_not_mislead(folder):
    text = 'path;label;"notes, of, many, kinds"\nred/01.png;red;a,b\n'
    assert discovery.find(written(folder, text)).class_names == ("red",)


def test_quoted_newlines_count_as_lines(folder):
    text = 'path,label,notes\nred/01.png,red,"a\nb\r\nc"\nred/9.png,red,"x, ""y"""\n'
    examples = discovery.find(written(folder, text))
    assert [row.line for row in examples.rows] == [2, 5]
    assert reasons(examples) == {(5, "red/9.png"): "no such file"}


def test_names_of_any_bytes_are_found(folder):
    name = os.fsdecode(b"caf\xe9.png")
    square(COLOURS["red"], 1).save(folder / "x.png")
    (folder / "x.png").rename(folder / name)
    examples = discovery.find(written(folder, b"path,label\ncaf\xe9.png,caf\xe9\n"))
    assert examples.set_aside == ()
    assert examples.rows[0].name == name


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("ending", [".png", ""])
def test_accented_names_are_found_in_both_unicode_forms(folder, forms, ending):
    listed, there = (unicodedata.normalize(form, "caf\u00e9/\u00f6rt\u00e9 1") for form in forms)
    (folder / "red").rename((folder / there).parent)
    (folder / there).with_name("01.png").rename(folder / f"{there}.png")
    text = f"path,label\n{listed}{ending},red\nblue/01.png,blue\n"
    examples = discovery.find(written(folder, text))
    assert examples.set_aside == ()
    assert examples.rows[0].path.read_bytes() == (folder / f"{there}.png").read_bytes()
    assert examples.rows[0].name == f"{listed}{ending}"


def test_one_label_in_two_unicode_forms_is_one_class(folder):
    text = "path,label\nred/01.png,cafe\u0301\nblue/01.png, caf\u00e9 \n"
    assert discovery.find(written(folder, text)).class_names == ("caf\u00e9",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"pictures\.csv is empty. Its first line must contain the column names: path,label"),
        ("\n\n", "is empty"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png,a\nb.png\n", "line 3, has 1 cells, but there are 2 columns"),
        ("path,label\na.png,a,b\n", "line 2, has 3 cells, but there are 2 columns"),
        ('path,label\na.png,a\n"b.png,a\nc.png,a\n', "line 3, cannot be read"),
        ('path,label\n"a".png,a\n', "line 2, cannot be read"),
        ('path,label\n"' + "a,b\n" * 50_000, "line 2, cannot be read"),
        ("path,label\na.png,a\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_invalid_table_is_reported_with_the_line(folder, text, words):
    with pytest.raises(DataError, match=words):
        discovery.find(written(folder, text))


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
rows = st.tuples(words, words, st.sampled_from(["train", "val", "test", ""]), words)


@given(
    st.lists(rows, min_size=1, max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL), ("\r", csv.QUOTE_ALL)]),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_written_comes_back(tmp_path, listed, delimiter, form, marked):
    stream = io.StringIO(newline="")
    end, quoting = form
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("path", "label", "split", "group"), *listed])
    table = tmp_path / "pictures.csv"
    table.write_bytes(stream.getvalue().encode("utf-8-sig" if marked else "utf-8"))
    found = discovery.find(table).rows
    assert [(row.name, row.label, row.split, row.group) for row in found] == [
        (path, unicodedata.normalize("NFC", label.strip()), split, group.strip())
        for path, label, split, group in listed
    ]


@pytest.fixture
def write_parquet(folder):
    """Write columns to a Parquet file."""
    arrow = pytest.importorskip("pyarrow", reason='pip install "efftune[parquet]"')
    from pyarrow import parquet

    def write(**columns):
        parquet.write_table(arrow.table(columns), folder / "pictures.parquet")
        return folder / "pictures.parquet"

    return write


def test_parquet_gives_the_same_rows_as_csv(folder, write_parquet):
    columns = zip(*csv.reader(LISTED.splitlines()), strict=True)
    table = write_parquet(**{name: cells for name, *cells in columns})
    assert discovery.find(table).rows == discovery.find(written(folder, LISTED)).rows


def test_parquet_values_that_are_no_text_are_labels_and_gaps(folder, write_parquet):
    paths = ["red/01.png", "blue/01.png", None, "green/01.png"]
    examples = discovery.find(write_parquet(path=paths, label=[3, 0, 1, None], split=[None] * 4))
    assert [row.label for row in examples.rows] == ["3", "0", "1", ""]
    assert reasons(examples) == {(4, ""): "no path", (5, "green/01.png"): "no label"}
    (without,) = discovery.find(write_parquet(path=paths[:1], label=[float("nan")])).rows
    assert without.reason == "no label"


def test_parquet_lines_go_on_over_row_groups(folder):
    arrow = pytest.importorskip("pyarrow", reason='pip install "efftune[parquet]"')
    from pyarrow import parquet

    paths = [f"{i}.png" for i in range(25)]
    table = folder / "pictures.parquet"
    parquet.write_table(arrow.table({"path": paths, "label": paths}), table, row_group_size=10)
    assert [row.line for row in discovery.find(table).rows] == [*range(2, 27)]


def test_parquet_of_pictures_themselves_is_refused_with_the_way_out(write_parquet):
    with pytest.raises(DataError, match=r"'path' .* holds binary, not text.*hf:FOLDER"):
        discovery.find(write_parquet(path=[b"\x89PNG"], label=["a"]))
    with pytest.raises(DataError, match=r"'path' .* holds struct"):
        discovery.find(write_parquet(path=[{"bytes": b"x"}], label=["a"]))


def test_empty_and_damaged_parquet_is_reported(folder, write_parquet):
    with pytest.raises(DataError, match="has no rows"):
        discovery.find(write_parquet(path=[], label=[]))
    whole = write_parquet(path=["red/01.png"], label=["red"])
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cannot be read as a Parquet file"):
        discovery.find(whole)


def test_parquet_without_pyarrow_names_the_command(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "efftune\[parquet\]"'):
        discovery.find(written(folder, b"PAR1", "pictures.parquet"))


def test_classes_are_named_once(folder):
    table = written(folder, "path,label,red,blue\nred/01.png,red,1,0\nblue/01.png,blue,0,1\n")
    with pytest.raises(UsageError, match="give one of them"):
        discovery.find(table, columns=Columns(label="red", labels=("red", "blue")))
    with pytest.raises(DataError, match=r"no column 'green'.*Choose some with --label-columns"):
        discovery.find(table, columns=Columns(labels=("red", "green")))


def test_class_column_chosen_for_other_pictures_replaces_columns_of_0_and_1():
    marks = Recipe(label_columns=("red", "blue"), group_column="site")
    assert Columns.of(marks).labels == ("red", "blue")
    chosen = Columns.of(marks, label_column="species")
    assert (chosen.label, chosen.labels, chosen.group) == ("species", (), "site")
    one = Columns.of(Recipe(label_column="species"), label_columns=("red", "blue"))
    assert (one.label, one.labels) == ("label", ("red", "blue"))
