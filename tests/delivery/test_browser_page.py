"""The page that `efftune export --for browser` writes, in Chromium, from a plain static server.

`pytest -m exports` needs Debian's `chromium`, and the archive of ONNX Runtime Web: that which
EFFTUNE_ONNXRUNTIME_WEB names, or what npm fetches.
"""

import base64
import functools
import http.server
import importlib.util
import io
import os
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageCms

from conftest import COLOURS, made_once, square, trained_once
from efftune.data import images
from efftune.delivery import browser, onnx_file
from efftune.model.engines import openvino_engine

api = pytest.importorskip("playwright.sync_api", reason="Playwright's client is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.exports,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

PHONE = {"width": 360, "height": 740}
GAP = 2e-5  # between probabilities, if the pixels are the same
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--headless"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
)
CLASSIFY = """async (content) => {
  const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
  return window.efftune.classify(new Blob([bytes])).catch((error) => error.message);
}"""


@pytest.fixture(scope="session")
def runtime(shared_place):
    if given := os.environ.get("EFFTUNE_ONNXRUNTIME_WEB"):
        return browser.runtime_archive(Path(given))
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed; set EFFTUNE_ONNXRUNTIME_WEB")
    folder = shared_place / "runtime"
    with made_once(folder) as missing:
        if missing:
            folder.mkdir()
            package = f"onnxruntime-web@{browser.RUNTIME_VERSION}"
            subprocess.run([npm, "pack", package], cwd=folder, check=True, capture_output=True)
    return browser.runtime_archive(folder / browser.ARCHIVE)


def delivered(run, folder, runtime, **changes):
    """The page of a run."""
    folder.mkdir()
    model = openvino_engine.read_classifier(run.classifier.folder)
    onnx_file.write(model, folder / browser.MODEL, {}, batch=1)
    choices = browser.Settings.of(run.classifier, "Squares", "Lite0, 32 pixels")
    browser.write(folder, replace(choices, **changes), runtime)
    return folder


def averaging(folder, runtime, class_names, **changes):
    """The page of a model that looks at nothing but the mean colour."""
    folder.mkdir()
    weights = np.random.default_rng(0).normal(0, 0.02, (3, len(class_names))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "averaging",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, len(class_names)])],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / browser.MODEL)
    choices = browser.Settings("Averages", "a mean", class_names, 32, "crop", **changes)
    browser.write(folder, choices, runtime)
    return folder


@pytest.fixture(scope="module")
def squares(finished_run, runtime, tmp_path_factory):
    return delivered(finished_run, tmp_path_factory.mktemp("squares") / "site", runtime)


@dataclass
class Server:
    """A plain static server; files in `held` wait for `released`."""

    address: str = ""
    asked: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(folder):
    server = Server()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            if self.path in server.held:
                server.released.wait(30)
            super().do_GET()

        def log_message(self, *_):
            """Say nothing."""

    handler = functools.partial(Handler, directory=str(folder))
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    server.address = f"http://127.0.0.1:{http_server.server_port}/"
    yield server
    server.released.set()
    http_server.shutdown()
    http_server.server_close()


@pytest.fixture(scope="module")
def playwright():
    with api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(playwright):
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def opened(chromium):
    """Open a page from a server; it must ask nobody else for anything, and log nothing."""
    contexts, servers, faults, requests = [], [], [], []

    def open_page(folder, *, launched=None, ready=True, held=(), **settings):
        servers.append(serving(folder))
        server = servers[-1].__enter__()
        server.held |= set(held)
        contexts.append((launched or chromium).new_context(**settings))
        contexts[-1].on("request", lambda request: requests.append((request.url, server.address)))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server.address)
        page.server = server
        if ready:
            page.evaluate("window.efftune.ready")
        return page

    open_page.faults = faults
    yield open_page
    for context in contexts:
        context.close()
    for server in servers:
        server.__exit__(None, None, None)
    assert not faults
    assert requests
    assert all(url.startswith((own, "data:")) for url, own in requests)


