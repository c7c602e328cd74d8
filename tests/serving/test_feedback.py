import csv
import errno
import hashlib
import http.client
import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import COLOURS, square
from efftune.data import relabelling
from efftune.data.relabelling import Decision
from efftune.data.sources import discovery
from efftune.errors import DataError, UsageError
from efftune.serving import feedback
from efftune.serving.feedback import Correction, Feedback
from efftune.serving.service import Service
from efftune.serving.settings import ServerSettings
from efftune.serving.state import State
from efftune.system import files
from serving.processes import ask, in_thread, process


def encoded(colour, seed, form="png", **options):
    stream = io.BytesIO()
    square(colour, seed).save(stream, form, **options)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


@pytest.fixture
def kept(folder):
    found = Feedback(folder)
    yield found
    found.close()


@pytest.fixture(scope="module")
def service(finished_run):
    return Service.load(finished_run.folder)


@pytest.fixture
def server(service, kept):
    state = State(ServerSettings(at_work=2))
    state.feedback = kept
    state.serve(service)
    with in_thread(state) as url:
        yield url


def rows(folder):
    return relabelling.read(folder / "labels.csv")


def test_correction_is_kept_with_its_picture(server, folder):
    picture = encoded(COLOURS["red"], 1)
    name = f"my-photo-{hashlib.sha256(picture).hexdigest()[:12]}.png"
    status, answer = ask(
        f"{server}/feedback", picture, label="blue", predicted="red", name="my photo.JPG"
    )
    assert (status, answer["kept"], answer["label"]) == (201, name, "blue")
    assert (folder / name).read_bytes() == picture
    assert rows(folder) == {name: Decision("red", "relabel", "blue")}
    assert ask(f"{server}/info")[1]["feedback"] is True


def test_second_correction_of_a_content_takes_the_place_of_the_first(server, folder):
    picture = encoded(COLOURS["red"], 1)
    ask(f"{server}/feedback", picture, label="blue", predicted="red", name="a.png")
    status, answer = ask(
        f"{server}/feedback", picture, label="red", predicted="red", name="another.png"
    )
    assert status == 201
    assert rows(folder) == {answer["kept"]: Decision("red", "keep")}
    assert [path.name for path in folder.glob("*.png")] == [answer["kept"]]


@pytest.mark.parametrize(
    ("query", "picture", "status", "reason"),
    [
        ({"label": "cat", "predicted": "red"}, encoded(COLOURS["red"], 1), 400, "label must be"),
        ({"label": "red"}, encoded(COLOURS["red"], 1), 400, "predicted must be a class"),
        ({"label": "red", "predicted": "red", "x": 1}, b"x", 400, "Unknown parameter 'x'"),
        ({"label": "red", "predicted": "red"}, b"no picture", 422, "not an image"),
        ({"label": "red", "predicted": "red"}, encoded(COLOURS["red"], 1)[:90], 422, "cannot be"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(
    server, folder, query, picture, status, reason
):
    found, answer = ask(f"{server}/feedback", picture, **query)
    assert found == status
    assert reason in answer["error"]
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_server_without_feedback_says_so(service):
    state = State(ServerSettings(at_work=1))
    state.serve(service)
    with in_thread(state) as url:
        found = ask(f"{url}/feedback", b"x", label="red", predicted="red")
        assert found[0] == 404
        assert ask(f"{url}/info")[1]["feedback"] is False


def test_table_that_cannot_be_opened_is_told(server, folder):
    (folder / "labels.csv").mkdir()
    status, answer = ask(
        f"{server}/feedback", encoded(COLOURS["red"], 1), label="blue", predicted="red"
    )
    assert (status, answer["error"]) == (
        *(507, "Its folder cannot be written to: the correction is not kept."),
    )
    assert not list(folder.glob("*.png"))


@pytest.mark.parametrize("writer", ["write", "written_whole"])
def test_full_disk_is_told_and_loses_nothing(server, folder, monkeypatch, writer):
    ask(f"{server}/feedback", encoded(COLOURS["red"], 1), label="blue", predicted="red")
    before, original = rows(folder), getattr(files, writer)

    def full(path, *arguments, **options):
        if writer == "write" or path.name == "labels.csv":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, *arguments, **options)

    monkeypatch.setattr(files, writer, full)
    second = encoded(COLOURS["red"], 2)
    status, answer = ask(f"{server}/feedback", second, label="blue", predicted="red")
    assert (status, answer["error"]) == (507, "There is no room: the correction is not kept.")
    assert rows(folder) == before
    monkeypatch.undo()
    assert ask(f"{server}/feedback", second, label="blue", predicted="red")[0] == 201
    assert len(rows(folder)) == 2


def test_everybody_may_correct_at_the_same_time(server, folder):
    pictures = [encoded(COLOURS["green"], seed) for seed in range(24)]

    def correct(number):
        return ask(
            f"{server}/feedback", pictures[number], label="red", predicted="green", name=f"{number}"
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(correct, range(24)))
    assert {status for status, _ in answers} == {201}
    assert set(rows(folder)) == {answer["kept"] for _, answer in answers}
    assert len(rows(folder)) == 24


def test_labels_of_any_letters_are_read_back(kept, folder):
    labels = ["a,b", 'a "b"', "a\nb", "a\r\nb", "🦊 füchse", "=1+1", "-x", " blank "]
    for seed, label in enumerate(labels):
        kept.keep(encoded(COLOURS["red"], seed), Correction(label, "=cmd()", "=1+1"))
    assert [each.new_label for each in rows(folder).values()] == labels
    assert {each.label for each in rows(folder).values()} == {"=cmd()"}


@given(st.text(max_size=300))
def test_name_is_safe_whatever_the_client_says(name):
    safe = feedback._safe(name)
    assert safe.isascii() and safe.replace("-", "").isalnum() and 1 <= len(safe) <= 40
    assert not safe.startswith("-")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\Müller 1.jpeg", "Muller-1"),
        ("=HYPERLINK(1)", "HYPERLINK-1"),
        (".htaccess", "htaccess"),
        ("写真.png", "photo"),
        ("", "photo"),
    ],
)
def test_name_is_a_safe_form_of_the_clients(name, safe):
    assert feedback._safe(name) == safe


