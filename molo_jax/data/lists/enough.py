"""Whether the splits have enough classes and videos for the episodes asked, and what to do if not.

The same rules serve before the first frame is decoded, where the files that there are count, and
after the work, where those count that could be read.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from molo_jax.data.lists.directory import printable
from molo_jax.data.lists.division import DEFAULT_RATIO, Division, fitting_ratio, joined, share_out
from molo_jax.data.lists.splits import STANDARD_SPLITS
from molo_jax.data.store.records import Listed

COUNTS = ("listed", "found", "missing", "unreadable", "short", "usable")
_NAMED = 3
# The default ratio of a training without validation.
_WITHOUT_VAL = (DEFAULT_RATIO[0], 0, DEFAULT_RATIO[2])
# The flags that set the shots and the queries of a split's episodes.
EPISODE_FLAGS = {
    "train": ("train_n_shot", "train_n_query"),
    "val": ("train_n_shot", "n_query"),
    "test": ("n_shot", "n_query"),
}


@dataclasses.dataclass(frozen=True)
class Need:
    """The episodes that a split is for.

    Attributes:
        n_way: classes of an episode.
        n_shot: support videos of a class.
        n_query: query videos of a class.
    """

    n_way: int
    n_shot: int
    n_query: int

    @property
    def videos(self) -> int:
        """Videos that an episode takes from a class."""
        return self.n_shot + self.n_query

    @property
    def episode(self) -> str:
        """The shots and queries in words."""
        return f"{self.n_shot}-shot with {plural(self.n_query, 'query', 'queries')}"


@dataclasses.dataclass
class Counts:
    """Numbers of videos: found = listed - missing, usable = found - unreadable.

    Those with fewer frames than a clip, `short`, are usable: frames are repeated.
    """

    name: str = ""
    listed: int = 0
    missing: int = 0
    unreadable: int = 0
    short: int = 0

    @property
    def found(self) -> int:
        """Those that there is a file of."""
        return self.listed - self.missing

    @property
    def usable(self) -> int:
        """Those that clips can be made of."""
        return self.found - self.unreadable

    def add(self, other: "Counts") -> None:
        """Adds the numbers of another one."""
        self.listed += other.listed
        self.missing += other.missing
        self.unreadable += other.unreadable
        self.short += other.short

    def numbers(self) -> dict[str, int]:
        """All numbers by their names."""
        return {name: getattr(self, name) for name in COUNTS}


# The numbers of each class by the name of the split and the class number.
ClassCounts = Mapping[str, Mapping[int, Counts]]


def count_files(lists: Mapping[str, Sequence[Listed]], *, trust: bool = False) -> ClassCounts:
    """Counts the listed videos of each class, before any of their files is opened.

    Args:
        lists: the listed videos of each split with their files.
        trust: count those without a file as if there was one.
    """
    classes: dict[str, dict[int, Counts]] = {}
    for split, listed in lists.items():
        of_split = classes.setdefault(split, {})
        for video in listed:
            counts = of_split.setdefault(video.class_id, Counts(printable(video.class_name)))
            bad = bool(video.file) and not video.usable
            counts.add(Counts(listed=1, missing=not video.file and not trust, unreadable=bad))
    return classes


class Shortages:
    """What the splits lack for the episodes asked.

    Args:
        classes: the numbers of every class.
        needs: the episodes that each split is for.
        division: how one's own classes were divided; None for the lists of a benchmark.
    """

    def __init__(self, classes: ClassCounts, needs: Mapping[str, Need], division: Division | None):
        self._classes = classes
        self._needs = needs
        self._division = division
        self._narrow = [split for split in needs if len(classes[split]) < needs[split].n_way]
        self._poor = {
            split: [
                (class_id, counts)
                for class_id, counts in sorted(classes[split].items())
                if counts.usable < need.videos
            ]
            for split, need in needs.items()
        }

    def sentences(self) -> list[str]:
        """A sentence for each split and class that has not enough."""
        said = []
        for split, need in self._needs.items():
            if split in self._narrow:
                there = plural(len(self._classes[split]), "class", "classes")
                said.append(f"split {split} has {there}; {need.n_way}-way needs {need.n_way}")
            said += [_too_few_videos(split, *poor, need) for poor in self._poor[split]]
        return said

    def remedy(self) -> str:
        """What can be done about all of them, in flags with values that would do."""
        parts = [self._classes_remedy()] if self._narrow else []
        if any(self._poor.values()):
            parts.append(self._videos_remedy())
        return "; ".join(parts)

    def headline(self) -> str:
        """One line for people who have seen no report: what is lacking, and what to do."""
        if self._narrow:
            return self._too_few_classes()
        split = next(split for split, poor in self._poor.items() if poor)
        need, poor = self._needs[split], self._poor[split]
        named = ", ".join(
            f"{_title(class_id, counts.name)} has {counts.usable}"
            for class_id, counts in poor[:_NAMED]
        )
        more = f" and {len(poor) - _NAMED} more classes have too few" if len(poor) > _NAMED else ""
        return (
            f"{split} episodes ({need.episode}) need {need.videos} videos of a class:"
            f" {named}{more}; {self._videos_remedy()}"
        )

    def _too_few_classes(self) -> str:
        division, way = self._division, self._needs[self._narrow[0]].n_way
        there = _enumerate([f"{split} {len(self._classes[split])}" for split in self._needs])
        if division is None or division.ratio is None:
            lack = f"{way}-way episodes need {way} classes in every split: {there}"
            return f"{lack}; {self._classes_remedy()}"
        title = plural(division.total, "class", "classes")
        if fitting_ratio(division.total, division.ratio, way):
            lack = f"{title}, divided into {there}; {way}-way episodes need {way} in each"
            return f"{lack}: {self._classes_remedy()}"
        asked, verb = _asked(division), "is" if division.total == 1 else "are"
        each = f", {way} in each of {_enumerate(asked)}" if len(asked) > 1 else f" in {asked[0]}"
        to_train = " to train" if "train" in asked else ""
        lack = (
            f"{title} {verb} not enough{to_train}: {way}-way episodes need {way * len(asked)}{each}"
        )
        return f"{lack}; {self._classes_remedy()}"

    def _classes_remedy(self) -> str:
        division, way = self._division, self._needs[self._narrow[0]].n_way
        if division is None or division.ratio is None:
            widest = min(len(self._classes[split]) for split in self._needs)
            narrower = f", or use --n_way={widest}" if widest > 1 else ""
            return f"add classes to {_enumerate(self._narrow)}{narrower}"
        fits = fitting_ratio(division.total, division.ratio, way)
        if fits:
            return f"use --ratio={joined(fits)}"
        return self._too_few_to_divide(division, way)

    def _too_few_to_divide(self, division: Division, way: int) -> str:
        total, asked = division.total, _asked(division)
        choices = ["add classes"]
        if (widest := total // len(asked)) > 1:
            choices.append(f"use --n_way={widest}{_ratio_flag(division, widest)}")
        if len(asked) == 3 and (without_val := fitting_ratio(total, _WITHOUT_VAL, way)):
            choices.append(f"do without validation (--ratio={joined(without_val)})")
        if len(asked) > 1 and widest < 2 <= total:
            narrower = "" if total >= way else f" --n_way={total}"
            choices.append(f"only test a network that is trained (--ratio=0,0,1{narrower})")
        why = "" if len(asked) == 1 else "tested classes must be new ones: "
        return why + _enumerate(choices, ", ", " or ")

    def _videos_remedy(self) -> str:
        poor = [counts for classes in self._poor.values() for _, counts in classes]
        choices = []
        if any(counts.missing for counts in poor):
            choices.append("get the missing videos")
        if any(counts.unreadable for counts in poor):
            choices.append("replace the unreadable videos")
        choices = choices or ["add videos"]
        out = "take these classes out" if self._division else "take these classes out of the lists"
        choices.append(out)
        if flags := self._smaller_episodes():
            choices.append(f"use {' '.join(f'--{name}={value}' for name, value in flags.items())}")
        return _enumerate(choices, ", ", " or ")

    def _smaller_episodes(self) -> dict[str, int]:
        """Numbers of shots and queries that every class has enough videos for; {} without any."""
        flags: dict[str, int] = {}
        for split, poor in self._poor.items():
            if not poor or split not in EPISODE_FLAGS:
                continue
            least = min(counts.usable for _, counts in poor)
            if least < 2:
                return {}
            need, (shot, query) = self._needs[split], EPISODE_FLAGS[split]
            if split == "test":
                n_query = min(need.n_query, least - 1)
                numbers = {shot: least - n_query, query: n_query}
            else:
                n_shot = min(need.n_shot, least - 1)
                numbers = {shot: n_shot, query: least - n_shot}
            asked = {shot: need.n_shot, query: need.n_query}
            for name, value in numbers.items():
                if value < asked[name]:
                    flags[name] = min(value, flags.get(name, value))
        return flags


def episode_verdict(splits: Sequence[str]) -> str:
    """That the splits that there are have enough, and what cannot be done without the others."""
    lost = {"train": "trained", "val": "validated", "test": "tested"}
    absent = [split for split in STANDARD_SPLITS if split not in splits]
    if not absent:
        return "every class has enough videos for the episodes asked"
    return (
        f"every class of {_enumerate(list(splits))} has enough videos for the episodes asked;"
        f" without {_enumerate(absent)} nothing is"
        f" {_enumerate([lost[split] for split in absent], ', ', ' or ')}"
    )


def plural(count: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{count} {one if count == 1 else many}"


def _asked(division: Division) -> list[str]:
    """The splits that a ratio gives a share to."""
    shares = zip(STANDARD_SPLITS, division.ratio, strict=True)
    return [split for split, share in shares if share]


def _ratio_flag(division: Division, n_way: int) -> str:
    """The flag that a smaller episode needs beside it; a default ratio fits itself."""
    fits = fitting_ratio(division.total, division.ratio, n_way)
    if division.ratio == DEFAULT_RATIO or fits == share_out(division.total, division.ratio):
        return ""
    return f" --ratio={joined(fits)}"


def _too_few_videos(split: str, class_id: int, counts: Counts, need: Need) -> str:
    lost = "" if counts.usable == counts.listed else f" of {counts.listed} listed"
    videos = plural(counts.usable, "usable video", "usable videos")
    return (
        f"class {class_title(class_id, counts.name)} of split {split} has {videos}{lost};"
        f" {need.episode} needs {need.videos}"
    )


def class_title(class_id: int, name: str) -> str:
    """A class for people: its number in the list, and its name where that is known."""
    return f"{class_id} ({name})" if name else str(class_id)


def _title(class_id: int, name: str) -> str:
    return repr(name) if name else f"class {class_id}"


def _enumerate(parts: Sequence[str], comma: str = ", ", last: str = " and ") -> str:
    return last.join(filter(None, [comma.join(parts[:-1]), parts[-1]]))
