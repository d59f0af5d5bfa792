"""The page of predictions in a browser."""

import pytest
from stick_figures import classifier_of, clip, gym

from molo_jax.prediction.explanation import explain
from molo_jax.prediction.report import write_report
from molo_jax.prediction.results import Failure


@pytest.fixture(scope="module")
def classifier():
    return gym(limit=1.4)


@pytest.fixture(scope="module")
def queries():
    names = [*("squat", "lunge", "wave", "jump"), *("squat",) * 6]
    return [clip(f"new/{i} {name}.mp4", name, seed=60 + i) for i, name in enumerate(names)]


@pytest.fixture(scope="module")
def written(tmp_path_factory, classifier, queries):
    path = tmp_path_factory.mktemp("page") / "page.html"
    predictions = [classifier.predict(query) for query in queries]
    explanations = [explain(classifier, each) for each in predictions]
    failures = [Failure("new/<script>alert(1)</script>.mp4", "no frame could be decoded")]
    truth = [query.name.split()[1].removesuffix(".mp4") for query in queries]
    write_report(path, classifier, predictions, explanations, failures, truth=truth)
    return path, predictions, explanations


def test_the_first_clip_is_open_with_its_pictures_and_lines(written, open_page):
    path, _, explanations = written
    page = open_page(path)
    first = page.locator("#clip-1")
    assert first.get_attribute("open") is not None
    pictures = first.locator(".pairing img")
    # The query and the class, twice.
    assert pictures.count() == 4 * 8
    loaded = "images => images.every(image => image.complete && image.naturalWidth === 120)"
    page.wait_for_function(f"({loaded})([...document.querySelectorAll('#clip-1 .pairing img')])")
    alt = pictures.nth(2).get_attribute("alt")
    assert alt == "0 squat.mp4, frame 3 of 8, 0.6 s"
    best = explanations[0].best.streams["appearance"]
    drawn = first.locator(".pairing").first.locator("line")
    assert [drawn.nth(i).get_attribute("data-pair") for i in range(drawn.count())] == [
        f"{pair.query},{pair.other}" for pair in best.pairs
    ]
    for i, pair in enumerate(best.pairs):
        assert drawn.nth(i).get_attribute("class") == ("both" if pair.count == 2 else "one")
    widths = [float(drawn.nth(i).get_attribute("stroke-width")) for i in range(drawn.count())]
    near = min(range(len(best.pairs)), key=lambda i: best.pairs[i].distance)
    assert widths[near] == max(widths)


def test_the_choice_of_the_stream_changes_lines_heat_maps_and_parts(written, open_page):
    path, _, explanations = written
    page = open_page(path)
    first = page.locator("#clip-1")
    assert first.locator(".map rect:not(.matched)").count() == 2 * 8 * 8
    first.get_by_label("motion", exact=True).check()
    assert first.locator(".map rect:not(.matched)").count() == 2 * 7 * 7
    best = explanations[0].best.streams["motion"]
    drawn = first.locator(".pairing").first.locator("line")
    assert drawn.count() == len(best.pairs)
    for i, pair in enumerate(best.pairs):
        # Change k lies between the frames k and k + 1 of eight.
        ends = [float(drawn.nth(i).get_attribute(name)) for name in ("x1", "x2")]
        assert ends == [12.5 * (pair.query + 1), 12.5 * (pair.other + 1)]
    axis = first.locator(".map").first.locator("text.axis")
    assert "change of frames of " in axis.first.text_content()
    assert axis.nth(2).text_content() == "1→2"
    # By the keyboard, back again.
    page.keyboard.press("ArrowLeft")
    assert first.locator(".map rect:not(.matched)").count() == 2 * 8 * 8


def test_a_heat_map_has_the_distances_and_marks_the_matched_pairs(written, open_page):
    path, _, explanations = written
    page = open_page(path)
    stream = explanations[0].second.streams["appearance"]
    chart = page.locator("#clip-1 .map").nth(1)
    titles = chart.locator("rect title").all_text_contents()
    assert titles[8 * 2 + 5].startswith("3 and 6: ")
    assert float(titles[8 * 2 + 5].split(": ")[1]) == pytest.approx(stream.frames[2, 5], abs=0.006)
    assert chart.locator("rect.matched").count() == len(stream.pairs)


def test_the_bars_are_as_long_as_the_distances(written, open_page):
    path, predictions, _ = written
    page = open_page(path)
    rows = page.locator("#clip-1 .distances tr")
    ordered = sorted(predictions[0].distances.items(), key=lambda pair: pair[1])
    sizes = []
    for i, (name, distance) in enumerate(ordered):
        assert rows.nth(i).locator("th").text_content() == name
        assert rows.nth(i).locator("td.value").text_content() == f"{distance:.2f}"
        parts = rows.nth(i).locator(".track span")
        assert parts.count() == 2
        sizes.append(sum(parts.nth(k).bounding_box()["width"] for k in range(2)))
        assert rows.nth(i).locator(".limit").count() == 1
    for size, (_, distance) in zip(sizes, ordered, strict=True):
        assert size / sizes[0] == pytest.approx(distance / ordered[0][1], rel=0.03)


