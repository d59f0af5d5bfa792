"""Which classes go into which split: by a seeded ratio, as many as the episodes need."""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from molo_jax.data.lists.directory import printable
from molo_jax.data.lists.splits import STANDARD_SPLITS
from molo_jax.errors import UsageError

Ratio = tuple[int, int, int]
# Of the classes of SSv2 and Kinetics.
DEFAULT_RATIO: Ratio = (64, 12, 24)
# Characters of names that a line of the console shows.
_LINE = 100


@dataclasses.dataclass(frozen=True)
class Division:
    """How one's own classes got into their splits.

    Attributes:
        by: what decided: "ratio", "folders" of splits, a "split_file", or "lists".
        classes: the names of each split's classes.
        ratio: the shares of train, val and test, where a ratio decided.
        seed: of that division.
        instead_of: how many classes the default ratio would have given to the three splits, where
            these were too few for the episodes and `ratio` was chosen for that reason.
    """

    by: Literal["ratio", "folders", "split_file", "lists"]
    classes: Mapping[str, tuple[str, ...]]
    ratio: Ratio | None = None
    seed: int = 0
    instead_of: Ratio | None = None

    @property
    def total(self) -> int:
        """Number of all classes."""
        return sum(map(len, self.classes.values()))

    @property
    def divider(self) -> str:
        """What decided, in words and in the plural."""
        return {
            "ratio": "the shares of the ratio",
            "folders": "the folders",
            "split_file": "the rows of the split file",
            "lists": "the lists",
        }[self.by]

    def to_json(self) -> dict[str, Any]:
        """All of it, ready for `json.dumps`."""
        names = {split: list(map(printable, names)) for split, names in self.classes.items()}
        how = {"ratio": self.ratio, "seed": self.seed} if self.ratio else {}
        return {"by": self.by, **how, "classes": names}

    def format(self) -> str:
        """The classes of each split for the console, with the first names where there are many."""
        lines = [self._title()]
        for split, names in self.classes.items():
            lines.append(f"  {split} ({len(names)}): {_shorten(list(map(printable, names)))}")
        return "\n".join(lines)

    def _title(self) -> str:
        if self.ratio is None:
            return f"classes of the splits, by {self.divider}:"
        title = f"classes of the splits, by --ratio={joined(self.ratio)} and --seed={self.seed}"
        if self.instead_of:
            usual = f"{joined(DEFAULT_RATIO)} would give {joined(self.instead_of)} classes"
            title += f" ({usual}, too few for an episode)"
        return f"{title}:"


def divide(classes: Iterable[str], ratio: Ratio, seed: int) -> dict[str, str]:
    """Divides classes into train, val and test.

    The classes are put in an order that depends on the seed and their names only (that of the
    SHA-256 of both), and cut where the ratio says, rounded by largest remainders. A split with a
    positive share gets at least one class, if there are enough.

    Returns:
        The split of each class.

    Raises:
        UsageError: the ratio is not three numbers of which one is positive.
    """
    if len(ratio) != 3 or min(ratio) < 0 or not sum(ratio):
        raise UsageError(f"the ratio is {ratio!r}; expected three numbers such as (64, 12, 24)")

    def place(name: str) -> bytes:
        text = f"{seed}/{unicodedata.normalize('NFC', name)}"
        return hashlib.sha256(text.encode()).digest()

    order = sorted(classes, key=place)
    counts = zip(STANDARD_SPLITS, share_out(len(order), ratio), strict=True)
    splits = [split for split, count in counts for _ in range(count)]
    return dict(zip(order, splits, strict=True))


def share_out(total: int, ratio: Ratio) -> Ratio:
    """How many of `total` classes each split gets: largest remainders, none empty if possible."""
    counts = _largest_remainders(total, ratio)
    for k in range(3):
        if ratio[k] and not counts[k] and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[k] += 1
    return tuple(counts)


def fitting_ratio(total: int, ratio: Ratio, n_way: int) -> Ratio | None:
    """The numbers of classes nearest to a ratio that leave an episode's classes in every split.

    Args:
        total: number of classes.
        ratio: shares of train, val and test; a split with a share of 0 stays empty.
        n_way: classes of an episode, which every other split must have.

    Returns:
        Three numbers whose sum is `total`; those that the ratio gives where they are enough. None
        if there are too few classes.
    """
    if total < n_way * sum(share > 0 for share in ratio):
        return None
    counts = share_out(total, ratio)
    # What a split lacks is taken from the others in proportion, after which one of them may lack.
    fixed: set[int] = set()
    while lacking := {k for k in range(3) if ratio[k] and counts[k] < n_way}:
        fixed |= lacking
        free = [0 if k in fixed else share for k, share in enumerate(ratio)]
        others = _largest_remainders(total - n_way * len(fixed), free)
        counts = tuple(n_way if k in fixed else others[k] for k in range(3))
    return counts


def _largest_remainders(total: int, ratio: Sequence[int]) -> list[int]:
    """Divides a number in proportion; the sum of the ratio is positive."""
    whole = sum(ratio)
    counts = [total * share // whole for share in ratio]
    by_remainder = sorted(range(3), key=lambda k: -(total * ratio[k] % whole))
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    return counts


def joined(numbers: Iterable[int]) -> str:
    """Writes a ratio as the flag takes it, such as 64,12,24."""
    return ",".join(map(str, numbers))


def _shorten(names: list[str]) -> str:
    """As many of the names as a line takes, and how many more there are."""
    shown = len(names)
    while shown > 1 and len(", ".join(names[:shown])) > _LINE:
        shown -= 1
    more = f" and {len(names) - shown} more" if shown < len(names) else ""
    return ", ".join(names[:shown]) + more
