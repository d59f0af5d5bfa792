"""Which browser the tests of pages use."""

import os
import shutil

# Names that Chromium has on the systems; playwright's own build would have to be fetched.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Returns the path of a Chromium; None where there is none."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


def browser_line() -> str:
    """Says which browser the tests use, or that they are left out."""
    path = chromium()
    if path is None:
        return f"browser: none of {', '.join(_NAMES)} is on the PATH; tests/browser is left out"
    return f"browser: {os.path.realpath(path)}"
