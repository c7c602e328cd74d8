import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session
from hypothesis import given
from hypothesis import strategies as st

import efftune
from conftest import square
from delivery.hub_server import READS, WRITES, Hub
from efftune.delivery import hub, hub_files
from efftune.errors import DataError, DiskFull, UsageError

REPO = "anna/squares"
NAME = f"hf:{REPO}"
PRIVATE_FILES = {"predictions.csv", "examples.csv", "findings.csv", "thumbnails.json"}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The Hub's own client, told to use a server on this machine."""
    made = Hub()
    monkeypatch.setenv("HF_TOKEN", WRITES)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace(constants.ENDPOINT, made.url)
    )
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.chdir(tmp_path)
    close_session()
    yield made
    close_session()
    made.shutdown()
    made.server_close()


@pytest.fixture
def pushed(server, finished_run):
    finished_run.push(NAME)
    server.requests.clear()
    return server.repositories[REPO]


def replaced(repository, name, content, *, in_manifest=True):
    """Commit another file, which the manifest may vouch for."""
    files = repository.content | {name: content}
    if in_manifest:
        manifest = json.loads(files["efftune.json"])
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["files"][name] = entry
        files["efftune.json"] = json.dumps(manifest).encode()
    repository.commit(files)


def test_run_goes_there_and_comes_back(server, finished_run, source):
    seen = []
    made = finished_run.push(NAME, on_progress=lambda *each: seen.append(each))
    assert made.repository == REPO
    assert made.url == f"{server.url}/{REPO}"
    there = server.repositories[REPO]
    assert made.commit == there.head
    assert {*made.files} == {*there.content} - {".gitattributes"}
    assert {"README.md", "efftune.json", "model.keras", "run.json", "classes.json"} < {*made.files}
    assert seen[-1] == ("push", made.bytes, made.bytes)
    assert not there.private
    seen.clear()
    run = efftune.load_from_hub(NAME, on_progress=lambda *each: seen.append(each))
    assert run.folder == Path("runs/squares")
    phase, done, total = seen[-1]
    assert (phase, done) == ("load", total)
    assert not [each for each in run.folder.rglob("*") if each.name.startswith(".")]
    assert (run.folder.stat().st_mode & 0o777) == (Path("runs").stat().st_mode & 0o777)
    pictures = [source / "red" / "01.png", source / "blue" / "02.png"]
    before, after = (each.classifier.predict(pictures, 3) for each in (finished_run, run))
    assert [(each.label, each.confidence) for each in before] == [
        (each.label, each.confidence) for each in after
    ]
    assert run.evaluation == finished_run.evaluation
    assert run.recipe == finished_run.recipe
    for name in run.record["files"]:
        assert (run.folder / name).read_bytes() == (finished_run.folder / name).read_bytes()


def test_card_is_the_page_and_comes_back(server, pushed, finished_run):
    card = ModelCard(pushed.content["README.md"].decode())
    assert card.data.eval_results[0].metric_value == 1
    assert f"efftune load {NAME}" in card.text
    assert "POST /api/validate-yaml" not in server.requests  # they were cleared
    run = efftune.load_from_hub(NAME)
    assert (run.folder / "MODEL_CARD.md").read_bytes() == (
        finished_run.folder / "MODEL_CARD.md"
    ).read_bytes()


def test_nothing_private_goes_there(pushed, finished_run):
    assert not PRIVATE_FILES & {*pushed.content}
    source = Path(finished_run.record["source"])
    secrets = [str(source.parent), str(finished_run.folder), str(Path.home()) + os.sep]
    secrets += [finished_run.record["machine"]["system"]]
    # Of tests in several processes it is `-c`.
    secrets += [each for each in [finished_run.record["command"]] if len(each) > 3]
    names = [line.split(",")[0] for line in (finished_run.folder / "examples.csv").open()][1:]
    for name, content in pushed.content.items():
        for secret in [*secrets, *names]:
            assert secret.encode() not in content, (name, secret)
    assert json.loads(pushed.content["run.json"])["source"] == source.name


