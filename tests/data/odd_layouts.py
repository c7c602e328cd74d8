"""Folders, archives and tables as people lay out their pictures, and what each means."""

import csv
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from .odd_files import picture

SPLITS = {"train": 10, "val": 3, "test": 3}  # pictures of each class
PATH_LABEL = ["path", "label"]
Row = Sequence[object]


@dataclass(frozen=True)
class Layout:
    """A source, and what it means.

    Attributes:
        name: of the layout.
        make: fills an empty folder; returns the source.
        taken: part of the line that says what was taken for what; empty if that line never comes.
        pictures: the usable ones, by class, or by class and split.
        problems: kinds of the problems that `check` finds; it then exits with 1.
        options: of the command line.
        refused: part of the error message of `train`; empty if it trains. If there is no line that
            says what was taken for what, `check` refuses it likewise.
        code: exit code of `train`.
    """

    name: str
    make: Callable[[Path], Path]
    taken: str = ""
    pictures: Mapping[str, int] = field(default_factory=dict)
    problems: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    refused: str = ""
    code: int = 0


def photo(root: Path, name: str) -> Path:
    """Write a small picture, which depends on its name below `root` only."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    is_jpeg = path.suffix.casefold() in (".jpg", ".jpeg")
    picture(zlib.crc32(os.fsencode(name))).save(path, "JPEG" if is_jpeg else "PNG")
    return path


def folders(root: Path, *names: str, count: int = 10, suffix: str = ".png") -> Path:
    """Folders of pictures; gives `root`."""
    for name, i in product(names, range(count)):
        photo(root, f"{name}/{i:03}{suffix}")
    return root


def splits(root: Path, words: Mapping[str, str], below: str = "") -> Path:
    """Split folders of two classes; `words` are the names of the folders by split."""
    for split, word in words.items():
        folders(root, *(f"{word}{below}/{each}" for each in ("cat", "dog")), count=SPLITS[split])
    return root


def rows(root: Path, pattern: str, *labels: str, count: int = 10) -> list[tuple[str, str]]:
    """Pictures with names like `train/{:03}.png`; gives names and labels."""
    labels = labels or ("cat", "dog")
    listed = [(pattern.format(i), labels[i % len(labels)]) for i in range(count * len(labels))]
    for name, _ in listed:
        photo(root, name)
    return listed


def table(
    path: Path, header: Row, lines: Sequence[Row], encoding: str = "utf-8", **how: Any
) -> Path:
    """Write a table; gives its path."""
    with path.open("w", newline="", encoding=encoding, errors="surrogateescape") as stream:
        csv.writer(stream, **how).writerows([header, *lines])
    return path


def of(
    header: Row,
    line: Callable[[int, str, str], Row],
    pattern: str = "images/{:03}.png",
    more: Sequence[Row] = (),
    **how: Any,
) -> Callable[[Path], Path]:
    """What makes a table of pictures, of which `line` gives the cells of a row."""

    def make(root: Path) -> Path:
        lines = [line(i, *each) for i, each in enumerate(rows(root, pattern))]
        return table(root / "list.csv", header, [*lines, *more], **how)

    return make


def by_class(**counts: int) -> dict[str, int]:
    return counts


LOOPS = frozenset({"link-loop"})
BOTH = by_class(cat=10, dog=10)
BY_SPLIT = {f"{name} {split}": SPLITS[split] for name in ("cat", "dog") for split in SPLITS}


def _of(*names: str) -> dict[str, int]:
    return {f"{label} {split}": SPLITS[split] for label in ("cat", "dog") for split in names}


def in_folders() -> Iterator[Layout]:
    """Class folders and split folders, and what lies around them."""
    take = partial(Layout, pictures=BOTH)
    yield take("class folders", lambda root: folders(root, "cat", "dog"), "class folders")
    yield take(
        "a lone folder above", lambda r: folders(r, "photos/cat", "photos/dog"), "in photos/"
    )
    deep = ("set 1/photos/cat", "set 1/photos/dog")
    yield take("two lone folders above", lambda root: folders(root, *deep), "in set 1/photos/")

    def beside(root: Path) -> Path:
        folders(root, "data/cat", "data/dog")
        (root / "README.md").write_text("about")
        (root / "data" / "LICENSE").write_text("free")
        (root / ".git").mkdir()
        (root / ".git" / "HEAD").write_text("ref")
        return root

    yield take("files beside the lone folder", beside, "in data/")


def in_splits() -> Iterator[Layout]:
    """Split folders, with other names and beside other things."""
    words = {"train": "train", "val": "val", "test": "test"}
    yield Layout("splits", lambda root: splits(root, words), "split folders", BY_SPLIT)
    loud = {"train": "TRAIN", "val": "Validation", "test": "Test"}
    yield Layout("splits in capitals", lambda r: splits(r, loud), "TRAIN (as train)", BY_SPLIT)
    rare = {"train": "training", "val": "dev", "test": "eval"}
    yield Layout("splits by other words", lambda r: splits(r, rare), "dev (as val)", BY_SPLIT)
    medical = {"train": "Training", "test": "Testing"}
    two = _of("train", "test")
    yield Layout("Training and Testing", lambda r: splits(r, medical), "Testing (as test)", two)
    chest = {split: f"chest/{word.title()}" for split, word in words.items()}
    yield Layout("splits in a lone folder", lambda r: splits(r, chest), "in chest/", BY_SPLIT)
    yield Layout(
        "pictures below splits", lambda r: splits(r, words, "/images"), "split folders", BY_SPLIT
    )
    lone = {"train": "train"}
    yield Layout("train alone", lambda r: splits(r, lone), "split folders train", _of("train"))

    def unlabelled_test(root: Path) -> Path:
        splits(root, lone)
        rows(root, "test/{}.png", count=2)
        return root

    yield Layout(
        "a test without classes",
        unlabelled_test,
        "split folders",
        _of("train"),
        frozenset({"not-in-a-class-folder"}),
    )


def in_odd_folders() -> Iterator[Layout]:
    """Class folders with odd names and odd things inside."""
    take = partial(Layout, pictures=BOTH)
    named = ("Training", "Testing", "Rest")
    yield Layout(
        "classes called like splits",
        lambda root: folders(root, *named),
        "class folders",
        dict.fromkeys(named, 10),
        options=("--splits", "none"),
    )
    yield Layout(
        "a class called test",
        lambda r: folders(r, "test", "dog"),
        "class folders",
        by_class(test=10, dog=10),
    )
    yield take(
        "nested classes", lambda r: folders(r, "cat/a/b", "dog/c", count=10), "class folders"
    )

    def leftovers(root: Path) -> Path:
        folders(root, "cat", "dog")
        for name in ("cat/Thumbs.db", "cat/.DS_Store", "dog/desktop.ini", "__MACOSX/cat/._000.png"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"left behind")
        for name in (".ipynb_checkpoints", "cat/.ipynb_checkpoints", ".thumbnails", "__MACOSX"):
            photo(root, f"{name}/000-checkpoint.png")
        (root / "dog" / "Icon\r").touch()
        return root

    yield take("leftovers of programs", leftovers, "class folders")

    def linked(root: Path) -> Path:
        folders(root.with_name(f"{root.name} elsewhere"), "a", "b")
        (root / "cat").symlink_to(root.with_name(f"{root.name} elsewhere") / "a")
        (root / "dog").symlink_to(f"../{root.name} elsewhere/b")
        return root

    yield take("linked class folders", linked, "class folders")

    def looping(root: Path) -> Path:
        folders(root, "cat", "dog")
        (root / "cat" / "again").symlink_to("..")
        (root / "dog" / "more").symlink_to(".")
        return root

    yield Layout("folders that link to themselves", looping, "class folders", BOTH, LOOPS)

    def other_names(root: Path) -> Path:
        return folders(root, *odd_names)

    odd_names = (
        "\U0001f431",
        "\u05d7\u05ea\u05d5\u05dc",
        "<b>&\"'",
        "#1",
        "-v",
        "100 %",
        "a,b;c",
        "$x$",
        "p_label",
    )
    yield Layout(
        "classes with odd names", other_names, "class folders", dict.fromkeys(odd_names, 10)
    )
    surrogates = (os.fsdecode(b"ch\xe2t"), "line\nbreak", "carriage\rreturn", "w" * 240)
    yield Layout(
        "classes with names that are no text",
        lambda root: folders(root, *surrogates),
        "class folders",
        dict.fromkeys(surrogates, 10),
    )
    alike = ("Cat", "cat", "cat ", "dog")
    yield Layout(
        "classes that differ by case and blank",
        lambda root: folders(root, *alike),
        "class folders",
        dict.fromkeys(alike, 10),
        frozenset({"similar-names"}),
    )

    def two_forms(root: Path) -> Path:
        return folders(root, "train/caf\u00e9", "test/cafe\u0301", "train/dog", "test/dog")

    yield Layout(
        "one class in two forms of Unicode",
        two_forms,
        "split folders",
        {f"{name} {split}": 10 for name in ("caf\u00e9", "dog") for split in ("train", "test")},
    )
    numbers = tuple(map(str, range(11)))
    yield Layout(
        "numbers as classes",
        lambda r: folders(r, *numbers),
        "class folders",
        dict.fromkeys(numbers, 10),
    )
    upper = partial(folders, suffix=".JPG")
    yield take("suffixes in capitals", lambda root: upper(root, "cat", "dog"), "class folders")
    bare = partial(folders, suffix="")
    yield take(
        "no suffixes",
        lambda root: bare(root, "cat", "dog"),
        "class folders",
        problems=frozenset({"wrong-suffix"}),
    )


def in_names() -> Iterator[Layout]:
    """Classes in the names of pictures."""
    for pattern in ("{}.{}.jpg", "{}_{:04}.jpg", "{} ({}).png", "{}-{}.png"):

        def named(root: Path, pattern: str = pattern) -> Path:
            for label, i in product(("cat", "great_dane"), range(1, 11)):
                photo(root, pattern.format(label, i))
            return root

        found = by_class(cat=10, great_dane=10)
        yield Layout(f"names like {pattern.format('cat', 1)}", named, "from the file names", found)

    def in_train(root: Path) -> Path:
        for label, i in product(("cat", "dog"), range(10)):
            photo(root, f"train/{label}.{i}.jpg")
        return root

    yield Layout("names in a train folder", in_train, "from the file names", _of("train"))


def in_tables() -> Iterator[Layout]:
    """Tables beside pictures."""
    take = partial(Layout, pictures=BOTH)

    def listed(root: Path, name: str = "labels.csv", **how: Any) -> Path:
        table(root / name, PATH_LABEL, rows(root, "images/{:03}.png"), **how)
        return root

    yield take("images beside labels.csv", listed, "labels.csv")
    yield take(
        "images beside annotations.csv", partial(listed, name="annotations.csv"), "annotations"
    )
    yield take("separator ;", partial(listed, delimiter=";"), "labels.csv")
    yield take(
        "byte-order mark and ;", partial(listed, delimiter=";", encoding="utf-8-sig"), "labels"
    )
    yield take("tabs", partial(listed, name="labels.tsv", delimiter="\t"), "labels.tsv")
    yield take("all cells quoted", partial(listed, quoting=csv.QUOTE_ALL), "labels.csv")
    yield take("line ends of old Macs", partial(listed, lineterminator="\r"), "labels.csv")

    windows = of(PATH_LABEL, lambda _, name, label: [name.replace("/", "\\"), label])
    yield take("Windows' paths", windows, "column 'path'")
    here = of(PATH_LABEL, lambda _, name, label: [f"./{name}", label])
    yield take("paths from here", here, "column 'path'")
    quoted = of(PATH_LABEL, lambda _, n, label: [n, label], 'a, "b"/line\n{}.png')
    yield take("commas, quotes and line ends in paths", quoted, "column 'path'")
    ids = of(["id", "breed"], lambda _, name, label: [Path(name).stem, label], "train/f{:03}.jpg")
    yield take("ids without suffix", ids, "'id' (in train/)")

    def root_given(root: Path) -> Path:
        lines = rows(root.with_name("pictures of dogs"), "f{:03}.jpg")
        return table(root / "a.csv", ["id", "breed"], [(Path(n).stem, label) for n, label in lines])

    yield take("a folder elsewhere", root_given, "'id'", options=("--root", "../pictures of dogs"))
    hugging = of(["file_name", "label"], lambda _, name, label: [name, label])
    yield take("file_name and label", hugging, "column 'file_name'")
    index = of(["", "path", "label"], lambda i, name, label: [i, name, label])
    yield take("a column of row numbers", index, "column 'path'")
    numbered = of(["Unnamed: 0", "filename", "class"], lambda i, name, label: [i, name, label])
    yield take("numbers and other names", numbered, "column 'filename'")
    hot = of(["image", "cat", "dog"], lambda i, name, _: [name, int(i % 2 == 0), int(i % 2)])
    yield take("a column for each class", hot, "columns 'cat', 'dog'")
    floats = of(
        ["image", "age", "cat", "dog"],
        lambda i, name, _: [name, 7, f"{(i + 1) % 2}.0", f"{i % 2}.0"],
    )
    yield take(
        "chosen columns of classes", floats, "columns", options=("--label-columns", "cat,dog")
    )


def in_odd_tables() -> Iterator[Layout]:
    """Tables with odd cells."""
    take = partial(Layout, pictures=BOTH)
    repeated = of(PATH_LABEL, lambda _, n, label: [n, label], more=[["images/000.png", "cat"]] * 3)
    yield take("repeated rows", repeated, "list.csv", problems=frozenset({"listed-before"}))
    contrary = of(PATH_LABEL, lambda _, n, label: [n, label], more=[["images/000.png", "dog"]])
    yield take(
        "a picture with two labels",
        contrary,
        "list.csv",
        problems=frozenset({"listed-before-with-another-label"}),
    )
    gaps = of(
        PATH_LABEL, lambda _, n, la: [n, la], more=[["", "cat"], ["images/9.png", ""], ["", ""]]
    )
    yield take("empty cells", gaps, "list.csv", problems=frozenset({"no-path", "no-label"}))
    gone = of(PATH_LABEL, lambda _, n, label: [n, label], more=[["images/gone.png", "cat"]])
    yield take("a row without its picture", gone, "list.csv", problems=frozenset({"missing"}))
    figures = of(PATH_LABEL, lambda i, name, _: [name, i % 2])
    yield Layout("numbers as labels", figures, "list.csv", {"0": 10, "1": 10})
    blanks = of(PATH_LABEL, lambda _, name, label: [f" {name} ", f" {label} "])
    yield take("blanks around cells", blanks, "list.csv")
    parts = of(
        [*PATH_LABEL, "split"],
        lambda i, n, label: [
            n,
            label,
            ("TRAIN", "valid", "testing")[0 if i < 12 else 1 + i % 4 // 2],
        ],
    )
    halves = {
        f"{name} {split}": n
        for name in ("cat", "dog")
        for split, n in (("train", 6), ("val", 2), ("test", 2))
    }
    yield Layout("a column of splits", parts, "list.csv", halves, frozenset({"small-class"}))
    excel = of(PATH_LABEL, lambda _, name, label: [name, label], delimiter=";")

    def with_hint(root: Path) -> Path:
        path = excel(root)
        path.write_text("sep=;\n" + path.read_text())
        return path

    yield take("Excel's line with the separator", with_hint, "list.csv")
    latin = of(PATH_LABEL, lambda i, n, _: [n, ("ch\u00e2t", "chien")[i % 2]], encoding="latin-1")
    yield Layout("labels in Latin-1", latin, "list.csv", {os.fsdecode(b"ch\xe2t"): 10, "chien": 10})

    def absolute(root: Path) -> Path:
        lines = [(root / name, label) for name, label in rows(root, "images/{:03}.png")]
        return table(root / "list.csv", PATH_LABEL, lines)

    yield take("absolute paths", absolute, "list.csv")

    def kaggle(root: Path) -> Path:
        lines = [(Path(name).stem, label) for name, label in rows(root, "train/f{:03}.jpg")]
        rows(root, "test/g{:03}.jpg", count=2)
        table(root / "labels.csv", ["id", "breed"], lines)
        table(root / "sample_submission.csv", ["id", "cat", "dog"], [("g000", 0.5, 0.5)])
        return root

    yield take("a competition's folder", kaggle, "labels.csv")


def in_archives() -> Iterator[Layout]:
    """Archives of folders."""
    take = partial(Layout, pictures=BOTH)

    def zipped(root: Path, separator: str = "/", *names: str) -> Path:
        folders(root / "in", *names)
        with zipfile.ZipFile(root / "photos.zip", "w") as file:
            for path in sorted((root / "in").rglob("*.png")):
                member = zipfile.ZipInfo(path.relative_to(root / "in").as_posix())
                member.filename = member.filename.replace("/", separator)
                file.writestr(member, path.read_bytes())
        return root / "photos.zip"

    yield take(
        "zip with a top folder", lambda r: zipped(r, "/", "photos/cat", "photos/dog"), "photos/"
    )
    yield take(
        "zip by Windows", lambda r: zipped(r, "\\", "photos/cat", "photos/dog"), "in photos/"
    )

    def of_macos(root: Path) -> Path:
        for name in ("cat", "dog"):
            (root / "in" / "__MACOSX" / "photos" / name).mkdir(parents=True)
            (root / "in" / "__MACOSX" / "photos" / name / "._000.png").write_bytes(b"\0\5\x16\7")
        return zipped(root, "/", "photos/cat", "photos/dog")

    yield take("zip by macOS", of_macos, "in photos/")

    def tarred(root: Path) -> Path:
        splits(root / "in", {"train": "set/train", "test": "set/test"})
        with tarfile.open(root / "set.tar.gz", "w:gz") as file:
            file.add(root / "in" / "set", "set")
        return root / "set.tar.gz"

    yield Layout("tar.gz with splits", tarred, "split folders", _of("train", "test"))


def no(name: str, make: Callable[[Path], Path], refused: str, code: int = 1, **more: Any) -> Layout:
    return Layout(name, make, refused=refused, code=code, **more)


def refused() -> Iterator[Layout]:
    """What cannot be told apart, or is no data set."""

    mixed = ("train/cat", "train/dog", "other/cat")
    yield no("splits beside others", lambda root: folders(root, *mixed), "--splits none")
    double = {"train": "train", "val": "val", "test": "valid"}
    yield no("two splits of one kind", lambda root: splits(root, double), "--splits none")
    camera = partial(rows, pattern="IMG_{:04}.jpg")
    yield no(
        "names by a camera",
        lambda root: camera(root) and root,
        "Put the pictures of each class into a folder",
        taken="no class folders",
        problems=frozenset({"not-in-a-class-folder"}),
    )
    one = partial(no, refused="only one class", taken="class folders", pictures=by_class(cat=10))
    yield one("one class", lambda root: folders(root, "cat"))
    yield no("an empty folder", lambda root: root, "is empty")
    yield no("no such folder", lambda root: root / "phtos", "There is no folder", code=2)
    yield no(
        "two pictures of a class",
        lambda root: folders(folders(root, "cat"), "dog", count=2),
        "missing_classes=allow",
        taken="class folders",
        pictures=by_class(cat=10, dog=2),
        problems=frozenset({"small-class"}),
    )

    def one_damaged(root: Path) -> Path:
        folders(root, "cat", "dog")
        for path in sorted((root / "cat").iterdir())[:3]:
            path.write_bytes(path.read_bytes()[:200])
        return root

    yield no(
        "many damaged files",
        one_damaged,
        "damaged_files=allow",
        taken="class folders",
        pictures=by_class(cat=7, dog=10),
        problems=frozenset({"small-class", "truncated"}),
    )

    def without_pictures(root: Path) -> Path:
        for name in ("cat", "dog"):
            (root / name).mkdir()
            (root / name / "a.txt").write_text("text")
        return root

    yield no(
        "no pictures at all",
        without_pictures,
        "holds no picture that can be read",
        taken="class folders",
        problems=frozenset({"small-class"}),
    )
    yield no(
        "a picture as the source", lambda r: photo(r, "a.png"), "is a file. Give a folder", code=2
    )

    def boxes(root: Path) -> Path:
        for split in ("train", "val"):
            rows(root, f"{split}/images/{{}}.png", count=5)
            for i in range(10):
                path = root / split / "labels" / f"{i}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("0 0.5 0.5 0.1 0.1\n")
        return root

    yield no(
        "boxes of objects",
        boxes,
        "No usable picture of class 'labels'",
        taken="split folders",
        pictures={"images train": 10, "images val": 10},
        problems=frozenset({"small-class", "missing-in-split"}),
    )


def refused_tables() -> Iterator[Layout]:
    """Tables and archives that cannot be told apart, or read."""

    def listed(root: Path, header: Row, line: Callable[[str, str], Row], **how: Any) -> Path:
        return table(
            root / "list.csv", header, [line(*each) for each in rows(root, "a/{}.png")], **how
        )

    two = partial(listed, header=["front", "back", "label"], line=lambda n, la: [n, n, la])
    yield no("two columns of paths", two, "--path-column")
    three = partial(listed, header=["path", "kind", "size"], line=lambda n, la: [n, la, 7])
    yield no("two columns of labels", three, "--label-column")
    several = partial(listed, header=["path", "cat", "dog"], line=lambda n, _: [n, 1, 1])
    yield no(
        "several labels of a picture", several, "Pictures with several labels are not supported"
    )
    wide = partial(listed, header=PATH_LABEL, line=lambda n, la: [n, la], encoding="utf-16")
    yield no("a table in UTF-16", wide, "Save it as CSV in UTF-8")
    elsewhere = partial(listed, header=PATH_LABEL, line=lambda n, la: [f"/content/drive/{n}", la])
    yield no(
        "paths of another machine",
        elsewhere,
        "--root",
        taken="list.csv",
        problems=frozenset({"small-class", "missing"}),
    )

    def twice(root: Path) -> Path:
        lines = [(Path(name).stem, label) for name, label in rows(root, "a/{}.png")]
        rows(root, "b/{}.png")
        return table(root / "list.csv", ["id", "label"], lines)

    yield no("pictures in two folders", twice, "--root")

    def empty_table(root: Path) -> Path:
        (root / "list.csv").touch()
        return root / "list.csv"

    yield no("an empty table", empty_table, "is empty")

    def broken_zip(root: Path) -> Path:
        (root / "a.zip").write_bytes(b"PK\3\4" + bytes(400))
        return root / "a.zip"

    yield no("a damaged archive", broken_zip, "is damaged, truncated or not an archive")

    def web_page(root: Path) -> Path:
        (root / "a.zip").write_text("<!DOCTYPE html><html>404</html>")
        return root / "a.zip"

    yield no("a web page called an archive", web_page, "is damaged, truncated or not an archive")


def layouts() -> list[Layout]:
    """All layouts."""
    parts = (in_folders, in_splits, in_odd_folders, in_names, in_tables, in_odd_tables)
    return [each for part in (*parts, in_archives, refused, refused_tables) for each in part()]


def counted(classes: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Pictures by class and split, as `Layout.pictures` has them, of the numbers of `check`."""
    return {
        name if split == "undecided" else f"{name} {split}": count
        for name, counts in classes.items()
        for split, count in counts.items()
    }
