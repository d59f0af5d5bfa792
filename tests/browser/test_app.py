"""The page to try it, from click to result, in headless Chromium."""

import os
import re
import time

import pytest
from page_stand_in import ColorEmbedder, write_color, write_page

pytest.importorskip("gradio")

from playwright.sync_api import expect

from molo_jax import serve
from molo_jax.prediction.page import build_page
from molo_jax.prediction.page_session import Limits

# Much longer than it takes, for machines that do much else.
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colors")
    for color in ("red", "green", "gray"):
        for number, shade in enumerate((0, 6, 12, 7)):
            write_color(folder / f"{color}{number}.mp4", color, shade=shade)
    write_color(folder / "long.mp4", "red", frames=72)
    (folder / "text.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def address(folder):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY", "GRADIO_TEMP_DIR", "HF_HUB_OFFLINE"):
            patch.setenv(name, "")
        serve.prepare_environment(folder)
        limits = Limits(megabytes=1, seconds=5)
        blocks = build_page(ColorEmbedder(), folder, limits=limits, explainer=write_page)
        with serve.serving(blocks, host="127.0.0.1", port=None, megabytes=1) as url:
            yield url


@pytest.fixture
def visit(browser, address, request):
    """Opens the page as a new visitor; no other server may be asked, and no script may fail."""
    contexts, problems = [], []

    def check(asked):
        if not asked.url.startswith((address, "data:", f"blob:{address}")):
            problems.append(f"asked for {asked.url}")

    def new():
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        contexts.append(context)
        page = context.new_page()
        page.on("request", check)
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        expect(page.get_by_text("No classes yet")).to_be_visible()
        return page

    new.problems = problems
    yield new
    for number, context in enumerate(contexts):
        if shots := os.environ.get("MOLO_JAX_SCREENSHOTS"):
            name = request.node.name.replace("/", "_")
            context.pages[0].screenshot(path=f"{shots}/{name}_{number}.png", full_page=True)
        context.close()
    assert problems == []


def add_class(page, name, files):
    page.get_by_label("Name of a class").fill(name)
    page.locator("#class-files input[type=file]").set_input_files(
        [f if isinstance(f, dict) else str(f) for f in files]
    )
    expect(page.locator("#class-files").get_by_role("link")).to_have_count(len(files))
    page.get_by_role("button", name="Add to the class").click()


def ask(page, file):
    page.locator("#query-file input[type=file]").set_input_files(str(file))


def filled(page, videos):
    for color in ("red", "green"):
        add_class(page, color, [videos / f"{color}{n}.mp4" for n in range(3)])
        expect(page.locator(".class-head", has_text=color)).to_contain_text("3 clips")
    return page


def uploads(folder):
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_from_click_to_result(visit, videos, folder):
    page = filled(visit(), videos)
    assert page.locator(".class-card img").count() == 6
    expect(page.locator("#advice")).to_contain_text("Each of the 6 clips was compared")
    ask(page, videos / "green3.mp4")
    expect(page.locator("#answer .label")).to_have_text("green")
    bars = page.locator("#answer .bars .name")
    assert bars.all_inner_texts() == ["green", "red"]
    assert page.locator("#answer .strip img").count() == 4
    ask(page, videos / "gray0.mp4")
    expect(page.locator("#answer .label")).to_have_text("none of these")
    assert not [name for name in uploads(folder) if name.endswith(".mp4")]


def test_the_explanation_is_shown_and_is_shut_off_from_the_page(visit, videos, tmp_path):
    page = filled(visit(), videos)
    ask(page, videos / "red3.mp4")
    expect(page.locator("#answer .label")).to_have_text("red")
    page.get_by_role("button", name="Why?").click()
    inner = page.frame_locator("iframe.explanation")
    expect(inner.locator("#said")).to_have_text("nearest is red")
    expect(inner.locator("body")).to_have_attribute("data-ran", "yes")
    expect(inner.locator("body")).to_have_attribute("data-parent", "closed")
    assert page.title() == "Which action is it?"
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the explanation").click()
    assert download.value.suggested_filename == "explanation.html"
    download.value.save_as(tmp_path / "x.html")
    assert "nearest is red" in (tmp_path / "x.html").read_text()


