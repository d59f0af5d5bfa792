"""The report of a work folder in a browser: links, contrast, narrow screens, print."""

import pytest
from made_results import HOSTILE, LONG, write_work_folder
from reporting.test_page import made_pictures

from molo_jax.reporting.page import write_page
from molo_jax.reporting.work_folder import read_work_folder

NAMES = [HOSTILE, LONG, *(f"class {i}" for i in range(22))]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("report")
    write_work_folder(workdir, NAMES)
    folder = read_work_folder(workdir)
    pictures = made_pictures(folder, missing=["Something is missing."])
    write_page(workdir / "report.html", folder, pictures, defaults={})
    return workdir / "report.html"


def test_every_link_leads_to_a_heading_that_is_shown(path, open_page):
    page = open_page(path, reduced_motion="reduce")
    links = page.locator("nav a")
    assert links.count() >= 8
    for place in range(links.count()):
        link = links.nth(place)
        link.click()
        target = page.locator(link.get_attribute("href"))
        assert target.is_visible()
        assert target.evaluate("e => /^H[1-4]$/.test(e.tagName)")
        # The link went there: it is at the top, or the end of the page is reached.
        assert target.evaluate(
            "e => e.getBoundingClientRect().top < innerHeight && e.getBoundingClientRect().top > -9"
        )


def test_all_pictures_are_drawn(path, open_page):
    page = open_page(path)
    shown = "e => e.every(each => each.complete && each.naturalWidth > 100)"
    assert page.locator("img").evaluate_all(shown)
    sizes = page.locator("use").evaluate_all("e => e.map(each => each.getBBox().width)")
    assert len(sizes) == 4
    assert set(sizes) == {8 * 72}
    line = page.locator("svg.match line").first
    assert line.evaluate("e => getComputedStyle(e).stroke") == "rgb(11, 92, 173)"


def test_a_hostile_name_is_shown_and_runs_nothing(path, open_page):
    page = open_page(path)
    assert page.locator("script").count() == 0
    assert page.get_by_text(HOSTILE, exact=True).first.is_visible()
    label = page.locator("svg.confusion text", has_text=HOSTILE[:10]).first
    assert label.evaluate("e => e.querySelector('title').textContent") == HOSTILE


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_nothing_is_wider_than_the_screen(path, open_page, width):
    page = open_page(path, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # No column of a table is so narrow that its words fall apart.
    narrow = page.locator("td, th").evaluate_all(
        "e => e.filter(x => x.offsetParent && x.textContent.trim() && x.clientWidth < 22).length"
    )
    assert narrow == 0


def test_all_text_has_contrast(path, open_page):
    page = open_page(path)
    program = """() => {
      const parts = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
      const light = (c) => { const [r, g, b] = c.slice(0, 3).map((x) => x / 255)
        .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const ground = (e) => { for (; e; e = e.parentElement) {
          const c = parts(getComputedStyle(e).backgroundColor);
          if (c.length === 3 || c[3] === 1) return c; }
        return [255, 255, 255]; };
      const low = [];
      for (const e of document.body.querySelectorAll("*")) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || e.tagName === "title" || e.closest("defs")) continue;
        const svg = e.ownerSVGElement;
        const ink = light(parts(svg ? getComputedStyle(e).fill : getComputedStyle(e).color));
        const cell = svg && e.previousElementSibling;
        const under = cell && cell.tagName === "rect"
          ? parts(getComputedStyle(cell).fill) : ground(svg ? svg.parentElement : e);
        const back = light(under);
        const ratio = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
        if (ratio < 4.5) low.push([e.tagName, e.textContent.slice(0, 30), ratio]);
      }
      return low;
    }"""
    assert page.evaluate(program) == []


def test_it_prints_on_pages_without_a_cut(path, open_page, tmp_path):
    page = open_page(path)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    # A4 at 96 pixels an inch, without its margins: nothing that is printed is wider.
    page.set_viewport_size({"width": 718, "height": 1000})
    wide = page.locator("svg, img, table").evaluate_all(
        "e => e.filter(x => x.getBoundingClientRect().right > 719).map(x => x.outerHTML)"
    )
    assert wide == []
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 5 < content.count(b"/Type /Page\n") < 40
