"""What became of the listed videos, per split and class, and whether that is enough."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from molo_jax.data.finder import printable

_COUNTS = ("listed", "found", "missing", "unreadable", "short", "usable")


@dataclasses.dataclass(frozen=True)
class VideoState:
    """A listed video.

    Attributes:
        split: the name of its list.
        class_id: the class number in the list.
        class_name: the name of the class, or an empty string.
        name: the video as the list names it.
        file: its path; empty for a missing one.
        status: "good", "missing" or "unreadable".
        frames: number of frames of a good one, where that is known.
        reason: why it is not good.
        note: a remark.
    """

    split: str
    class_id: int
    class_name: str
    name: str
    file: str
    status: Literal["good", "missing", "unreadable"]
    frames: int | None
    reason: str = ""
    note: str = ""


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
        return {name: getattr(self, name) for name in _COUNTS}


class Survey:
    """What became of the listed videos.

    Args:
        dataset: the name of the data set.
        states: all listed videos.
        needs: the episodes that each split is for; splits in it without videos count as empty.
        short_below: frames of a clip; a video with fewer is short.
    """

    def __init__(
        self,
        dataset: str,
        states: Iterable[VideoState],
        needs: Mapping[str, Need],
        short_below: int,
    ):
        self.dataset = dataset
        self.needs = needs
        self.short_below = short_below
        self.states = tuple(states)
        self.left_out: dict[str, str] = {}
        self.classes: dict[str, dict[int, Counts]] = {}
        for state in self.states:
            classes = self.classes.setdefault(state.split, {})
            counts = classes.setdefault(state.class_id, Counts(printable(state.class_name)))
            counts.add(self._count(state))
        for split in needs:
            self.classes.setdefault(split, {})

    def has_losses(self) -> bool:
        """Whether any listed video is not usable."""
        return any(state.status != "good" for state in self.states)

    def leave_out(self, files: Mapping[str, str]) -> None:
        """Notes files that are in no list, with the reasons."""
        self.left_out = dict(files)

    def to_json(self) -> dict[str, Any]:
        """All numbers, and every problem with its file and reason, ready for `json.dumps`."""
        return {
            "dataset": self.dataset,
            "splits": {split: self._split_json(split) for split in self.classes},
            "problems": [
                _place_json(state) | {"reason": printable(state.reason)}
                for state in self.states
                if state.status != "good"
            ],
            "left_out": [
                {"file": printable(file), "reason": printable(reason)}
                for file, reason in self.left_out.items()
            ],
            "notes": [
                _place_json(state) | {"note": note}
                for state in self.states
                if (note := self._note(state))
            ],
        }

    def format(self, limit: int = 10) -> str:
        """The report for the console, with at most `limit` lines of each kind."""
        # A few unreadable files must not be lost among thousands of missing ones.
        problems = [s for status in ("unreadable", "missing") for s in self._with_status(status)]
        notes = [(s, note) for s in self.states if (note := self._note(s))]
        sections = [
            _table([("split", *_COUNTS, "classes", "enough"), *map(self._row, self.classes)]),
            _section("classes with losses", self._loss_lines(), limit),
            _section(
                "videos that cannot be used",
                [f"{_place(s)}: {printable(s.reason or s.status)}" for s in problems],
                limit,
            ),
            _section(
                "in no list",
                [f"{printable(f)}: {printable(r)}" for f, r in self.left_out.items()],
                limit,
            ),
            _section("notes", [f"{_place(s)}: {note}" for s, note in notes], limit),
            self._verdict(limit),
        ]
        return "\n\n".join(filter(None, (f"{self.dataset}:", *sections)))

    def too_few(self) -> list[str]:
        """A sentence for each split and class that has not enough for the episodes asked."""
        sentences = []
        for split, need in self.needs.items():
            classes = self.classes[split]
            if len(classes) < need.n_way:
                sentences.append(
                    f"split {split} has {_plural(len(classes), 'class', 'classes')};"
                    f" {need.n_way}-way needs {need.n_way}"
                )
            sentences += [
                _too_few_videos(split, class_id, counts, need)
                for class_id, counts in sorted(classes.items())
                if not self._is_enough(split, counts)
            ]
        return sentences

    def _count(self, state: VideoState) -> Counts:
        return Counts(
            listed=1,
            missing=state.status == "missing",
            unreadable=state.status == "unreadable",
            short=self._is_short(state),
        )

    def _with_status(self, status: str) -> list[VideoState]:
        return [state for state in self.states if state.status == status]

    def _is_short(self, state: VideoState) -> bool:
        known = state.status == "good" and state.frames is not None
        return known and state.frames < self.short_below

    def _note(self, state: VideoState) -> str:
        notes = [printable(state.note)] if state.note else []
        if self._is_short(state):
            frames = _plural(state.frames, "frame", "frames")
            notes.append(
                f"{frames}, fewer than the {self.short_below} of a clip: some are repeated"
            )
        return "; ".join(notes)

    def _is_enough(self, split: str, counts: Counts) -> bool:
        need = self.needs.get(split)
        return need is None or counts.usable >= need.videos

    def _is_split_enough(self, split: str) -> bool:
        need, classes = self.needs.get(split), self.classes[split]
        ways = need is None or len(classes) >= need.n_way
        return ways and all(self._is_enough(split, counts) for counts in classes.values())

    def _total(self, split: str) -> Counts:
        total = Counts()
        for counts in self.classes[split].values():
            total.add(counts)
        return total

    def _split_json(self, split: str) -> dict[str, Any]:
        need = self.needs.get(split)
        return {
            **self._total(split).numbers(),
            "classes": {
                str(class_id): {
                    "name": counts.name,
                    **counts.numbers(),
                    "enough": self._is_enough(split, counts),
                }
                for class_id, counts in sorted(self.classes[split].items())
            },
            "needs": dataclasses.asdict(need) if need else None,
            "enough": self._is_split_enough(split),
        }

    def _row(self, split: str) -> tuple[str, ...]:
        numbers = map(str, self._total(split).numbers().values())
        enough = "yes" if self._is_split_enough(split) else "NO"
        return split, *numbers, str(len(self.classes[split])), enough

    def _loss_lines(self) -> list[str]:
        """A line for each class that lost videos: those with too few first, then by loss."""
        rows = [
            (self._is_enough(split, counts), counts.usable - counts.listed, split, class_id, counts)
            for split, classes in self.classes.items()
            for class_id, counts in classes.items()
            if counts.usable < counts.listed or not self._is_enough(split, counts)
        ]
        return [
            f"{split} {_class_title(class_id, counts.name)}: {counts.usable} of {counts.listed}"
            f" usable ({counts.missing} missing, {counts.unreadable} unreadable)"
            f"{'' if enough else ', TOO FEW'}"
            for enough, _, split, class_id, counts in sorted(rows, key=lambda row: row[:4])
        ]

    def _verdict(self, limit: int) -> str:
        if not self.needs:
            return ""
        sentences = self.too_few()
        if not sentences:
            return "every class has enough videos for the episodes asked"
        return (
            f"{_section('not enough for the episodes asked', sentences, limit)}\n"
            "  get the missing videos, take these classes out of the lists, or ask for episodes of"
            " fewer ways, shots or queries (--n_way, --n_shot, …); one's own classes are divided by"
            " --ratio"
        )


def _too_few_videos(split: str, class_id: int, counts: Counts, need: Need) -> str:
    lost = "" if counts.usable == counts.listed else f" of {counts.listed} listed"
    videos = _plural(counts.usable, "usable video", "usable videos")
    return (
        f"class {_class_title(class_id, counts.name)} of split {split} has {videos}{lost};"
        f" {need.n_shot}-shot with {_plural(need.n_query, 'query', 'queries')} needs {need.videos}"
    )


def _class_title(class_id: int, name: str) -> str:
    return f"{class_id} ({name})" if name else str(class_id)


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _place(state: VideoState) -> str:
    return f"{state.split} {state.class_id} {printable(state.file or state.name)}"


def _place_json(state: VideoState) -> dict[str, Any]:
    return {
        "split": state.split,
        "class": state.class_id,
        "video": printable(state.name),
        "file": printable(state.file),
    }


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )
    return "\n".join(f"  {line}" for line in lines)


def _section(title: str, lines: Sequence[str], limit: int) -> str:
    if not lines:
        return ""
    shown = [f"  {line}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"  … and {len(lines) - limit} more, see --report=FILE")
    return "\n".join([f"{title} ({len(lines)}):", *shown])