def encoded(picture, form="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def answer(page, content):
    found = page.evaluate(CLASSIFY, base64.b64encode(content).decode())
    return found if isinstance(found, str) else np.array(found)


def expected(run, contents):
    """What the run's classifier answers."""
    classifier = run.classifier
    pixels = [
        images.decode(each, classifier.image_size, classifier.fit, classifier.depth)
        for each in contents
    ]
    return classifier.outputs(np.stack(pixels), lambda *_: None).probabilities


def textured(width, height, seed=0):
    """A picture with edges, gradients and colours everywhere."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_answers_are_those_of_the_run_on_its_own_pictures(opened, squares, finished_run, source):
    page = opened(squares)
    assert page.evaluate("window.efftune.classes") == list(finished_run.classifier.class_names)
    contents = [path.read_bytes() for path in sorted(source.rglob("*.*g"))]
    found = np.array([answer(page, each) for each in contents])
    wanted = expected(finished_run, contents)
    assert len(contents) == 30
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()
    assert np.abs(found - wanted).max() < GAP


@pytest.mark.shared
def test_answers_are_those_of_a_run_on_photos(opened, runtime, clothing, cache, tmp_path):
    """Trained at the usual 224 pixels, on a few photos of each class."""
    for split, count in (("train", 8), ("validation", 3), ("test", 2)):
        for folder in sorted((clothing / split).iterdir()):
            (tmp_path / "photos" / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                (tmp_path / "photos" / split / folder.name / path.name).symlink_to(path)
    run = trained_once(tmp_path / "photos", tmp_path / "run", cache, recipe="quick")
    assert run.classifier.image_size == 224
    page = opened(delivered(run, tmp_path / "site", runtime))
    contents = [path.read_bytes() for path in sorted((clothing / "test").rglob("*.jpg"))[::3]]
    found = np.array([answer(page, each) for each in contents])
    wanted = expected(run, contents)
    assert len(contents) >= 100
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()
    assert np.abs(found - wanted).max() < GAP


def wide_gamut():
    """Display P3, from the profile of sRGB with other primaries."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2920, 0.6922, 0.0419),
        b"bXYZ": (0.1571, 0.0666, 0.7841),
    }
    for i in range(int.from_bytes(profile[128:132], "big")):
        entry = profile[132 + 12 * i : 144 + 12 * i]
        start = int.from_bytes(entry[4:8], "big") + 8
        for place, value in enumerate(primaries.get(bytes(entry[:4]), ())):
            fixed = round(value * 65536).to_bytes(4, "big", signed=True)
            profile[start + 4 * place : start + 4 * place + 4] = fixed
    return bytes(profile)


def deep(values):
    return cv2.imencode(".png", values)[1].tobytes()


def pictures():
    """Files of all kinds, and by how much of 255 a pixel may differ."""
    small, photo = textured(61, 47), textured(300, 401, 1)
    veil = Image.linear_gradient("L").resize(photo.size)
    clear = photo.copy()
    clear.putalpha(veil)
    grey16 = np.asarray(photo.convert("L")).astype(np.uint16)
    colour16 = np.asarray(photo)[..., ::-1].astype(np.uint16) * 257
    yield "PNG", encoded(photo), 1
    yield "smaller than the input", encoded(textured(19, 11)), 1
    yield "one pixel", encoded(Image.new("RGB", (1, 1), (200, 30, 90))), 1
    yield "a line", encoded(textured(1, 700)), 1
    yield "panorama", encoded(textured(20_000, 90), "JPEG"), 6
    yield "long PNG", encoded(textured(40_000, 60)), 1
    yield "JPEG", encoded(small, "JPEG"), 1
    yield "progressive JPEG", encoded(small, "JPEG", progressive=True), 1
    yield "grey JPEG", encoded(small.convert("L"), "JPEG"), 1
    yield "CMYK JPEG", encoded(small.convert("CMYK"), "JPEG"), 2
    for scale in (2, 5, 9):
        large = textured(32 * scale + 5, 32 * scale + 18)
        yield f"JPEG {scale} times the input", encoded(large, "JPEG", quality=92), 6
    for orientation in range(2, 9):
        upright = textured(61, 47, orientation)
        yield f"orientation {orientation}", encoded(upright, "JPEG", exif=turned(orientation)), 1
        large = encoded(textured(203, 301), "JPEG", exif=turned(orientation))
        yield f"large, orientation {orientation}", large, 6
    yield "turned PNG", encoded(photo, exif=turned(6)), 1
    yield "turned WebP", encoded(photo, "WEBP", exif=turned(8), lossless=True), 1
    yield "WebP", encoded(photo, "WEBP"), 1
    yield "transparent PNG", encoded(clear), 1
    yield "transparent WebP", encoded(clear, "WEBP", lossless=True), 1
    yield "transparent grey", encoded(clear.convert("LA")), 1
    yield "palette", encoded(photo.convert("P"), transparency=3), 1
    yield "GIF", encoded(photo, "GIF", save_all=True, append_images=[clear]), 1
    yield "BMP", encoded(photo, "BMP"), 1
    # Efftune converts colours after it has resized, so very saturated textures would differ.
    pale = Image.blend(photo, Image.new("RGB", photo.size, "grey"), 0.75)
    yield "wide gamut", encoded(pale, icc_profile=wide_gamut()), 4
    yield "16 bits, grey", encoded(Image.fromarray(grey16 * 257)), 1
    yield "12 of 16 bits", encoded(Image.fromarray(grey16 * 16)), 1
    yield "narrow range of 16 bits", encoded(Image.fromarray(grey16 + 5000)), 1
    yield "16 bits, colour", deep(colour16), 1
    veil16 = np.asarray(veil).astype(np.uint16) * 257
    yield "16 bits, transparent", deep(np.dstack((colour16, veil16))), 1


