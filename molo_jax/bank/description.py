"""What a bank says of itself: `bank.json`, and `bad.json` of the videos that are not usable."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from molo_jax.errors import MoloError, shortened
from molo_jax.files import parse_json, read_json
from molo_jax.prediction.container import DTYPES, DamagedError
from molo_jax.prediction.trees import describe, leaves_of

FORMAT, VERSION = "molo_jax feature bank", 1
DESCRIPTION, BAD = "bank.json", "bad.json"

Features = Any
# The place of a video: position of its class, and its position within the class.
Place = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the files of a bank look like.

    Attributes:
        structure: of the features, see :func:`molo_jax.prediction.trees.describe`.
        leaves: type and shape of each array of one clip's features.
        class_sizes: number of listed videos of each class.
    """

    structure: Any
    leaves: tuple[tuple[str, tuple[int, ...]], ...]
    class_sizes: tuple[int, ...]

    @classmethod
    def of(cls, like: Features, class_sizes: tuple[int, ...]) -> "Layout":
        """Returns the layout for features such as these, of any number of clips.

        Raises:
            MoloError: the features have a structure or a type that a bank cannot hold.
        """
        try:
            structure, arrays = describe(like)
        except ValueError as error:
            raise MoloError(f"features cannot be kept on disk: {error}") from error
        for array in arrays:
            if array.dtype.str not in DTYPES:
                raise MoloError(
                    f"features of the type {array.dtype} cannot be kept on disk; expected one of"
                    f" {', '.join(sorted(DTYPES))}"
                )
        leaves = tuple((array.dtype.str, array.shape[1:]) for array in arrays)
        return cls(structure, leaves, tuple(class_sizes))

    def rows(self, classes: Any, videos: Any, draws: Any = 0) -> Int[np.ndarray, "..."]:
        """Returns the rows of clips; arrays of positions and of numbers of draws are broadcast."""
        classes, videos, draws = map(np.asarray, (classes, videos, draws))
        return draws * self.videos + self._offsets[classes] + videos

    def places(self, rows: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns class positions, video positions and numbers of the draws of rows."""
        draws, within = np.divmod(np.asarray(rows, np.int64), self.videos)
        classes = np.searchsorted(self._offsets, within, side="right") - 1
        return classes, within - self._offsets[classes], draws

    @functools.cached_property
    def _offsets(self) -> Int[np.ndarray, "c"]:
        return np.concatenate([[0], np.cumsum(self.class_sizes)]).astype(np.int64)

    @property
    def videos(self) -> int:
        """Number of listed videos of all classes."""
        return sum(self.class_sizes)

    @property
    def bytes_of_a_clip(self) -> int:
        """Bytes of the features of one clip."""
        return sum(np.dtype(kind).itemsize * int(np.prod(shape)) for kind, shape in self.leaves)

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON."""
        leaves = [{"dtype": kind, "shape": list(shape)} for kind, shape in self.leaves]
        sizes = list(self.class_sizes)
        return {"structure": self.structure, "leaves": leaves, "class_sizes": sizes}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Layout":
        """Undoes `to_json`.

        Raises:
            DamagedError: it is none.
        """
        leaves = tuple((each["dtype"], tuple(each["shape"])) for each in stored["leaves"])
        sizes = tuple(stored["class_sizes"])
        numbers = [*sizes, *(side for _, shape in leaves for side in shape)]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise DamagedError("a size is no whole number of at least 0")
        if any(kind not in DTYPES for kind, _ in leaves):
            raise DamagedError("the type of an array is not known")
        if leaves_of(stored["structure"]) != len(leaves):
            raise DamagedError("its structure has another number of arrays")
        return cls(stored["structure"], leaves, sizes)


def remedy(folder: Path) -> str:
    """Says what to do with a damaged bank, as the end of a message."""
    return f"remove that folder (rm -r {folder}); the features are computed anew then"


@contextlib.contextmanager
def damage(folder: Path) -> Iterator[None]:
    """Names the bank, and what to do, in the error of a damaged file."""
    try:
        yield
    except DamagedError as error:
        raise MoloError(
            f"the bank of features {folder} is damaged: {error}; {remedy(folder)}"
        ) from error
    except OSError as error:
        raise MoloError(f"the bank of features {folder} cannot be read: {error}") from error


def described(folder: Path) -> dict[str, Any] | None:
    """Reads what a bank says of itself; None where there is none.

    Raises:
        MoloError: it is damaged.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        return None
    content = read_json(path, remedy(folder))
    with damage(folder):
        try:
            return _checked(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, DamagedError):
                raise
            reason = f"{type(error).__name__}: {shortened(str(error))}"
            raise DamagedError(f"{DESCRIPTION} is no description of one ({reason})") from error


def _checked(content: Any) -> dict[str, Any]:
    found = content["format"], content["version"]
    if found != (FORMAT, VERSION):
        raise DamagedError(f"{DESCRIPTION} is of {found}, expected {(FORMAT, VERSION)}")
    draws, growing = content["draws"], content["growing"]
    if type(draws) is not int or type(growing) is not int or not 0 <= draws <= growing:
        raise DamagedError(f"{DESCRIPTION} says draws {draws!r}, growing {growing!r}")
    if not isinstance(content["key"], dict) or not isinstance(content["about"], dict):
        raise DamagedError(f"{DESCRIPTION} does not say what the features are of")
    names = ("key", "about", "draws", "growing")
    return {name: content[name] for name in names} | {"layout": Layout.from_json(content)}


def read_bad(path: Path, class_sizes: tuple[int, ...]) -> dict[Place, str]:
    """Reads the videos that are not usable, with the reasons.

    Raises:
        DamagedError: the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        content = parse_json(path.read_bytes())
        bad = {(c, v): reason for c, v, reason in content["videos"]}
        known = all(
            type(c) is int
            and type(v) is int
            and 0 <= c < len(class_sizes)
            and 0 <= v < class_sizes[c]
            and isinstance(reason, str)
            for (c, v), reason in bad.items()
        )
        if not known:
            raise ValueError("a video that the list does not have")
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path.name} is no list of videos ({error})") from error
    return bad
