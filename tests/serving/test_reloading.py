import io
import json
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import efftune
from conftest import COLOURS, square
from efftune.errors import UsageError
from efftune.runs import loading
from efftune.serving.reloading import Served
from serving.processes import ask, process, until


@pytest.fixture(scope="module")
def picture():
    stream = io.BytesIO()
    square(COLOURS["red"], 7).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def runs(tmp_path, finished_run, tuned_run):
    """A folder with an older run; and two others, which tests put there."""
    shutil.copytree(finished_run.folder, tmp_path / "runs" / "first")
    shutil.copytree(tuned_run.folder, tmp_path / "others" / "second")
    os.utime(tmp_path / "runs" / "first" / "run.json", (1000, 1000))
    return tmp_path / "runs"


def put(run, runs, when):
    """A run appears in a folder; its record comes last."""
    os.utime(run / "run.json", (when, when))
    shutil.copytree(run, runs / run.name, ignore=shutil.ignore_patterns("run.json"))
    shutil.copy2(run / "run.json", runs / run.name)
    return runs / run.name


def served(place, problems, *, is_latest=True):
    return Served(place, loading.load, problems.append, is_latest=is_latest)


def known_answers(picture, *folders):
    """What each of some runs says, by the checksum of its model."""
    found = {}
    for folder in folders:
        record = json.loads((folder / "run.json").read_text())
        (said,) = efftune.load(folder).predict([picture])
        found[record["files"]["model.keras"]] = (said.label, said.confidence)
    assert len(found) == len(folders)
    return found


def test_newest_finished_run_is_served_and_then_newer_ones(runs, tmp_path):
    problems = []
    newest = served(runs, problems)
    assert newest.first().run == "first"
    assert newest.newer() is None
    (runs / "unfinished").mkdir()
    (runs / "unfinished" / "run.json").write_text('{"state": "unfinished"}')
    (runs / "odd").mkdir()
    (runs / "odd" / "run.json").write_text("[" * 9999)
    (runs / "file").touch()
    assert newest.newer() is None
    put(tmp_path / "others" / "second", runs, 2000)
    service = newest.newer()
    assert (service.run, service.name, service.info["run"]) == ("second", "runs", "second")
    assert newest.newer() is None
    assert problems == []


def test_older_run_does_not_take_the_place_of_a_newer_one(runs, tmp_path):
    newest = served(runs, [])
    newest.first()
    put(tmp_path / "others" / "second", runs, 500)
    assert newest.newer() is None
    shutil.rmtree(runs / "first")
    assert newest.newer() is None


def test_run_that_cannot_be_served_is_told_once_and_the_old_one_stays(runs, tmp_path):
    problems = []
    newest = served(runs, problems)
    newest.first()
    damaged = put(tmp_path / "others" / "second", runs, 2000)
    (damaged / "model.keras").write_bytes(b"")
    assert newest.newer() is None and newest.newer() is None
    (problem,) = problems
    assert "second is not served" in problem and "Restore it" in problem
    assert newest.again() is None and len(problems) == 2  # as that was asked for
    shutil.copy2(tmp_path / "others" / "second" / "model.keras", damaged)
    assert newest.newer().run == "second"


def test_run_that_is_still_copied_is_served_when_it_is_whole(runs, tmp_path):
    problems = []
    newest = served(runs, problems)
    newest.first()
    whole = tmp_path / "others" / "second"
    copied = runs / "second"
    copied.mkdir()
    shutil.copy2(whole / "run.json", copied)  # first of all, as any program may
    for path in sorted(whole.rglob("*")):
        place = copied / path.relative_to(whole)
        if path.is_dir():
            place.mkdir()
            continue
        place.write_bytes(path.read_bytes()[:10])
        if (found := newest.newer()) is not None:
            break
        shutil.copy2(path, place)
    assert (found or newest.newer()).run == "second"
    assert len(problems) == len(set(problems)) > 1