@pytest.mark.ci
def test_paths_in_settings_and_notes_stay_here(server, finished_run, tmp_path):
    run = efftune.Run.load(shutil.copytree(finished_run.folder, tmp_path / "run"))
    record = run.record | {
        "advice": ["no room in /home/anna/cache/x.npy: 3 and/or 4; see https://example.org/a/b"],
        "not_available": {"explained": "~/secret/place is gone"},
    }
    (run.folder / "run.json").write_text(json.dumps(record))
    recipe = run.recipe.changed(
        labels="/home/anna/labels.csv",
        val="/home/anna/val",
        weights="/home/anna/mine.h5",
        root="photos",
    )
    (run.folder / "recipe.toml").write_text(recipe.to_toml())
    efftune.Run.load(run.folder).push(NAME)
    content = server.repositories[REPO].content
    assert not [name for name, each in content.items() if b"anna/" in each and name != "README.md"]
    assert b"secret" not in content["run.json"]
    public = json.loads(content["run.json"])
    assert public["advice"] == ["no room in x.npy: 3 and/or 4; see https://example.org/a/b"]
    loaded = efftune.load_from_hub(NAME).recipe
    assert (loaded.backbone.weights, loaded.data.val, loaded.data.labels) == ("mine.h5", "auto", "")


@pytest.mark.long
def test_report_goes_there_if_asked_for(server, finished_run, source, tmp_path):
    made = finished_run.push(NAME, with_report=True)
    assert {*made.files} >= PRIVATE_FILES
    run = efftune.load_from_hub(NAME, "loaded")
    assert "report.html" in {each.name for each in run.folder.iterdir()}
    assert run.export("onnx", tmp_path / "out", photos=source)
    assert efftune.load(run.folder, "1%")
    # What is there no longer has it.
    finished_run.push(NAME)
    assert not PRIVATE_FILES & {*server.repositories[REPO].content}
    run = efftune.load_from_hub(NAME, "without")
    assert not (run.folder / "report.html").exists()
    for needs in (
        run.report,
        run.review,
        lambda: run.accept(1),
        lambda: run.export("onnx"),
        lambda: efftune.load(run.folder, "1%"),
        lambda: efftune.compare([run, finished_run]),
        lambda: run.push(NAME, with_report=True),
    ):
        with pytest.raises(UsageError, match="--with-report"):
            needs()
    run.push("hf:anna/again")
    assert "model.keras" in server.repositories["anna/again"].content


@pytest.mark.ci
def test_second_push_is_another_commit(server, pushed, finished_run):
    before = pushed.head
    finished_run.push(NAME)
    assert pushed.head == before  # nothing has changed
    replaced(pushed, "README.md", b"---\nlicense: mit\n---\nedited", in_manifest=False)
    edited = pushed.head
    assert finished_run.push(NAME).commit == pushed.head != edited
    assert b"edited" not in pushed.content["README.md"]
    assert b"edited" in pushed.commits[edited]["README.md"]


def test_edited_page_does_not_harm_the_run(server, pushed):
    replaced(pushed, "README.md", b"edited by hand", in_manifest=False)
    assert efftune.load_from_hub(NAME).record["state"] == "finished"


@pytest.mark.long
def test_private_repositories(server, finished_run, monkeypatch):
    finished_run.push(NAME, private=True)
    assert server.repositories[REPO].private
    finished_run.push(NAME)  # it stays private
    assert server.repositories[REPO].private
    monkeypatch.setenv("HF_TOKEN", READS)
    assert efftune.load_from_hub(NAME).folder.exists()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match=f"has no {REPO}.*hf auth login"):
        efftune.load_from_hub(NAME, "other")
    monkeypatch.setenv("HF_TOKEN", WRITES)
    server.add("anna/public")
    with pytest.raises(UsageError, match="there already, and public"):
        finished_run.push("hf:anna/public", private=True)
    assert list(server.repositories["anna/public"].content) == [".gitattributes"]


def test_repository_of_something_else_is_left_alone(server, finished_run):
    server.add(REPO, **{"pytorch_model.bin": b"x", "README.md": b"mine"})
    with pytest.raises(UsageError, match=r"something else than a run, such as pytorch_model\.bin"):
        finished_run.push(NAME)
    assert server.repositories[REPO].content["README.md"] == b"mine"
    with pytest.raises(DataError, match=r"holds no run of efftune: it has no efftune\.json"):
        efftune.load_from_hub(NAME)


