"""What the pages of the documentation say is what the package has."""

import re
from pathlib import Path

import pytest
from test_imports import ROOMS

from molo_jax.benchmarks import BENCHMARKS
from molo_jax.config import base_config, config_keys
from molo_jax.methods.settings import METHODS, Settings, own_fields

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "parity_tests/README.md",
]
_FENCED = re.compile(r"^```.*?^```", re.M | re.S)
_SPAN = re.compile(r"`([^`\n]+)`")
# Where a page may mean a file to be.
_FOLDERS = ("", "molo_jax", "parity_tests")


def prose(page):
    return _FENCED.sub("", page.read_text())


def spans(page):
    return _SPAN.findall(prose(page))


def anchors(page):
    """Returns the addresses of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(page, title):
    """Returns the text below the heading that begins with a title, up to the next heading."""
    found = re.search(rf"^## {re.escape(title)}.*?(?=^## |\Z)", page.read_text(), re.M | re.S)
    assert found, f"{page.name} has no section {title}"
    return found[0]


def rows(text):
    """Returns the cells of the rows of the tables, without the headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-: ")]


def test_the_readme_is_short_and_names_every_page():
    assert len(README.read_text().splitlines()) <= 150
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", README.read_text()))
    assert linked == {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for address in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if address.startswith("https://"):
            continue
        file, _, heading = address.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), address
        assert not heading or heading in anchors(target), address


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_file_and_key_exists(page):
    keys = {key for name in METHODS for key in config_keys(base_config(name))}
    for span in spans(page):
        if re.fullmatch(r"[\w/]+\.py", span):
            assert any((ROOT / folder / span).is_file() for folder in _FOLDERS), span
        key = re.fullmatch(
            r"(?:--)?(?:config\.)?((?:model|method|data|augment|train|optimizer|eval)\.\w+)(=.*)?",
            span,
        )
        if key and not (ROOT / "molo_jax" / key[1].replace(".", "/")).is_dir():
            assert key[1] in keys, span


def test_the_table_of_methods_is_the_package_s():
    listed = [row[0] for row in rows(section(README, "Choosing a method"))[1:]]
    assert listed == [f"`{name}`" for name in METHODS]
    table = [row[0] for row in rows(prose(ROOT / "docs/methods.md"))[1:8]]
    assert table == listed


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_methods_names_every_setting_and_every_term_of_the_loss(name):
    text = section(ROOT / "docs/methods.md", f"`{name}`")
    known = METHODS[name]
    parent = known.__mro__[1]
    inherited = {} if parent is Settings else own_fields(parent) | dict(parent.losses)
    named = set(_SPAN.findall(text))
    wanted = (own_fields(known).keys() | set(known.losses)) - inherited.keys()
    assert wanted <= named
    frames = next(r for r in rows(prose(ROOT / "docs/methods.md")) if r[0] == f"`{name}`")[3]
    least, most = known.least_frames, known.most_frames
    assert frames == (f"{least} to {most}" if most else "any number")


def test_the_table_of_benchmarks_has_the_numbers_of_their_lists():
    table = rows(section(README, "The five benchmarks"))[1:]
    assert len(table) == len(BENCHMARKS)
    for row, (name, benchmark) in zip(table, BENCHMARKS.items(), strict=True):
        assert f"`{name}`" in row[0]
        assert row[1] == f"`{name}_1shot`, `{name}_5shot`"
        sizes = [benchmark.lists[split].size for split in ("train", "val", "test")]
        assert row[2] == ", ".join(f"{size.videos:,}" for size in sizes)
        assert row[3] == ", ".join(str(size.classes) for size in sizes)


def test_the_table_of_rooms_is_the_one_that_is_enforced():
    table = rows(section(ROOT / "docs/architecture.md", "The rooms"))[1:-1]
    described = {row[0].strip("`"): set(_SPAN.findall(row[2])) for row in table}
    enforced = {
        room: {name.removeprefix("molo_jax.") for name in may} for room, may in ROOMS.items()
    }
    assert described == enforced