def test_a_link_of_the_summary_opens_its_clip(written, open_page):
    path, _, _ = written
    page = open_page(path)
    third = page.locator("#clip-3")
    assert third.get_attribute("open") is None
    assert third.locator("img").count() == 0
    page.locator("#table a").nth(2).click()
    third.locator(".pairing img").first.wait_for()
    assert third.get_attribute("open") is not None
    page.get_by_role("button", name="Close all").click()
    assert page.locator("details.clip[open]").count() == 0
    page.get_by_role("button", name="Open all").click()
    assert page.locator("details.clip[open]").count() == 10


def test_the_summary_is_sorted_and_filtered(written, open_page):
    path, predictions, _ = written
    page = open_page(path)

    def names():
        rows = page.locator("#table tbody tr:visible a")
        return [rows.nth(i).text_content() for i in range(rows.count())]

    def name(prediction):
        return prediction.name.removeprefix("new/")

    assert names() == [name(each) for each in predictions]
    page.get_by_role("button", name="Margin").click()
    ordered = sorted(predictions, key=lambda each: each.margin)
    assert names() == [name(each) for each in ordered]
    assert page.locator("th[aria-sort='ascending']").text_content() == "Margin"
    page.get_by_role("button", name="Margin").click()
    assert names() == [name(each) for each in ordered[::-1]]
    page.get_by_role("searchbox").fill("WAVE")
    assert names() == ["2 wave.mp4"]
    assert page.locator("#shown").text_content() == "1 of 10"
    assert page.locator("details.clip:visible").count() == 1


def test_the_examples_of_a_class_show_their_frames(written, open_page):
    path, _, _ = written
    page = open_page(path)
    details = page.locator("details.class").first
    details.locator("summary").click()
    page.wait_for_function("document.querySelector('details.class img').naturalWidth === 120")
    assert details.locator("img").count() == 3 * 8


def test_of_many_open_clips_those_near_the_screen_are_drawn_and_all_before_a_print(
    written, open_page
):
    path, _, _ = written
    page = open_page(path)
    page.get_by_role("button", name="Open all").click()
    drawn = page.locator(".visual[data-done]")
    page.wait_for_timeout(200)
    assert 1 <= drawn.count() < 10
    page.locator("#clip-10").scroll_into_view_if_needed()
    page.locator("#clip-10 .pairing img").first.wait_for()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert drawn.count() == 10


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(written, open_page, width):
    path, _, _ = written
    page = open_page(path, viewport={"width": width, "height": 800})
    page.get_by_role("button", name="Open all").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(written, open_page, scheme):
    path, _, _ = written
    page = open_page(path, color_scheme=scheme)
    program = """() => {
      const style = getComputedStyle(document.documentElement);
      const light = (name) => {
        const value = style.getPropertyValue(name).trim().slice(1);
        const parts = [0, 2, 4].map((i) => parseInt(value.slice(i, i + 2), 16) / 255)
          .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
      };
      const pairs = ["ink", "soft", "link", "right", "wrong", "s0", "s1"].map((x) => [x, "panel"]);
      return [...pairs, ["on-near", "near"], ["ink", "far"], ["ink", "warn"]].map(([a, b]) => {
        const [x, y] = [light("--" + a), light("--" + b)];
        return [a, (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05)];
      });
    }"""
    for name, contrast in page.evaluate(program):
        assert contrast >= 4.5, name


def test_whole_clip_methods_and_single_classes_have_pages(tmp_path, queries, open_page):
    single = classifier_of({"squat": [clip("a.mp4", "squat", timed=False)]})
    for name, classifier in (("protonet", gym("protonet")), ("single", single)):
        prediction = classifier.predict(queries[0])
        path = tmp_path / f"{name}.html"
        write_report(path, classifier, [prediction], [explain(classifier, prediction)])
        page = open_page(path)
        count = len(prediction.distances)
        assert page.locator("#clip-1 .distances tr").count() == count
        assert page.locator("#clip-1 .pairing").count() == min(2, count)
        compared = name == "single"
        assert (page.locator("#clip-1 line").count() > 0) == compared
        assert page.get_by_text("compares whole clips").count() == (0 if compared else 1)


def test_a_clip_without_explanation_shows_its_frames(tmp_path, classifier, queries, open_page):
    path = tmp_path / "page.html"
    write_report(path, classifier, [classifier.predict(queries[0])], [None])
    page = open_page(path)
    assert page.locator("#clip-1 .strip img").count() == 8
    assert page.locator("#clip-1 .distances tr").count() == 3