def test_modified_run_is_not_pushed(server, finished_run, tmp_path):
    run = efftune.Run.load(shutil.copytree(finished_run.folder, tmp_path / "run"))
    (run.folder / "classes.json").write_text("[]")
    with pytest.raises(DataError, match="was modified"):
        run.push(NAME)
    assert not server.requests


@pytest.mark.parametrize(
    "name",
    [
        *("anna/squares", "hf:squares", "hf:", "hf:a/b/c", "hf:a/../b", "hf:a/b--c", "hf:a/b.git"),
        *("hf:/a", "hf:a/", "hf:a b/c", "hf:a/b\n", "hf:-a/b", "hf:ä/b", f"hf:a/{'b' * 96}"),
        "hf:a/..",
    ],
)
def test_malformed_names_are_refused(finished_run, name):
    with pytest.raises(UsageError, match="names no repository"):
        finished_run.push(name)
    with pytest.raises(UsageError, match="names no repository"):
        efftune.load_from_hub(name)


@given(st.text(st.sampled_from("aZ09._-/: \n"), max_size=12))
def test_names_are_those_that_the_hub_takes(text):
    try:
        repo = hub.repository(f"hf:{text}")
    except UsageError:
        return
    huggingface_hub.utils.validate_repo_id(repo)
    assert len(Path(repo).parts) == 2


def test_without_the_extra_it_is_told_how_to_install_it(finished_run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: finished_run.push(NAME),
        lambda: efftune.load_from_hub(NAME, tmp_path / "x"),
    ):
        with pytest.raises(UsageError, match=r'pip install "efftune\[hub\]"'):
            call()
    assert not list(tmp_path.iterdir())


def test_without_a_token_nothing_is_sent(server, finished_run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match=r"no token.*hf auth login.*HF_TOKEN"):
        finished_run.push(NAME)
    assert not server.requests


@pytest.mark.parametrize(
    ("token", "message"),
    [(READS, "refuses access to anna/squares"), ("hf_wrong", "does not accept your token")],
)
def test_token_that_may_not_write_is_told(server, finished_run, monkeypatch, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match=message):
        finished_run.push(NAME)


def answering(status):
    return lambda handler: handler.refuse(status, "told so")


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, UsageError, "has no anna/squares, or does not accept"),
        (403, UsageError, "refuses access to anna/squares: .*told so"),
        (404, UsageError, "has no anna/squares, or it is private"),
        (429, DataError, "takes no more requests"),
        (500, DataError, "answered 500"),
    ],
)
def test_refusals_are_told(server, pushed, tmp_path, status, kind, message):
    server.answers["/api/models/"] = answering(status)
    with pytest.raises(kind, match=message):
        efftune.load_from_hub(NAME)
    assert not list((tmp_path / "runs").iterdir())


def test_commit_of_another_meanwhile_is_told(server, pushed, finished_run):
    def commits(handler):
        server.answers.clear()
        replaced(pushed, "notes.md", b"x", in_manifest=False)
        handler.preupload(REPO)

    replaced(pushed, "history.csv", b"x")
    server.answers["/preupload/"] = commits
    with pytest.raises(DataError, match="changed by others meanwhile"):
        finished_run.push(NAME)


def test_network_that_is_gone_is_told(server, finished_run, tmp_path):
    server.shutdown()
    server.server_close()
    for call in (lambda: finished_run.push(NAME), lambda: efftune.load_from_hub(NAME)):
        with pytest.raises(DataError, match=r"127\.0\.0\.1:\d+ cannot be reached"):
            call()
    assert not list((tmp_path / "runs").iterdir())