def test_folder_that_goes_for_a_moment_is_looked_at_again(runs, tmp_path):
    newest = served(runs, [])
    newest.first()
    away = runs.rename(tmp_path / "away")
    assert newest.newer() is None
    away.rename(runs)
    put(tmp_path / "others" / "second", runs, 2000)
    assert newest.newer().run == "second"


def test_first_run_may_be_an_older_one_if_the_newest_cannot_be_served(runs, tmp_path):
    problems = []
    (put(tmp_path / "others" / "second", runs, 2000) / "classes.json").write_text("{")
    assert served(runs, problems).first().run == "first"
    assert len(problems) == 1


def test_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match="no finished run"):
        served(tmp_path / "nothing", []).first()
    with pytest.raises(UsageError, match="no folder"):
        served(tmp_path / "gone", []).first()


def test_link_to_another_run_is_read_again(runs, tmp_path):
    link, problems = tmp_path / "current", []
    link.symlink_to(runs / "first")
    one = served(link, problems, is_latest=False)
    assert (one.first().name, one.first().run) == ("current", "first")
    link.unlink()
    assert one.again() is None
    assert "no run folder" in problems[0]
    link.symlink_to(tmp_path / "others" / "second")
    assert (one.again().name, one.again().run) == ("current", "second")


def ask_all_the_while(url, picture, swap, count=200, beside=4):
    """Ask many times, and have the model swapped when a quarter is answered."""
    done = threading.Semaphore(0)

    def one(_):
        status, answer = ask(f"{url}/predict", picture)
        done.release()
        return status, answer.get("model"), (answer.get("label"), answer.get("confidence"))

    with ThreadPoolExecutor(beside) as pool:
        answers = [pool.submit(one, number) for number in range(count // 4)]
        [done.acquire() for _ in answers]
        swapped = pool.submit(swap)
        while not swapped.done() or len(answers) < count:
            answers.append(pool.submit(one, 0))
            answers[-1].result()
        swapped.result()
        return [each.result() for each in answers]


@pytest.mark.long
def test_swap_by_watching_and_by_signal_loses_nothing(runs, tmp_path, picture):
    second = tmp_path / "others" / "second"
    known = known_answers(picture, runs / "first", second)
    first_checksum, second_checksum = known
    with process("--latest", runs) as server:
        server.wait_for("ready")

        def swap():
            put(second, runs, 2000)
            assert server.wait_for("reloaded") == "second"

        answers = ask_all_the_while(server.url, picture, swap)
        assert len(answers) >= 200
        assert {(status, known[model] == said) for status, model, said in answers} == {(200, True)}
        assert [model for _, model, _ in answers][:50] == [first_checksum] * 50
        assert ask(f"{server.url}/info")[1]["checksum"] == second_checksum
        code, errors = server.stop()
        assert (code, errors) == (0, "")

    link = tmp_path / "current"
    link.symlink_to(runs / "first")
    with process(link, "--reload") as server:
        server.wait_for("ready")

        def swap():
            link.unlink()
            server.process.send_signal(signal.SIGHUP)  # nothing to read: the old one stays
            assert "no run folder" in server.wait_for("problem")
            link.symlink_to(second)
            server.process.send_signal(signal.SIGHUP)
            assert server.wait_for("reloaded") == "second"

        answers = ask_all_the_while(server.url, picture, swap)
        assert {(status, known[model] == said) for status, model, said in answers} == {(200, True)}
        until(lambda: ask(f"{server.url}/predict", picture)[1]["model"] == second_checksum, 5)
        assert server.stop() == (0, "")


def test_one_of_run_and_latest_is_needed(efftune_command, tmp_path):
    for words in ((), (tmp_path, "--latest", tmp_path)):
        found = efftune_command("serve", *words)
        assert found.returncode == 2
        assert "Give a RUN to serve, or --latest FOLDER" in found.stderr
