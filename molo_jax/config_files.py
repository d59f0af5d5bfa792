"""Where a configuration is: a file of one's own, or one of those that come with the package.

`--config` takes the path of a file. Where there is no such file, it takes the name of a packaged
configuration: `ssv2_5shot`, `ssv2_5shot.py`, `configs/ssv2_5shot` and `configs/ssv2_5shot.py` name
the same one. Files of one's own come first: `ssv2_5shot` is looked for as `ssv2_5shot.py` in the
current folder, then in its folder `configs`, then in the package.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path

from molo_jax.errors import UsageError

_FOLDER = "configs"
_SUFFIX = ".py"
_PACKAGE = Path(__file__).parent


def packaged_folder() -> Path:
    """Returns the folder of the configurations: in the package, or beside it in a checkout."""
    inside = _PACKAGE / _FOLDER
    return inside if inside.is_dir() else _PACKAGE.parent / _FOLDER


def packaged_names() -> list[str]:
    """Returns the names of the configurations that come with the package."""
    return sorted(path.stem for path in packaged_folder().glob(f"*{_SUFFIX}"))


def find(given: str) -> str | None:
    """Returns the path of the file that is meant; None where there is none.

    Args:
        given: a path or a name, without a method behind a colon.
    """
    if Path(given).is_file():
        return given
    return next((str(path) for path in _candidates(Path(given)) if path.is_file()), None)


def located(given: str) -> str:
    """Returns the path of the file that is meant.

    Args:
        given: a path or a name, without a method behind a colon.

    Raises:
        UsageError: there is no such file; the message names the closest configurations, and all.
    """
    found = find(given)
    if found is not None:
        return found
    names = packaged_names()
    wrong = Path(given).name.removesuffix(_SUFFIX).casefold()
    begun = [name for name in names if wrong and name.startswith(wrong)]
    alike = difflib.get_close_matches(wrong, names, n=3, cutoff=0.6)
    close = list(dict.fromkeys([*begun, *alike]))[:3]
    meant = f"; did you mean {' or '.join(close)}?" if close else "."
    what = "is a folder" if given and Path(given).is_dir() else "does not exist"
    raise UsageError(
        f"configuration file {given!r} {what}{meant} Expected the path of a file, or the name of a"
        f" configuration of the package: {', '.join(names)}"
    )


def _candidates(given: Path) -> Iterator[Path]:
    """Yields where a configuration may be that was given by its name: one's own file first."""
    *folder, name = given.parts or ("",)
    file = f"{name.removesuffix(_SUFFIX)}{_SUFFIX}"
    if not name or folder not in ([], [_FOLDER]):
        return
    if not folder:
        yield Path(file)
    yield Path(_FOLDER) / file
    yield packaged_folder() / file
