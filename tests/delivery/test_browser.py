import gzip
import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
from importlib import resources

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from efftune.delivery import browser
from efftune.errors import DataError, EfftuneError, UsageError
from efftune.model.published import published

CONTENTS = {name: f"content of {name}".encode() * 40 for name in browser._MEMBERS}
SCRIPT, WASM = CONTENTS
PAGE_FILES = {
    each.name for each in (resources.files("efftune.delivery") / "browser_page").iterdir()
}
CHOICES = browser.Settings("A title", "a model", ("cat", "dog"), 32, "crop", 0.5)
per_test = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def small_members(monkeypatch):
    """Members of the archive that fit into a test."""
    members = {
        name: browser._Member(
            browser._MEMBERS[name].file, len(content), hashlib.sha256(content).hexdigest()
        )
        for name, content in CONTENTS.items()
    }
    monkeypatch.setattr(browser, "_MEMBERS", members)


def packed(contents=CONTENTS, *others):
    """An archive with these files, after other members."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for member in others:
            archive.addfile(member)
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def link(name, kind=tarfile.SYMTYPE, target="/etc/passwd"):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / browser.ARCHIVE
    path.write_bytes(packed())
    return path


@pytest.fixture
def site(tmp_path):
    """A folder with a model."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"a model")
    return folder


def test_folder_has_all_that_the_page_needs_and_nothing_else(tmp_path, archive, site):
    archive.write_bytes(
        packed({"package/README.md": b"x", "../evil": b"x", "/evil": b"x", **CONTENTS})
    )
    browser.write(site, CHOICES, archive)
    assert {each.name for each in site.iterdir()} == PAGE_FILES | {
        *("model.onnx", "settings.json", "onnxruntime-web.js", "onnxruntime-web.wasm"),
    }
    assert (site / "onnxruntime-web.wasm").read_bytes() == CONTENTS[WASM]
    assert (site / "onnxruntime-web.js").read_bytes() == CONTENTS[SCRIPT]
    assert "MIT License" in (site / "onnxruntime-web-LICENSE.txt").read_text()
    stored = json.loads((site / "settings.json").read_text())
    assert stored["classes"] == ["cat", "dog"]
    assert stored["files"] == {"model.onnx": 7, "onnxruntime-web.wasm": len(CONTENTS[WASM])}
    assert not list(tmp_path.rglob("*evil*"))


def test_settings_are_those_of_the_classifier(finished_run):
    classifier = finished_run.classifier
    found = browser.Settings.of(classifier, "Squares", "Lite0")
    assert found.class_names == tuple(classifier.class_names)
    assert (found.image_size, found.fit, found.depth) == (32, "crop", None)
    assert found.unsure_below == classifier.uncertainty.unsure_below


@pytest.mark.long
def test_published_classifier_is_refused():
    with pytest.raises(UsageError, match="of a run only"):
        browser.Settings.of(published("efficientnet-lite0"), "ImageNet", "")


@pytest.mark.ci
@given(st.lists(st.text(), min_size=1, max_size=20))
@per_test
def test_class_names_of_any_kind_arrive_as_they_are(archive, site, names):
    choices = browser.Settings("", "", names, 32, "pad")
    browser.write(site, choices, archive)
    assert json.loads((site / "settings.json").read_bytes())["classes"] == names


def test_page_names_no_address_but_those_for_people():
    page = resources.files("efftune.delivery") / "browser_page"
    texts = {each.name: each.read_text(encoding="utf-8") for each in page.iterdir()}
    assert {
        (name, address)
        for name, text in texts.items()
        for address in re.findall(r"\w+://[^\s<\"']+", text)
    } == {("index.html", "http://localhost:8000")}


OTHERS = {
    "altered": packed(CONTENTS | {WASM: CONTENTS[WASM][:-1] + b"?"}),
    "shorter": packed(CONTENTS | {WASM: CONTENTS[WASM][:-1]}),
    "longer": packed(CONTENTS | {SCRIPT: CONTENTS[SCRIPT] + b"?"}),
    "empty member": packed(CONTENTS | {SCRIPT: b""}),
    "missing": packed({SCRIPT: CONTENTS[SCRIPT]}),
    "nothing in it": packed({}),
    "elsewhere": packed({f"../{name}": content for name, content in CONTENTS.items()}),
    "other case": packed({name.upper(): content for name, content in CONTENTS.items()}),
    "symbolic link": packed(CONTENTS, link(WASM)),
    "hard link": packed(CONTENTS, link(WASM, tarfile.LNKTYPE, SCRIPT)),
    "folder": packed(CONTENTS, link(WASM, tarfile.DIRTYPE)),
    "pipe": packed(CONTENTS, link(WASM, tarfile.FIFOTYPE)),
    "device": packed(CONTENTS, link(SCRIPT, tarfile.CHRTYPE)),
    "not packed": gzip.decompress(packed()),
    "no archive": b"not an archive",
    "packed, no archive": gzip.compress(b"not an archive" * 100),
    "empty file": b"",
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS.keys())
def test_other_archives_are_refused_with_a_way_out(archive, site, content):
    archive.write_bytes(content)
    for use in (
        lambda: browser.runtime_archive(archive),
        lambda: browser.write(site, CHOICES, archive),
    ):
        with pytest.raises(DataError, match=r"is not the package.*npm pack onnxruntime-web@"):
            use()
    assert [each.name for each in site.iterdir()] == ["model.onnx"]