def test_suffix_is_that_of_the_content(kept):
    picture = encoded(COLOURS["red"], 1, "jpeg")
    assert kept.keep(picture, Correction("a", "b", "page.html")).endswith(".jpg")


def test_contents_whose_checksums_begin_alike_are_both_kept(kept, folder):
    first, second = encoded(COLOURS["red"], 1), encoded(COLOURS["red"], 2)
    digest = hashlib.sha256(second).hexdigest()
    (folder / f"a-{digest[:12]}.png").write_bytes(first)
    name = kept.keep(second, Correction("red", "red", "a"))
    assert name == f"a-{digest}.png"
    assert kept.keep(second, Correction("red", "red", "a")) == name


def test_picture_without_a_row_is_harmless(kept, folder):
    picture = encoded(COLOURS["red"], 1)
    kept.keep(picture, Correction("red", "blue"))
    (name,) = rows(folder)
    (folder / "labels.csv").unlink()
    assert kept.keep(picture, Correction("red", "blue")) == name
    assert list(rows(folder)) == [name]


def test_what_the_owner_edits_meanwhile_stays(kept, folder):
    kept.keep(encoded(COLOURS["red"], 1), Correction("red", "blue"))
    relabelling.write(folder / "labels.csv", {"own.png": Decision("red", "drop")})
    kept.keep(encoded(COLOURS["red"], 2), Correction("red", "blue"))
    assert next(iter(rows(folder))) == "own.png" and len(rows(folder)) == 2


def test_damaged_table_is_told_and_stays(server, folder):
    (folder / "labels.csv").write_text("nothing")
    status, answer = ask(
        f"{server}/feedback", encoded(COLOURS["red"], 1), label="red", predicted="red"
    )
    assert status == 409 and "labels.csv is damaged" in answer["error"]
    assert (folder / "labels.csv").read_text() == "nothing"
    with pytest.raises(DataError, match="no column"):
        shutil.copytree(folder, folder.with_name("other"))
        Feedback(folder.with_name("other"))


def test_folder_that_cannot_be_used_is_refused(kept, folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written to"):
        Feedback(tmp_path / "file" / "below")
    with pytest.raises(UsageError, match="another server"):
        Feedback(folder)
    kept.close()
    Feedback(folder).close()


def examples_of(run):
    with (run / "examples.csv").open(encoding="utf-8", newline="") as stream:
        return {row["path"]: row for row in csv.DictReader(stream)}


@pytest.mark.ci
def test_loop_closes(server, folder, source, tmp_path, finished_run, efftune_command):
    corrected = [encoded(COLOURS["red"], seed) for seed in (71, 72)]
    for number, picture in enumerate(corrected):
        label = ("blue", "green")[number]
        assert ask(f"{server}/feedback", picture, label=label, predicted="red")[0] == 201
    found = efftune_command(
        *("train", source, "--recipe", "quick", "--image-size", 32, "--test", 0.15),
        *("--labels", folder / "labels.csv", "--run", tmp_path / "next", "-q"),
    )
    assert found.returncode == 0, found.stderr
    before, after = examples_of(finished_run.folder), examples_of(tmp_path / "next")
    added = {name: row for name, row in after.items() if name not in before}
    assert {name: after[name]["split"] for name in before} == {
        name: row["split"] for name, row in before.items()
    }
    columns = ("sha256", "label", "split", "status")
    assert {tuple(row[each] for each in columns) for row in added.values()} == {
        (hashlib.sha256(corrected[0]).hexdigest(), "blue", "train", "used"),
        (hashlib.sha256(corrected[1]).hexdigest(), "green", "train", "used"),
    }


def test_folder_of_corrections_is_a_source_by_itself(kept, folder):
    for seed, colour in enumerate(COLOURS):
        kept.keep(encoded(COLOURS[colour], seed), Correction(colour, "blue", f"cat {seed}.png"))
    wanted = dict.fromkeys(COLOURS, 1)
    for place in (folder, folder / "labels.csv"):
        found = discovery.find(place)
        assert {row.label: 1 for row in found.rows if row.usable} == wanted


@pytest.mark.long
def test_server_that_is_killed_leaves_whole_rows(finished_run, folder):
    pictures = [encoded(COLOURS["green"], seed) for seed in range(40)]
    kept = []
    with (
        process(finished_run.folder, "--feedback", folder) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        server.wait_for("ready")

        def correct(picture):
            with suppress(OSError, http.client.HTTPException):  # it is killed meanwhile
                kept.append(ask(f"{server.url}/feedback", picture, label="red", predicted="green"))
                if len(kept) == 15:
                    server.process.kill()

        list(pool.map(correct, pictures))
    assert {status for status, _ in kept} == {201} and 15 <= len(kept) < 40
    found = rows(folder)
    assert {answer["kept"] for _, answer in kept} <= set(found)
    assert set(found.values()) == {Decision("green", "relabel", "red")}
    contents = {(folder / name).read_bytes() for name in found}
    assert len(contents) == len(found) and contents <= set(pictures)
    with process(finished_run.folder, "--feedback", folder) as server:
        server.wait_for("ready")
        for picture in pictures:
            assert ask(f"{server.url}/feedback", picture, label="red", predicted="green")[0] == 201
        assert server.stop() == (0, "")
    assert len(rows(folder)) == 40
