"""Pages in a real browser: collected only where there is one."""

import os

import pytest
from browsers import chromium

collect_ignore_glob = [] if chromium() else ["*"]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium(),
            args=[
                # The sandbox needs a user other than root, and a container may have no /dev/shm.
                *("--no-sandbox", "--disable-dev-shm-usage"),
                # A moving test picture for a camera, which pages may use without being asked.
                *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
            ],
            env={**os.environ, "LANG": "en_US.UTF-8"},
        )
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Opens a file; at the end the page must have asked for nothing else and said no error."""
    contexts, problems = [], []

    def show(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        address = path.as_uri()

        def check(request):
            if not request.url.startswith((address, "data:")):
                problems.append(f"asked for {request.url}")

        page.on("request", check)
        page.goto(address)
        return page

    yield show
    for context in contexts:
        context.close()
    assert problems == []