PICTURES = list(pictures())
PIXELS = """async ([content, size, fit, depth]) => {
  const { decoded, square } = await import("./pixels.js");
  const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
  const settings = { image_size: size, depth };
  return Array.from(await decoded(new Blob([bytes]), settings, (each) => square(each, size, fit)));
}"""


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_pixels_are_those_of_training(opened, squares, fit):
    page = opened(squares)
    for name, content, most in PICTURES:
        found = page.evaluate(PIXELS, [base64.b64encode(content).decode(), 32, fit, None])
        gap = np.abs(np.reshape(found, (32, 32, 3)) - images.decode(content, 32, fit))
        assert gap.max() <= most, name
        assert gap.mean() < max(0.05, most / 5), name


def test_values_of_16_bits_have_the_range_of_the_run(opened, squares):
    from efftune.data.bit_depth import BitDepth

    page = opened(squares)
    values = (np.asarray(textured(60, 60).convert("L")).astype(np.uint16) * 9) + 300
    content = encoded(Image.fromarray(values))
    found = page.evaluate(PIXELS, [base64.b64encode(content).decode(), 32, "crop", [200, 1800]])
    wanted = images.decode(content, 32, "crop", BitDepth(integers=(200, 1800)))
    assert np.abs(np.reshape(found, (32, 32, 3)) - wanted).max() <= 1


def test_interlaced_picture_of_16_bits_is_decoded(opened, squares):
    """Written by hand, as neither Pillow nor OpenCV can: the first pass of a picture of 1 pixel."""
    import struct
    import zlib

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 4, 2, 16, 0, 0, 0, 1)  # passes 1, 4, 6 and 7 have pixels
    passes = {1: (1, 1), 4: (1, 1), 6: (1, 2), 7: (1, 4)}
    rows = b"".join(
        (bytes([0]) + (60000).to_bytes(2, "big") * width) * count
        for count, width in passes.values()
    )
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    page = opened(squares)
    found = page.evaluate(PIXELS, [base64.b64encode(content).decode(), 32, "crop", [0, 65535]])
    wanted = round(60000 / 257)
    assert found == [wanted] * (3 * 32 * 32)