def test_offline_mode_is_told(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        efftune.load_from_hub(NAME)


def cut(handler):
    """Half of a file, and then nothing more."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"x" * 1000)
    handler.wfile.flush()
    handler.close_connection = True


def test_half_a_download_is_no_run(server, pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits before it tries again
    server.answers["/cdn/"] = cut
    with pytest.raises(DataError, match="cannot be reached, or broke off"):
        efftune.load_from_hub(NAME)
    assert not list((tmp_path / "runs").iterdir())


def endless(handler):
    """A file without a length, of 64 MiB."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.close_connection = True
    for _ in range(64):  # so many that none of the files of the tests is as large
        handler.wfile.write(b"100000\r\n" + b"x" * 2**20 + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def test_file_that_goes_on_is_broken_off(server, pushed, tmp_path):
    server.answers["/cdn/"] = endless
    with pytest.raises(DataError, match=r"is larger than the [0-9,]+ bytes that it should have"):
        efftune.load_from_hub(NAME)
    assert not list((tmp_path / "runs").iterdir())


def test_archive_that_unpacks_to_too_much_is_refused(server, pushed, monkeypatch):
    monkeypatch.setattr(hub_files, "MOST_BYTES", 40 * 2**20)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("references.npy", bytes(41 * 2**20))
    content = stream.getvalue()
    replaced(pushed, "uncertainty.npz", content)
    server.blobs[hashlib.sha256(content).hexdigest()] = content
    with pytest.raises(DataError, match=r"uncertainty\.npz unpacks to 42,991,616 bytes"):
        efftune.load_from_hub(NAME)


@pytest.mark.parametrize("name", ["model.keras", "evaluation.json"])
def test_damaged_file_is_not_kept(server, pushed, tmp_path, name):
    content = pushed.content[name]
    server.damage[name] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(DataError, match=f"{name} came damaged"):
        efftune.load_from_hub(NAME)
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("name", ["model.keras", "history.csv"])
def test_file_that_the_manifest_does_not_vouch_for_is_refused(server, pushed, name):
    content = pushed.content[name]
    replaced(pushed, name, content[:-1] + bytes([content[-1] ^ 1]), in_manifest=False)
    with pytest.raises(DataError, match=f"{name} .*(another|somebody has changed it|damaged)"):
        efftune.load_from_hub(NAME)


def test_missing_file_is_told_before_any_is_sent(server, pushed):
    files = dict(pushed.content)
    del files["openvino/model.bin"]
    pushed.commit(files)
    with pytest.raises(DataError, match=r"lacks openvino/model\.bin"):
        efftune.load_from_hub(NAME)
    assert not [each for each in server.requests if "model.keras" in each]


def test_files_that_the_manifest_does_not_list_are_not_taken(server, pushed):
    replaced(pushed, "evil.py", b"raise SystemExit", in_manifest=False)
    run = efftune.load_from_hub(NAME)
    assert not (run.folder / "evil.py").exists()
    assert not [each for each in server.requests if "evil" in each]


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "openvino/../../evil", "..\\evil", "evil.py", "run.json/", "C:evil"],
)
def test_names_that_no_run_has_are_refused(server, pushed, tmp_path, name):
    replaced(pushed, name, b"evil")
    with pytest.raises(DataError, match="a file that no run has"):
        efftune.load_from_hub(NAME)
    assert not [each for each in tmp_path.rglob("*") if "evil" in each.name]


def test_run_whose_record_leads_elsewhere_is_refused(server, pushed):
    record = json.loads(pushed.content["run.json"])
    record["files"]["../../secret"] = "0" * 64
    replaced(pushed, "run.json", json.dumps(record).encode())
    with pytest.raises(DataError, match="no whole run"):
        efftune.load_from_hub(NAME)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", b"{}", "no whole run: .*not a finished run"),
        ("classes.json", b"[]", r"no whole run: classes\.json was modified"),
        ("recipe.toml", b"x", "no whole run"),
        ("efftune.json", b"[" * 10_000, "no manifest of efftune"),
        ("efftune.json", b"\xff", "no manifest of efftune"),
        ("efftune.json", b'{"format": 2}', "of a later efftune"),
        ("efftune.json", b" " * (2**20 + 1), "is no manifest"),
    ],
)
def test_what_is_no_run_is_refused(server, pushed, tmp_path, file, content, message):
    replaced(pushed, file, content, in_manifest=file != "efftune.json")
    with pytest.raises(DataError, match=message):
        efftune.load_from_hub(NAME)
    assert not list((tmp_path / "runs").iterdir())