def test_classes_are_saved_and_another_visitor_opens_them(visit, videos, tmp_path):
    one = filled(visit(), videos)
    other = visit()
    expect(other.get_by_text("No classes yet")).to_be_visible()
    with one.expect_download() as download:
        one.get_by_role("button", name="Save the classes").click()
    assert download.value.suggested_filename == "gym.molo"
    download.value.save_as(tmp_path / "gym.molo")
    other.locator("input[type=file][accept*='.molo']").set_input_files(tmp_path / "gym.molo")
    expect(other.locator(".class-head")).to_have_count(2)
    other.get_by_role("button", name="Remove the class").first.click()
    expect(other.locator(".class-head")).to_have_count(1)
    expect(other.locator(".class-head")).to_contain_text("green")
    # What one visitor does, the other does not see.
    ask(one, videos / "red3.mp4")
    expect(one.locator("#answer .label")).to_have_text("red")
    expect(other.locator("#answer")).to_contain_text("Drop or record a clip")
    assert one.locator(".class-head").count() == 2


def test_bad_clips_are_said_one_by_one_and_the_rest_is_taken(visit, videos):
    page = visit()
    # From memory, for Chromium opens no such name where the system has no locale.
    text = {"name": "жест <b>.mp4", "mimeType": "video/mp4", "buffer": b"no video"}
    add_class(page, "red", [text])
    expect(page.locator("#class-problems li")).to_have_text(
        re.compile("^жест .*: not a video file")
    )
    add_class(page, "red", [videos / "text.mp4", videos / "long.mp4", videos / "red0.mp4"])
    problems = page.locator("#class-problems li")
    expect(problems).to_have_count(2)
    expect(problems.nth(1)).to_have_text(
        "long.mp4: it lasts 0:06, and a clip here at most 0:05; cut the action out"
    )
    expect(page.locator(".class-head")).to_contain_text("1 clip")
    assert "Traceback" not in page.content()
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#clip-problems")).to_contain_text("There is nothing to explain yet")


def test_a_name_is_text_whatever_it_looks_like(visit, videos):
    page, name = visit(), "<i>${6*7}</i> {{7*7}}"
    add_class(page, name, [videos / "red0.mp4"])
    expect(page.locator(".class-head strong")).to_have_text(name)
    ask(page, videos / "red1.mp4")
    expect(page.locator("#answer .label")).to_have_text(name)


def test_a_file_that_is_too_large_is_refused_in_words(visit, tmp_path):
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2_500_000))
    page = visit()
    ask(page, large)
    expect(page.get_by_text("maximum allowed size")).to_be_visible()
    expect(page.locator("#answer")).to_contain_text("Drop or record a clip")
    visit.problems.clear()


def test_a_clip_is_recorded_and_becomes_an_example(visit, videos, folder):
    page = filled(visit(), videos)
    page.get_by_role("tab", name="Camera").click()
    page.locator("#camera").get_by_role("button").first.click()
    record = page.locator("#camera").get_by_role("button", name="start recording")
    record.click()
    expect(record).to_have_text("Stop")
    page.wait_for_timeout(1500)
    record.click()
    expect(page.locator("#answer .strip img")).to_have_count(4)
    expect(page.locator("#answer .label")).to_be_visible()
    expect(page.locator("#answer .file").first).to_contain_text("recording 1: the frames")
    page.get_by_label("It is an example of").fill("nobody")
    page.get_by_label("It is an example of").press("Enter")
    page.get_by_role("button", name="Add it to this class").click()
    expect(page.locator(".class-head", has_text="nobody")).to_contain_text("1 clip")
    expect(page.locator("#answer .label")).to_have_text("nobody")
    until = time.monotonic() + 30
    while any(name.endswith(".webm") for name in uploads(folder)) and time.monotonic() < until:
        page.wait_for_timeout(100)
    assert not [name for name in uploads(folder) if name.endswith(".webm")]
