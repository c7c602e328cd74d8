"""Report and review page in a browser; needs Playwright's client and Debian's Chromium.

`apt-get install chromium` and `pip install playwright`; with `pip install axe-playwright-python`,
which includes axe, accessibility is checked as well.
"""

import csv
import importlib.util
import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from efftune.report import report, review
from report import made_run

api = pytest.importorskip("playwright.sync_api", reason="Playwright's client is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

PHONE = {"width": 390, "height": 844}
LUMINANCE = """(colour) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => linear(value / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator["api.Browser"]:
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--headless"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=flags)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_run.write(
        tmp_path_factory.mktemp("made") / "run",
        classes=(*made_run.CLASSES, *made_run.ODD_CLASSES),
        counts=(240, 40, 120),
        wrong=0.4,
        names=made_run.ODD_NAMES,
    )
    report.write(folder)
    review.write(folder)
    return folder


@pytest.fixture
def opened(browser: "api.Browser") -> Iterator[Callable[..., "api.Page"]]:
    """Open a page; it must log nothing to the console and load nothing."""
    contexts, faults, requests = [], [], []

    def open_page(path: Path, **settings: object) -> "api.Page":
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda request: requests.append((request.url, path.as_uri())))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults
    assert requests
    assert all(url == own or url.startswith(("data:", "blob:")) for url, own in requests)


def contrast(page: "api.Page", selector: str) -> float:
    """The contrast of an element's text with its own background, or with the page's."""
    colours = page.locator(selector).first.evaluate(
        """(element) => {
          const paper = getComputedStyle(document.body).backgroundColor;
          const own = getComputedStyle(element);
          const clear = own.backgroundColor === "rgba(0, 0, 0, 0)";
          return [own.color, clear ? paper : own.backgroundColor];
        }"""
    )
    darker, lighter = sorted(page.evaluate(LUMINANCE, colour) for colour in colours)
    return (lighter + 0.05) / (darker + 0.05)


def paper(page: "api.Page") -> float:
    return page.evaluate(f"({LUMINANCE})(getComputedStyle(document.body).backgroundColor)")


def all_cells(page: "api.Page") -> list[dict]:
    """Each cell of the matrix with the pictures shown when it is clicked."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".matrix button")].map((button) => {
          button.click();
          const items = [...document.querySelectorAll("#cell li")];
          return {
            place: button.dataset.cell.split(" ").map(Number),
            count: Number(button.textContent),
            pressed: document.querySelectorAll(".matrix button[aria-pressed=true]").length,
            pictures: items.map((item) => ({
              name: item.dataset.name,
              flags: [...item.querySelectorAll(".flag")].map((flag) => flag.textContent),
              images: item.querySelectorAll("img").length,
              blanks: item.querySelectorAll(".blank").length,
            })),
          };
        })"""
    )


def shown(path: str) -> str:
    """The path with invisible characters escaped as on the page."""
    return path.replace("\n", "\\n").replace("\u202e", "\\u202e")


def test_every_cell_shows_exactly_its_pictures(opened, run):
    names = [*made_run.CLASSES, *made_run.ODD_CLASSES]
    rows = [row for row in made_run.read(run, "predictions.csv") if row["split"] == "test"]
    cells = all_cells(opened(run / report.FILE))
    assert len(cells) > 15
    for cell in cells:
        pair = tuple(names[i] for i in cell["place"])
        wanted = [row["path"] for row in rows if (row["label"], row["predicted"]) == pair]
        assert sorted(each["name"] for each in cell["pictures"]) == sorted(map(shown, wanted))
        assert cell["count"] == len(wanted) and cell["pressed"] == 1


def test_panel_has_a_heading_and_takes_the_focus(opened, run):
    page = opened(run / report.FILE)
    page.locator(".pairs button").first.click()
    heading = page.locator("#cell h3")
    assert "confused with" in heading.inner_text()
    assert "most confident first" in heading.inner_text()
    assert heading.evaluate("(element) => element === document.activeElement")
    shares = page.locator("#cell .sure").all_inner_texts()
    numbers = [
        float(each.removeprefix("confidence ").split("\N{NO-BREAK SPACE}")[0]) for each in shares
    ]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.ci
def test_pictures_without_thumbnail_are_shown_by_name(opened, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "copy")
    made_run.change(folder, "thumbnails.json", thumbnails={})
    bare, whole = opened(report.write(folder)), opened(run / report.FILE)
    for page, images in ((bare, 0), (whole, 1)):
        pictures = [each for cell in all_cells(page) for each in cell["pictures"]]
        assert {(each["images"], each["blanks"]) for each in pictures} == {(images, 1 - images)}
    sides = whole.locator("#cell img").evaluate_all(
        """async (all) => {
          await Promise.all(all.map((each) => each.decode()));
          return all.map((each) => [each.naturalWidth, each.clientWidth, each.clientHeight]);
        }"""
    )
    assert sides and all(side == [96, 96, 96] for side in sides)


def test_flags_stand_at_their_pictures(opened, run):
    rows = {shown(row["path"]): row for row in made_run.read(run, "predictions.csv")}
    for cell in all_cells(opened(run / report.FILE)):
        for each in cell["pictures"]:
            row = rows[each["name"]]
            assert ("unsure" in each["flags"]) == (row["unsure"] == "yes")
            assert ("unlike the training pictures" in each["flags"]) == (row["unlike"] == "yes")
    combinations = {(row["unsure"], row["unlike"]) for row in rows.values()}
    assert len(combinations) == 4  # otherwise the test is weak


def test_names_are_shown_as_text(opened, run):
    page = opened(run / report.FILE)
    assert page.get_by_text("<b>bold</b>", exact=True).count() > 0
    assert page.locator("bdi b").count() == 0
    row = made_run.read(run, "predictions.csv")[40]
    assert row["path"].endswith("<img src=x onerror=alert(1)>.jpg")
    names = [*made_run.CLASSES, *made_run.ODD_CLASSES]
    place = f"{names.index(row['label'])} {names.index(row['predicted'])}"
    page.locator(f'.matrix [data-cell="{place}"]').click()
    assert page.locator("#cell .file", has_text="<img src=x onerror=alert(1)>.jpg").count() == 1
    assert page.locator("#cell script, #cell b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [report.FILE, review.FILE])
def test_both_colour_schemes_are_legible(opened, run, name, scheme):
    page = opened(run / name, color_scheme=scheme)
    assert paper(page) < 0.05 if scheme == "dark" else paper(page) > 0.8
    texts = ["body", ".kicker", ".note", "h2"]
    texts += (
        [".matrix button.correct", ".matrix button.wrong", ".warn"] if name == report.FILE else []
    )
    for selector in texts:
        assert contrast(page, selector) >= 4.5, selector


@pytest.mark.parametrize("name", [report.FILE, review.FILE])
def test_a_phone_needs_no_sideways_scroll(opened, run, name):
    page = opened(run / name, viewport=PHONE, device_scale_factor=2, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if name == report.FILE:
        page.locator(".matrix button").first.click()
        for each in page.locator("summary").all():
            each.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_a_script_only_the_cells_are_missing(opened, run):
    page = opened(run / report.FILE, java_script_enabled=False)
    assert page.locator("noscript").inner_text()
    assert page.locator("#mistakes img").count() > 0


def test_print_opens_everything_and_leaves_buttons_out(opened, run):
    page = opened(run / report.FILE)
    assert page.locator("details:not([open])").count() > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print", color_scheme="dark")
    assert paper(page) == pytest.approx(1)
    assert not page.locator("nav").is_visible()
    assert not page.locator(".copy").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.pdf().startswith(b"%PDF")


def test_commands_can_be_copied_or_are_selected(opened, run):
    page = opened(run / report.FILE)
    page.locator(".copy").first.click()
    api.expect(page.locator(".copy").first).to_have_text(re.compile("Copied|Selected"))
    forbidden = "() => Promise.reject(new Error('forbidden'))"
    page.evaluate(f"() => {{ navigator.clipboard.writeText = {forbidden}; }}")
    page.locator(".copy").last.click()
    api.expect(page.locator(".copy").last).to_have_text("Selected")
    assert page.evaluate("getSelection().toString()").startswith("import efftune")


def saved(page: "api.Page") -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save labels.csv").click()
    assert download.value.suggested_filename == "labels.csv"
    content = Path(download.value.path()).read_bytes().decode("utf-8")
    return list(csv.DictReader(io.StringIO(content, newline="")))


def test_decisions_are_saved_as_a_table(opened, run):
    page = opened(run / review.FILE)
    suspects = made_run.read(run, "suspects.csv")
    cards = page.locator(".card")
    assert cards.count() == len(suspects)
    assert page.get_by_role("button", name="Save labels.csv").is_disabled()
    cards.nth(0).get_by_role("button", name="keep").click()
    cards.nth(1).get_by_role("button", name="relabel as").click()
    cards.nth(2).get_by_role("button", name="drop").click()
    cards.nth(3).locator("select").select_option("a,b")
    cards.nth(4).get_by_role("button", name="drop").click()
    cards.nth(4).get_by_role("button", name="drop").click()  # undoes it
    cards.nth(5).locator("select").select_option(suspects[5]["label"])  # counts as keep
    assert page.locator("#progress").inner_text() == f"5 of {len(suspects)} decided"
    decided = [("keep", ""), ("relabel", suspects[1]["suggested"]), ("drop", "")]
    decided += [("relabel", "a,b"), None, ("keep", "")]
    assert saved(page) == [
        {"path": row["path"], "label": row["label"], "decision": each[0], "new_label": each[1]}
        for row, each in zip(suspects, decided, strict=False)
        if each
    ]


def test_any_name_survives_the_table(opened, run):
    page = opened(run / review.FILE)
    for button in page.locator(".card .keep").all():
        button.evaluate("(each) => each.click()")
    wanted = [(row["path"], row["label"]) for row in made_run.read(run, "suspects.csv")]
    assert [(row["path"], row["label"]) for row in saved(page)] == wanted
    assert any("\n" in path for path, _ in wanted) and any('"' in path for path, _ in wanted)


def test_keys_decide_and_move_on(opened, run):
    page = opened(run / review.FILE)
    for key in ("ArrowDown", "k", "r", "ArrowDown", "d", "ArrowUp", "u", "x"):
        page.keyboard.press(key)
    decisions = {row["path"]: row["decision"] for row in saved(page)}
    suspects = [row["path"] for row in made_run.read(run, "suspects.csv")]
    assert decisions == {suspects[0]: "keep", suspects[1]: "relabel"}
    page.locator(".card select").first.focus()
    page.keyboard.press("d")  # searches the list of classes and drops nothing
    assert "drop" not in {row["decision"] for row in saved(page)}


def test_progress_is_stored_in_the_browser(opened, run):
    page = opened(run / review.FILE)
    page.locator(".card .drop").nth(2).click()
    page.reload()
    assert [row["decision"] for row in saved(page)] == ["drop"]


def test_only_undecided_ones_can_be_shown(opened, run):
    page = opened(run / review.FILE)
    count = page.locator(".card").count()
    page.locator(".card .keep").first.click()
    page.get_by_label("only undecided").check()
    assert page.locator(".card").count() == count - 1
    page.locator(".card").first.focus()
    for left in range(count - 2, -1, -1):
        page.keyboard.press("k")
        assert page.locator(".card").count() == left
    assert page.get_by_text("All labels are decided.").is_visible()


def test_existing_decisions_are_preset_and_saved_again(opened, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "copy")
    first, second = made_run.read(folder, "suspects.csv")[:2]
    rows = [
        {"path": first["path"], "label": first["label"], "decision": "relabel", "new_label": "new"},
        {"path": "else, where.jpg", "label": "hat", "decision": "drop", "new_label": ""},
    ]
    made_run.write_table(folder / "labels.csv", rows)
    page = opened(review.write(folder))
    assert page.locator(".card select").first.input_value() == "new"
    page.locator(".card .keep").nth(1).click()
    added = {"path": second["path"], "label": second["label"], "decision": "keep", "new_label": ""}
    assert saved(page) == [rows[0], added, rows[1]]


def test_many_suspects_are_shown_in_portions(opened, tmp_path):
    page = opened(review.write(made_run.write(tmp_path / "run", counts=(3600, 10, 10))))
    assert page.locator(".card").count() == 50
    page.get_by_role("button", name="Show more").click()
    assert page.locator(".card").count() == 100
    page.get_by_role("button", name="Show more").click()
    assert page.locator(".card").count() == 120
    assert not page.get_by_role("button", name="Show more").is_visible()


@pytest.mark.ci
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [report.FILE, review.FILE])
def test_axe_finds_nothing_serious(opened, run, name, scheme):
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe is not installed (pip install axe-playwright-python)")
    page = opened(run / name, color_scheme=scheme, viewport=PHONE)
    if name == report.FILE:
        page.locator(".pairs button").first.click()
        page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    page.evaluate((Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run().then((result) => result.violations)")
    serious = [
        f"{each['id']} ({each['impact']}): {each['help']}: {each['nodes'][0]['html'][:200]}"
        for each in violations
        if each["impact"] in ("serious", "critical")
    ]
    assert not serious