def manifest(**changes):
    entry = {"bytes": 3, "sha256": "a" * 64}
    names = ("run.json", "recipe.toml", "evaluation.json", "classes.json", "model.keras")
    found = {name: dict(entry) for name in names}
    found["model.keras"] |= changes
    return json.dumps({"format": 1, "files": found})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bytes": -1}, "no size"),
        ({"bytes": "3"}, "no size"),
        ({"bytes": True}, "no size"),
        ({"bytes": 10**12}, "more than 4,294,967,296 bytes"),
        ({"sha256": "A" * 64}, "no SHA-256"),
        ({"sha256": None}, "no SHA-256"),
        ({"other": 1}, "no manifest"),
    ],
)
def test_entries_of_a_manifest_are_checked(changes, message):
    assert hub_files.entries(manifest())["model.keras"].bytes == 3
    with pytest.raises(DataError, match=message):
        hub_files.entries(manifest(**changes))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
)


@given(st.one_of(JSON, st.fixed_dictionaries({"format": st.just(1), "files": JSON})))
def test_any_json_is_a_manifest_or_a_data_error(values):
    with pytest.raises(DataError):  # as no file that a run needs is ever listed
        hub_files.entries(json.dumps(values))


def test_folder_that_exists_is_kept(server, pushed, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="mine already exists"):
        efftune.load_from_hub(NAME, "mine")
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"Cannot write to file/run: .*--into"):
        efftune.load_from_hub(NAME, "file/run")
    assert not server.requests


def test_full_disk_is_told_before_and_after(server, pushed, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(DiskFull, match="bytes are needed for the run, 1,000 are free"):
            efftune.load_from_hub(NAME)

    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", full)
        with pytest.raises(DiskFull, match=r"cannot be written: [0-9,]+ bytes are free"):
            efftune.load_from_hub(NAME)
    assert not list((tmp_path / "runs").iterdir())


def test_push_that_is_broken_off_leaves_what_was_there(server, pushed, finished_run, tmp_path):
    before = pushed.head
    other = efftune.Run.load(shutil.copytree(finished_run.folder, tmp_path / "other"))
    (other.folder / "history.csv").write_text("changed")
    server.answers["/commit/"] = answering(503)
    with pytest.raises(DataError, match="answered 503"):
        other.push(NAME)
    assert pushed.head == before


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def documentation():
    return (Path(__file__).parents[2] / "docs" / "hub.md").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("page", ["documentation", "card"])
def test_every_command_and_line_runs(server, finished_run, efftune_command, tmp_path, page):
    shutil.copytree(finished_run.folder, tmp_path / "runs" / "photos-lite0-1")
    square((200, 50, 40), seed=1).save(tmp_path / "photo.jpg")
    text = documentation()
    if page == "card":
        finished_run.push(NAME)
        text = server.repositories[REPO].content["README.md"].decode()
    lines = "".join(blocks(text, "sh")).splitlines()
    assert len(lines) >= 3
    (code,) = blocks(text, "python")
    for line in lines:
        program, *arguments = line.split()
        assert program == "efftune", line
        done = efftune_command(*arguments)
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout
    if page == "card":
        shutil.rmtree("runs/squares")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert "red" in printed.getvalue()


def test_commands_print_json(server, finished_run, efftune_command):
    done = efftune_command("push", finished_run.folder, NAME, "--json", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["commit"] == server.repositories[REPO].head
    done = efftune_command("load", NAME, "--into", "there", "--json", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["run"] == "there"
    done = efftune_command("load", NAME, "--into", "there")
    assert (done.returncode, "already exists" in done.stderr) == (2, True)


@pytest.mark.long
def test_processes_of_their_own_use_the_environment(server, finished_run, tmp_path, source):
    """Nothing is changed in the client here: HF_ENDPOINT alone says where the Hub is."""
    environment = os.environ | {
        **{"HF_ENDPOINT": server.url, "HF_TOKEN": WRITES, "HF_HUB_DISABLE_XET": "1"},
        "HF_HOME": str(tmp_path / "home"),
    }
    heavy = "{'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)"
    for arguments in (
        ["push", str(finished_run.folder), NAME, "--private"],
        ["load", NAME, "--into", "loaded"],
        ["predict", "loaded", str(source / "red" / "01.png")],
    ):
        script = (
            f"import sys; sys.argv[1:] = {arguments!r}\n"
            "from efftune.cli.main import main\nmain()\n"
            f"assert not {heavy}, {heavy}"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith("red")
    assert server.repositories[REPO].private
    assert not list((tmp_path / "home").rglob("*.keras"))