def test_error_names_the_member_that_is_another(archive):
    archive.write_bytes(OTHERS["altered"])
    with pytest.raises(DataError, match=rf"{WASM} is another file \(expected sha256:"):
        browser.runtime_archive(archive)


def test_archive_that_unpacks_to_very_much_is_not_read_to_its_end(archive):
    bomb = tarfile.TarInfo("package/bomb")
    bomb.size = 2**40
    with gzip.open(archive, "wb") as stream:
        stream.write(bomb.tobuf())
        stream.write(bytes(2**20))
    with pytest.raises(DataError, match="too large"):
        browser.runtime_archive(archive)


WHOLE = packed()
NEEDED = len(WHOLE) - 60  # the end of an archive is only padding


@given(st.integers(0, NEEDED))
@per_test
def test_archive_that_is_cut_off_is_refused_or_has_all(archive, length):
    archive.write_bytes(WHOLE[:length])
    try:
        found = browser._runtime_files(archive)
    except DataError:
        return
    assert list(found.values()) == [CONTENTS[SCRIPT], CONTENTS[WASM]]


@given(st.binary(max_size=2000), st.integers(0, 2000), st.booleans())
@per_test
def test_damaged_archives_never_pass_as_right(archive, junk, start, packs):
    tar = bytearray(gzip.decompress(WHOLE))
    tar[start : start + len(junk)] = junk
    archive.write_bytes(gzip.compress(bytes(tar)) if packs else WHOLE[:start] + junk)
    try:
        found = browser._runtime_files(archive)
    except DataError:
        return
    assert list(found.values()) == [CONTENTS[SCRIPT], CONTENTS[WASM]]


def test_missing_archive_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no file .*nowhere\.tgz.*npm pack"):
        browser.runtime_archive(tmp_path / "nowhere.tgz")
    with pytest.raises(UsageError, match="no file"):
        browser.runtime_archive(tmp_path)


def test_without_an_archive_the_error_says_how_to_get_one(own_cache):
    with pytest.raises(UsageError) as error:
        browser.runtime_archive(None)
    for words in ("--fetch", "npm pack onnxruntime-web@", "curl -O https://", "--runtime onnx"):
        assert words in str(error.value)


@pytest.fixture
def served(own_cache, monkeypatch):
    """The archive, on a server of our own."""
    content = [WHOLE]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content[0])))
            self.end_headers()
            self.wfile.write(content[0])

        def log_message(self, *_):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(browser, "_URL", f"http://127.0.0.1:{server.server_port}/x.tgz")
    monkeypatch.setattr(browser, "_SHA256", hashlib.sha256(WHOLE).hexdigest())
    yield content
    server.shutdown()
    server.server_close()


def test_archive_is_downloaded_once_with_progress(served, own_cache):
    calls = []
    path = browser.runtime_archive(
        None, may_fetch=True, on_progress=lambda *each: calls.append(each)
    )
    assert path == own_cache / "runtimes" / browser.ARCHIVE
    assert path.read_bytes() == WHOLE
    assert calls[-1] == ("download", len(WHOLE), len(WHOLE))
    served[0] = b"gone"
    assert browser.runtime_archive(None) == path
    assert browser.runtime_archive(None, may_fetch=True) == path


def test_download_that_is_another_file_is_not_kept(served, own_cache):
    served[0] = WHOLE[:-1] + b"?"
    with pytest.raises(DataError, match=r"not the published file.*deleted"):
        browser.runtime_archive(None, may_fetch=True)
    with pytest.raises(UsageError, match="--fetch"):
        browser.runtime_archive(None)


def test_damaged_archive_of_the_cache_is_replaced(served, own_cache):
    path = own_cache / "runtimes" / browser.ARCHIVE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    with pytest.raises(EfftuneError, match="--fetch"):
        browser.runtime_archive(None)
    assert browser.runtime_archive(None, may_fetch=True).read_bytes() == WHOLE
