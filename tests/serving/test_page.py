"""The server's pages in Chromium, from the server itself; it needs what the report's tests need.

What the server offers with other options is offered by a stand-in here: corrections, and the
training pictures that are alike.
"""

import base64
import csv
import importlib.util
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from conftest import COLOURS, square
from serving.test_openapi import described

api = pytest.importorskip("playwright.sync_api", reason="Playwright's client is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 390, "height": 844}
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--headless"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
)
TOKEN = "a-token-of-the-tests-only"
ODD = (
    *("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "&amp;", "a\nb\tc", ""),
    *("🦊 fox", "שלום", "\u202eabc", "x" * 300, "'\"`", "{{7*7}}", "nul\0l", "a&b=c#d"),
)


@pytest.fixture(scope="module")
def squares(server, finished_run):
    """The address of a server of a run on coloured squares."""
    with server(finished_run.folder) as address:
        yield address


@pytest.fixture(scope="module")
def thousand(server, tmp_path_factory):
    """The address of a server of an exported file with 1,000 classes, some of odd names."""
    names = [*ODD, *(f"class {i}" for i in range(1000 - len(ODD)))]
    path = averaging(tmp_path_factory.mktemp("thousand") / "means.onnx", names)
    with server(path) as address:
        yield address


def averaging(path, names):
    """The file of a model that looks at nothing but the mean colour."""
    weights = np.random.default_rng(0).normal(0, 0.02, (3, len(names))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "averaging",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, len(names)])],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    known = {"classes": json.dumps(names), "image_size": "32", "fit": "crop"}
    helper.set_model_props(model, known | {"temperature": "1", "unsure_below": "0.99"})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def playwright():
    with api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(playwright, tmp_path_factory):
    """Chromium, whose camera sees red."""
    video = tmp_path_factory.mktemp("video") / "red.y4m"
    film(video, Image.new("RGB", (640, 480), COLOURS["red"]))
    flags = (*FLAGS, f"--use-file-for-fake-video-capture={video}")
    api.expect.set_options(timeout=15_000)  # on a machine that has more to do
    launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    yield launched
    launched.close()
    api.expect.set_options(timeout=5_000)


def film(path, picture):
    """A video of one picture, as Chromium takes it for a camera."""
    yuv = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2YUV_I420)
    width, height = picture.size
    header = f"YUV4MPEG2 W{width} H{height} F10:1\n".encode()
    path.write_bytes(header + (b"FRAME\n" + yuv.tobytes()) * 3)


@pytest.fixture
def opened(chromium):
    """Open a page of a server; it must ask nobody else, and log nothing but what is expected."""
    contexts, faults, requests = [], [], []

    def note(message, expected):
        if expected is None or not re.search(expected, message.text):
            faults.append(f"{message.type}: {message.text}")

    def open_page(address, *, launched=None, offered=None, expected=None, **settings):
        contexts.append((launched or chromium).new_context(**{"viewport": DESKTOP, **settings}))
        own = urlsplit(address)._replace(path="/", query="").geturl()
        contexts[-1].on("request", lambda request: requests.append((request.url, own)))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
        page.on("console", lambda message: note(message, expected))
        if offered is not None:
            offer(page, offered)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults
    assert requests
    assert all(url.startswith((own, "data:", f"blob:{own}")) for url, own in requests)
    assert not any(TOKEN in url for url, _ in requests)


def offer(page, sent):
    """Stand in for a server with corrections and similar pictures; what it is sent is noted."""

    def info(route):
        response = route.fetch()
        offers = {"feedback": True, "shows_training": True}
        route.fulfill(response=response, json={**response.json(), **offers})

    def feedback(route):
        sent.append((parse_qs(urlsplit(route.request.url).query), route.request.post_data_buffer))
        route.fulfill(status=201, json={"kept": "kept.png", "label": "", "request_id": ""})

    def nearest(route):
        pixels = base64.b64encode(encoded(square(COLOURS["red"], 1), "WEBP")).decode()
        found = [
            {"label": name, "distance": 0.1 * i, "thumbnail": f"data:image/webp;base64,{pixels}"}
            for i, name in enumerate(("red", "green", "<b>blue</b>"))
        ]
        route.fulfill(json={"nearest": found, "request_id": ""})

    page.route("**/info", info)
    page.route("**/feedback?*", feedback)
    page.route("**/nearest?*", nearest)