WHOLE = encoded(textured(300, 401, 2), "JPEG")
UNREADABLE = {
    "empty": (b"", "The file is empty."),
    "text": (b"hello " * 50, "not a picture"),
    "cut JPEG": (WHOLE[: len(WHOLE) // 2], "cut off"),
    "damaged JPEG": (WHOLE[:30] + bytes(3000) + WHOLE[3030:], "damaged"),
    "cut PNG": (encoded(textured(200, 200))[:9000], "damaged or cut off"),
    "cut PNG of 16 bits": (deep(np.full((90, 90, 3), 900, np.uint16))[:90], "damaged or cut off"),
    "TIFF": (encoded(textured(20, 20), "TIFF"), "cannot open TIFF files"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "cannot open SVG"),
}


def test_files_that_cannot_be_decoded_get_a_clear_message(opened, squares, finished_run):
    page = opened(squares)
    for name, (content, message) in UNREADABLE.items():
        assert message in answer(page, content), name
    files = [
        {"name": f"{name}.jpg", "mimeType": "image/jpeg", "buffer": content}
        for name, (content, _) in UNREADABLE.items()
    ]
    files.append({"name": "right.jpg", "mimeType": "image/jpeg", "buffer": WHOLE})
    page.set_input_files("#files", files)
    api.expect(page.locator(".card .wrong")).to_have_count(len(UNREADABLE))
    api.expect(page.locator(".card[data-answer=error]")).to_have_count(len(UNREADABLE))
    api.expect(page.locator("#summary")).to_contain_text(f"{len(UNREADABLE)} not readable")
    wanted = expected(finished_run, [WHOLE])
    assert np.abs(answer(page, WHOLE) - wanted).max() < 0.02  # a large JPEG, for 32 pixels


def shown(card):
    """What a card says: file, first answer, and shares in percent by class."""
    names = card.locator(".bars").first.locator(".name").all_inner_texts()
    shares = card.locator(".bars").first.locator(".share").all_inner_texts()
    return card.locator(".top strong").inner_text(), dict(zip(names, shares, strict=True))


def in_percent(share):
    return "> 99.9 %" if 0.999 < share < 1 else "< 0.1 %" if share < 0.001 else f"{share:.1%}"


def assert_shown(card, run, content):
    (wanted,) = expected(run, [content])
    top, shares = shown(card)
    names = run.classifier.class_names
    assert top == names[wanted.argmax()]
    assert list(shares) == [names[i] for i in np.argsort(-wanted)]
    for name, share in shares.items():
        value = wanted[names.index(name)]
        number = float(re.sub("[^0-9.]", "", share))
        assert share == in_percent(value).replace("%", " %").replace("  ", " ") or (
            number == pytest.approx(100 * value, abs=0.06)
        )


HELD = """(files) => {
  const held = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    held.items.add(new File([bytes], name, { type: "image/png" }));
  }
  return held;
}"""


def held(page, *contents):
    files = [[f"{i}.png", base64.b64encode(each).decode()] for i, each in enumerate(contents)]
    return page.evaluate_handle(HELD, files)


def test_dropped_pictures_get_a_card_each(opened, squares, finished_run):
    page = opened(squares)
    contents = [encoded(square(colour, 7)) for colour in COLOURS.values()]
    transfer = held(page, *contents)
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    api.expect(page.locator("#veil")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    api.expect(page.locator("#veil")).to_be_hidden()
    api.expect(page.locator(".card[data-answer]")).to_have_count(3)
    for i, content in enumerate(contents):
        card = page.locator(".card").nth(i)
        assert card.locator(".file").inner_text() == f"{i}.png"
        assert card.locator("canvas").get_attribute("aria-label") == f"{i}.png"
        assert_shown(card, finished_run, content)
    page.get_by_role("button", name="Clear").click()
    api.expect(page.locator("#results")).to_be_hidden()


def test_dropped_text_is_explained(opened, squares):
    page = opened(squares)
    page.dispatch_event("body", "drop", {"dataTransfer": held(page)})
    api.expect(page.get_by_role("alert")).to_contain_text("drop its file here")


def test_pasted_picture_is_answered(opened, squares, finished_run):
    page = opened(squares, permissions=["clipboard-read", "clipboard-write"])
    content = encoded(square(COLOURS["green"], 3))
    page.evaluate(
        """async (content) => {
          const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
          const blob = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(content).decode(),
    )
    page.keyboard.press("Control+V")
    api.expect(page.locator(".card[data-answer]")).to_have_count(1)
    assert_shown(page.locator(".card"), finished_run, content)
    event = "(data) => dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))"
    held(page, content, content).evaluate(event)
    api.expect(page.locator(".card[data-answer]")).to_have_count(3)
    held(page).evaluate(event)
    api.expect(page.get_by_role("alert")).to_contain_text("no picture on the clipboard")


def test_keyboard_alone_is_enough(opened, squares):
    page = opened(squares)
    page.keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(
        [{"name": "a.png", "mimeType": "image/png", "buffer": encoded(textured(50, 50))}] * 2
    )
    api.expect(page.locator(".card[data-answer]")).to_have_count(2)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "camera"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "clear"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "files"


def film(path, picture):
    """A video of one picture, as Chromium takes it for a camera."""
    yuv = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2YUV_I420)
    width, height = picture.size
    header = f"YUV4MPEG2 W{width} H{height} F10:1\n".encode()
    path.write_bytes(header + (b"FRAME\n" + yuv.tobytes()) * 3)
    return path


def test_camera_is_answered_until_it_is_stopped(opened, playwright, squares, tmp_path):
    path = film(tmp_path / "red.y4m", Image.new("RGB", (640, 480), COLOURS["red"]))
    flags = (*FLAGS, f"--use-file-for-fake-video-capture={path}")
    launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    page = opened(squares, launched=launched)
    page.get_by_role("button", name="Use the camera").click()
    api.expect(page.locator("#seen .top strong")).to_have_text("red")
    first = int(page.locator("#seen").get_attribute("data-answers"))
    page.wait_for_timeout(1000)
    assert int(page.locator("#seen").get_attribute("data-answers")) > first + 2
    assert page.evaluate("document.querySelector('#video').srcObject.active")
    stream = page.evaluate_handle("document.querySelector('#video').srcObject")
    page.get_by_role("button", name="Stop the camera").click()
    api.expect(page.locator("#live")).to_be_hidden()
    assert stream.evaluate("each => each.getTracks().map((track) => track.readyState)") == ["ended"]
    page.get_by_role("button", name="Use the camera").click()
    api.expect(page.locator("#seen .top strong")).to_have_text("red")
    launched.close()


def test_camera_that_is_refused_is_explained(opened, playwright, squares):
    flags = [flag for flag in FLAGS if "fake" not in flag]
    launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    page = opened(squares, launched=launched)
    page.get_by_role("button", name="Use the camera").click()
    api.expect(page.get_by_role("alert")).to_contain_text("camera")
    api.expect(page.locator("#live")).to_be_hidden()
    launched.close()


ODD = (
    *("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "&amp;", "a\nb\tc", ""),
    *("🦊 fox", "שלום", "\u202eabc", "x" * 300, "'\"`", "{{7*7}}", "\ud800", "nul\0l"),
)


def test_names_of_classes_are_text_whatever_they_hold(opened, runtime, tmp_path):
    page = opened(averaging(tmp_path / "site", runtime, ODD), viewport=PHONE)
    assert page.title() == "Averages"
    files = [{"name": "<b>a</b>.png", "mimeType": "image/png", "buffer": encoded(textured(9, 9))}]
    page.set_input_files("#files", files)
    api.expect(page.locator(".card[data-answer]")).to_have_count(1)
    page.locator(".card summary").click()
    names = page.locator(".card .bars .name").all_text_contents()
    assert set(names) == {" ".join(each.split()) or "(no name)" for each in ODD}
    assert page.locator(".card .file").text_content() == "<b>a</b>.png"
    assert page.locator("main img, main script, main b").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate("window.efftune.classes.length") == len(ODD)


def test_a_thousand_classes_unfold_when_they_are_wanted(opened, runtime, tmp_path):
    names = [f"class {i}" for i in range(1000)]
    page = opened(averaging(tmp_path / "site", runtime, names, unsure_below=0.99))
    api.expect(page.locator("#classes")).to_contain_text("and 988 more")
    files = [{"name": "a.png", "mimeType": "image/png", "buffer": encoded(textured(90, 9))}] * 30
    page.set_input_files("#files", files)
    api.expect(page.locator(".card[data-answer=unsure]")).to_have_count(30)
    api.expect(page.locator("#summary")).to_have_text("30 pictures · 30 unsure")
    api.expect(page.locator(".card").first.locator(".chip")).to_have_text("unsure")
    api.expect(page.locator(".bars li")).to_have_count(90)
    page.locator(".card summary").first.click()
    api.expect(page.locator(".bars li")).to_have_count(90 + 997)


def test_progress_is_shown_and_pictures_wait_for_the_model(opened, squares):
    page = opened(squares, ready=False, held=["/model.onnx"])
    api.expect(page.get_by_role("progressbar")).to_be_visible()
    api.expect(page.locator("#status")).to_have_text("Loading the model …")
    page.set_input_files("#files", [{"name": "a.jpg", "mimeType": "", "buffer": WHOLE}])
    api.expect(page.locator(".card.busy")).to_contain_text("Waiting for the model")
    api.expect(page.locator("#summary")).to_contain_text("1 to go")
    value = "document.querySelector('#progress').value"
    for _ in range(100):
        if page.evaluate(value):
            break
        page.wait_for_timeout(50)
    assert 0 < page.evaluate(value) < 1
    page.server.released.set()
    api.expect(page.locator(".card[data-answer]")).to_have_count(1)
    api.expect(page.get_by_role("progressbar")).to_have_count(0)


BROKEN = {
    "missing model": ("model.onnx", None, "model.onnx cannot be loaded: the server answers 404"),
    "cut model": ("model.onnx", lambda old: old[:-9], "bytes on the server and should have"),
    "damaged model": ("model.onnx", lambda old: b"?" * len(old), "model cannot be started"),
    "damaged runtime": ("onnxruntime-web.wasm", lambda old: b"?" * len(old), "cannot be started"),
    "missing runtime": ("onnxruntime-web.js", None, "A file of the page is missing"),
    "missing settings": ("settings.json", None, "settings.json cannot be loaded"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_start_says_so(opened, squares, tmp_path, name):
    file, change, message = BROKEN[name]
    folder = shutil.copytree(squares, tmp_path / "site")
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    page = opened(folder, ready=False)
    api.expect(page.locator("#failed")).to_contain_text(message)
    api.expect(page.get_by_role("button", name="Use the camera")).to_be_disabled()
    page.dispatch_event("body", "drop", {"dataTransfer": held(page, WHOLE)})
    assert page.locator(".card").count() == 0
    assert all("404" in each or "WebAssembly" in each for each in opened.faults)
    opened.faults.clear()  # which the browser itself logs


def test_browser_without_webassembly_is_told(opened, squares, tmp_path):
    worker = shutil.copytree(squares, tmp_path / "site") / "worker.js"
    worker.write_text(f"{worker.read_text()}\nself.WebAssembly = undefined;\n")
    page = opened(tmp_path / "site", ready=False)
    api.expect(page.locator("#failed")).to_contain_text("WebAssembly")
    opened.faults.clear()


def test_page_that_is_opened_as_a_file_says_what_to_do(chromium, squares):
    page = chromium.new_page()
    page.goto((squares / "index.html").as_uri())
    api.expect(page.locator("#stuck")).to_be_visible(timeout=8000)
    page.close()


def test_pages_do_nothing_that_their_policy_forbids(opened, squares):
    page = opened(squares)
    fetched = page.evaluate("fetch('https://example.com/').then(() => 'sent', () => 'refused')")
    assert fetched == "refused"
    assert any("Content Security Policy" in each for each in opened.faults)
    opened.faults.clear()
    assert {path.split("?")[0] for path in page.server.asked} <= {
        "/", *(f"/{each.name}" for each in squares.iterdir())
    }  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened, squares, scheme):
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe is not installed (pip install axe-playwright-python)")
    page = opened(squares, color_scheme=scheme, viewport=PHONE)
    content = encoded(square(COLOURS["red"], 1))
    files = [
        {"name": "a.png", "mimeType": "image/png", "buffer": content},
        {"name": "b.png", "mimeType": "image/png", "buffer": b"damaged"},
    ]
    page.set_input_files("#files", files)
    api.expect(page.locator(".card[data-answer]")).to_have_count(2)
    page.get_by_role("button", name="Use the camera").click()
    api.expect(page.locator("#seen .top")).to_be_visible()
    page.wait_for_timeout(400)  # until cards have come up
    page.evaluate((Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run().then((result) => result.violations)")
    assert not [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in violations]