def encoded(picture, form="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def noise():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST)


def photo(colour, seed=7):
    return encoded(square(COLOURS[colour], seed))


def choose(page, *contents, names=None):
    names = names or [f"{i}.png" for i in range(len(contents))]
    page.set_input_files(
        "#files",
        [
            {"name": name, "mimeType": "image/png", "buffer": each}
            for name, each in zip(names, contents, strict=True)
        ],
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


def answered(page, count):
    api.expect(page.locator(".card[data-answer]")).to_have_count(count)
    return page.locator(".card")


def in_percent(share):
    return "> 99.9 %" if 0.999 < share < 1 else "< 0.1 %" if share < 0.001 else f"{share:.1%}"


def assert_shown(card, run, content):
    """The card shows what the run itself predicts."""
    (wanted,) = run.classifier.predict(content, top=5)
    assert card.locator(".top strong").inner_text() == wanted.label
    assert card.locator(".bars .name").all_inner_texts() == [name for name, _ in wanted.top]
    shares = card.locator(".bars .share").all_inner_texts()
    given = [float(re.sub("[^0-9.]", "", each)) for each in shares]
    assert given == pytest.approx(
        [float(re.sub("[^0-9.]", "", in_percent(share))) for _, share in wanted.top], abs=0.06
    )
    assert (card.locator(".doubt").count() == 1) == wanted.unsure
    assert (card.locator(".unlike").count() == 1) == wanted.unlike


def test_dropped_pictures_get_the_answers_of_the_run(opened, squares, finished_run):
    page = opened(squares)
    contents = [photo(colour) for colour in COLOURS]
    transfer = held(page, *contents)
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    api.expect(page.locator("#veil")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    api.expect(page.locator("#veil")).to_be_hidden()
    cards = answered(page, 3)
    for i, content in enumerate(contents):
        assert cards.nth(i).locator(".file").inner_text() == f"{i}.png"
        assert cards.nth(i).locator("img").get_attribute("alt") == f"{i}.png"
        assert_shown(cards.nth(i), finished_run, content)
    share = finished_run.evaluation.test.accuracy
    api.expect(page.locator("#accuracy")).to_contain_text(f"Right for {100 * share:.1f}")
    page.get_by_role("button", name="Clear").click()
    api.expect(page.locator("#results")).to_be_hidden()
    page.dispatch_event("body", "drop", {"dataTransfer": held(page)})
    api.expect(page.get_by_role("alert")).to_contain_text("drop its file here")


def test_accuracy_counts_no_leaks(opened, server, finished_run, tmp_path):
    folder = shutil.copytree(finished_run.folder, tmp_path / "leaking")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    shares = {"accuracy": 0.625, "low": 0.5, "high": 0.75}
    evaluation["test_without_leaks"] = evaluation["test"] | shares
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    with server(folder) as address:
        api.expect(opened(address).locator("#accuracy")).to_have_text(
            "Right for 62.5 % of test pictures without copies or relatives in an earlier split "
            "(95 % interval 50.0 to 75.0 %)."
        )


def test_pasted_picture_is_answered(opened, squares, finished_run):
    page = opened(squares, permissions=["clipboard-read", "clipboard-write"])
    content = photo("green")
    page.evaluate(
        """async (content) => {
          const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
          const blob = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(content).decode(),
    )
    page.keyboard.press("Control+V")
    assert_shown(answered(page, 1), finished_run, content)
    event = "(data) => dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))"
    held(page, content, content).evaluate(event)
    answered(page, 3)
    held(page).evaluate(event)
    api.expect(page.get_by_role("alert")).to_contain_text("no picture on the clipboard")


WHOLE = encoded(square(COLOURS["red"], 3, (400, 300)), "JPEG")
UNREADABLE = {
    "empty.jpg": (b"", "The file is empty."),
    "notes.jpg": (b"hello " * 50, "This is not a picture."),
    "paper.jpg": (b"%PDF-1.4 " * 9, "This is not a picture, but a PDF document."),
    "cut.jpg": (WHOLE[: len(WHOLE) // 2], "a part of the picture is missing"),
    "drawing.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "cannot be read. SVG"),
    "large.jpg": (bytes(20_000_001), "too large for this server"),
}


def test_several_are_chosen_and_unreadable_ones_say_why(opened, squares, finished_run, tmp_path):
    page = opened(squares, expected="status of 4(13|22)")
    contents = {name: each for name, (each, _) in UNREADABLE.items()} | {"right.jpg": WHOLE}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    page.set_input_files("#files", [tmp_path / name for name in contents])
    cards = answered(page, len(contents))
    for i, (_, reason) in enumerate(UNREADABLE.values()):
        api.expect(cards.nth(i).locator(".wrong")).to_contain_text(reason)
    assert_shown(cards.last, finished_run, WHOLE)
    api.expect(page.locator("#summary")).to_have_text(
        re.compile(rf"7 pictures.* {len(UNREADABLE)} without an answer")
    )


def test_unlike_and_unsure_are_said_in_plain_words(opened, squares, thousand):
    page = opened(squares)
    choose(page, encoded(square(COLOURS["red"], 1)), encoded(noise()))
    sure, unlike = answered(page, 2).all()
    assert sure.locator(".doubt, .unlike").count() == 0
    api.expect(unlike.locator(".unlike")).to_contain_text("Unlike the photos it learned from")
    api.expect(page.locator("#summary")).to_have_text("2 pictures · 1 unlike the training photos")
    page = opened(thousand)  # whose shares are small
    choose(page, encoded(noise()))
    api.expect(answered(page, 1).locator(".top")).to_contain_text("Not sure. Perhaps")
    api.expect(page.locator("#summary")).to_have_text("1 picture · 1 unsure")


def test_heat_map_of_each_class(opened, squares):
    page = opened(squares)
    choose(page, photo("red"))
    card = answered(page, 1)
    card.get_by_role("button", name="Heat map").click()
    api.expect(card.locator(".map img")).to_have_attribute("alt", "Heat map for red")
    assert card.locator(".map img").evaluate("(each) => each.decode().then(() => each.width)") > 99
    card.get_by_label("What speaks for").select_option("blue")
    api.expect(card.locator(".map img")).to_have_attribute("alt", "Heat map for blue")
    card.get_by_role("button", name="Heat map").click()
    api.expect(card.locator(".panel")).to_have_count(0)


def saved(page):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    content = Path(download.value.path()).read_bytes().decode()
    return list(csv.DictReader(io.StringIO(content, newline="")))


def test_correction_by_keyboard_alone_is_sent_shown_and_saved(opened, squares, finished_run):
    sent = []
    page = opened(squares, offered=sent, expected="status of 422")
    content = photo("red")
    choose(page, content, b"?", names=['a, "b".png', "bad.png"])
    answered(page, 2)
    page.locator("#clear").focus()
    for _ in range(3):
        page.keyboard.press("Tab")  # over the heat map and what is similar
    assert page.evaluate("document.activeElement.textContent") == "Wrong? It is …"
    page.keyboard.press("Enter")
    page.keyboard.type("E")
    options = page.get_by_role("option")
    assert sorted(options.all_inner_texts()) == ["blue", "green", "red"]
    assert options.last.inner_text() == "red"  # which was predicted
    page.keyboard.type("EN")
    api.expect(page.get_by_role("option", selected=True)).to_have_text("green")
    page.keyboard.press("Enter")
    api.expect(page.locator(".corrected").first).to_have_text(
        "You said green. Sent; the photo is kept as kept.png."
    )
    assert page.evaluate("document.activeElement.textContent") == "Change that"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")  # keeps what was said
    wanted = {"label": ["green"], "predicted": ["red"], "name": ['a, "b".png']}
    assert sent == [(wanted, content)]
    confidence = finished_run.classifier.predict(content)[0].confidence
    api.expect(page.locator("#summary")).to_contain_text("1 corrected")
    first, second = saved(page)
    assert first | {"confidence": ""} == {
        **{"path": 'a, "b".png', "label": "red", "confidence": "", "unsure": "no"},
        **{"unlike": "no", "corrected_label": "green", "problem": ""},
    }
    assert float(first["confidence"]) == pytest.approx(confidence, abs=1e-6)
    assert second["path"] == "bad.png" and second["problem"] == "This is not a picture."


def test_similar_training_pictures_are_shown_once_they_are_offered(opened, squares):
    page = opened(squares)
    choose(page, photo("red"))
    assert answered(page, 1).get_by_role("button", name="Similar").count() == 0
    offer(page, [])
    choose(page, photo("red"))
    answered(page, 2).first.get_by_role("button", name="Similar").click()
    names = page.locator(".nearest .name")
    api.expect(names).to_have_text(["red", "green", "<b>blue</b>"])
    assert page.locator(".nearest img").first.evaluate("(each) => each.naturalWidth") > 0


def test_camera_is_answered_one_picture_after_the_other(opened, squares):
    page = opened(squares, expected="status of 503")
    under_way, most, refused = set(), [0], []

    def begun(request):
        if "predict" in request.url:
            under_way.add(request)
            most.append(len(under_way))

    def ended(request):
        under_way.discard(request)

    page.on("request", begun)
    page.on("requestfinished", ended)
    page.get_by_role("button", name="Use the camera").click()
    api.expect(page.locator("#seen .top strong")).to_have_text("red")
    before = len(most)
    page.wait_for_timeout(1000)
    assert 2 <= len(most) - before <= 6  # five a second, whatever the server could
    assert max(most) == 1

    def refuse(route):
        refused.append(route)
        route.fulfill(status=503, json={"error": "busy", "request_id": ""})

    page.route("**/predict?top=5", refuse)
    page.wait_for_timeout(500)
    page.unroute("**/predict?top=5")
    assert refused
    api.expect(page.locator("#seen .top strong")).to_have_text("red")
    page.get_by_role("button", name="Keep this picture").click()
    api.expect(answered(page, 1).locator(".file")).to_have_text("camera 1.jpg")
    stream = page.evaluate_handle("document.querySelector('#video').srcObject")
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true })")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    api.expect(page.locator("#live")).to_be_hidden()
    assert stream.evaluate("each => each.getTracks().map((track) => track.readyState)") == ["ended"]
    count = len(most)
    page.wait_for_timeout(500)
    assert len(most) <= count + 1


def test_camera_that_is_refused_is_explained(opened, playwright, squares):
    flags = [flag for flag in FLAGS if "fake" not in flag]
    launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    page = opened(squares, launched=launched)
    page.get_by_role("button", name="Use the camera").click()
    api.expect(page.get_by_role("alert")).to_contain_text("camera")
    api.expect(page.locator("#live")).to_be_hidden()
    launched.close()


@pytest.mark.long
def test_thousand_classes_of_any_name_fit_a_phone(opened, thousand):
    sent = []
    page = opened(thousand, offered=sent, viewport=PHONE, is_mobile=True)
    api.expect(page.locator("#classes")).to_contain_text("and 988 more")
    choose(page, photo("red"), names=["<b>a</b>.png"])
    card = answered(page, 1)
    assert card.get_by_role("button", name="Heat map").count() == 0  # an exported file has none
    card.locator("summary").click()
    names = card.locator(".bars .name").all_text_contents()
    assert len(names) == 1000
    assert {" ".join(each.split()) or "(no name)" for each in ODD} <= set(names)
    card.get_by_role("button", name="Wrong?").click()
    assert page.get_by_role("option").count() == 1000
    likely = card.locator(".bars .name").nth(1).text_content()
    assert page.get_by_role("option", selected=True).text_content() == likely
    page.keyboard.type("a&b")
    page.keyboard.press("Enter")
    api.expect(card.locator(".corrected")).to_contain_text("You said a&b=c#d.")
    assert sent[0][0]["label"] == ["a&b=c#d"]
    assert card.locator(".file").text_content() == "<b>a</b>.png"
    assert page.locator("main b, main script, .said img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


LUMINANCE = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_everything_open_is_legible_and_axe_finds_nothing_serious(opened, squares, scheme):
    page = opened(
        squares, offered=[], expected="status of 422", color_scheme=scheme, viewport=PHONE
    )
    choose(page, encoded(noise()), photo("red"), b"?")
    card = answered(page, 3).first
    for name in ("Heat map", "Similar", "Wrong?"):
        card.get_by_role("button", name=name).click()
    api.expect(card.locator(".map img")).to_be_visible()
    api.expect(card.locator(".nearest img")).to_have_count(3)
    page.get_by_role("button", name="Use the camera").click()
    api.expect(page.locator("#seen .top")).to_be_visible()
    assert page.evaluate(LUMINANCE) < 60 if scheme == "dark" else page.evaluate(LUMINANCE) > 200
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert_axe_finds_nothing_serious(page)
    page.goto(f"{squares}/docs")
    api.expect(page.locator(".operation").first).to_be_visible()
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.evaluate("document.querySelectorAll('.operation ~ .operation').forEach((e) => e.remove())")
    assert_axe_finds_nothing_serious(page)  # which would take long for all of it


def assert_axe_finds_nothing_serious(page):
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe is not installed (pip install axe-playwright-python)")
    page.wait_for_timeout(300)  # until cards have appeared
    page.evaluate((Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run().then((result) => result.violations)")
    serious = [
        f"{each['id']} ({each['impact']}): {each['help']}: {each['nodes'][0]['html'][:200]}"
        for each in violations
        if each["impact"] in ("serious", "critical")
    ]
    assert not serious


def test_token_is_asked_for_and_kept_in_the_tab(opened, server, finished_run):
    with server(finished_run.folder, EFFTUNE_TOKEN=TOKEN) as address:
        page = opened(address, expected="status of 401")
        api.expect(page.locator("#door")).to_be_visible()
        page.keyboard.type("another-token-than-that")
        page.keyboard.press("Enter")
        api.expect(page.get_by_role("alert")).to_have_text("The server takes another token.")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        api.expect(page.locator("#door")).to_be_hidden()
        choose(page, photo("red"))
        answered(page, 1)
        page.reload()
        api.expect(page.locator("#accuracy")).to_contain_text("Right for")
        page.goto(f"{address}/docs")
        api.expect(page.locator("#token")).to_be_visible()
        name = finished_run.folder.name
        api.expect(page.locator(".example code", has_text=f"/v2/models/{name}/ready")).to_have_text(
            re.compile('^curl -H "Authorization: Bearer ')
        )
        assert TOKEN not in page.content()


@pytest.mark.long
def test_pictures_wait_while_the_server_is_gone(opened, server, finished_run):
    with server(finished_run.folder) as address:
        page = opened(address, expected="ERR_(CONNECTION|EMPTY)|status of 503")
        choose(page, photo("red"))
        answered(page, 1)
    choose(page, photo("green"))
    api.expect(page.locator("#connection")).to_contain_text("The server does not answer")
    api.expect(page.locator("#summary")).to_have_text("2 pictures · 1 to go")
    with server(finished_run.folder, "--port", str(urlsplit(address).port)):
        cards = answered(page, 2)
        api.expect(cards.first.locator(".top strong")).to_have_text("green")
        api.expect(page.locator("#connection")).to_be_hidden()


def test_what_is_sent_again_and_again_in_vain_is_given_up(opened, squares, tmp_path):
    page = opened(squares, expected="ERR_")
    path = tmp_path / "gone.png"
    path.write_bytes(photo("red"))
    page.route("**/predict?*", lambda route: (path.unlink(), route.abort()))
    page.set_input_files("#files", path)
    api.expect(answered(page, 1).locator(".wrong")).to_contain_text("is gone since it was chosen")


def test_docs_show_every_path_and_examples_that_work(opened, squares, finished_run, tmp_path):
    page = opened(f"{squares}/docs")
    paths = {(method, path) for path, item in described()["paths"].items() for method in item}
    api.expect(page.locator(".operation")).to_have_count(len(paths))
    shown = page.locator(".operation h3").all_inner_texts()
    assert {(each.split()[0].lower(), each.split()[1]) for each in shown} == paths
    if shutil.which("curl") is None:
        return
    for name in ("photo.jpg", "other.jpg"):
        (tmp_path / name).write_bytes(WHOLE)
    examples = page.locator(".example code").all_inner_texts()
    assert len(examples) > len(paths)
    for example in examples:
        offered = not any(each in example for each in ("/feedback?", "/nearest?"))
        done = subprocess.run(
            ["bash", "-ceuo", "pipefail", example.replace("curl ", "curl -sSf ")],
            cwd=tmp_path,
            capture_output=True,
            timeout=30,
        )
        assert (done.returncode == 0) == offered, (example, done.stderr)
        if "infer" in example:
            outputs = {each["name"]: each for each in json.loads(done.stdout)["outputs"]}
            assert outputs["label"]["data"] == ["red"]
    assert (tmp_path / "heat-map.png").read_bytes().startswith(b"\x89PNG")
