"""What became of the listed videos, per split and class, and whether that is enough."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from molo_jax.data.lists.division import Division
from molo_jax.data.lists.enough import (
    COUNTS,
    Counts,
    Need,
    Shortages,
    class_title,
    episode_verdict,
    plural,
)
from molo_jax.data.lists.finder import printable

# Files that are named for each reason why some are in no list.
_EXAMPLES = 3


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


class Report:
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
        self.division: Division | None = None
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

    def explain(self, division: Division | None) -> None:
        """Notes how one's own classes got into their splits."""
        self.division = division

    def to_json(self) -> dict[str, Any]:
        """All numbers, and every problem with its file and reason, ready for `json.dumps`."""
        return {
            "dataset": self.dataset,
            **({"division": self.division.to_json()} if self.division else {}),
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

    def format(self, limit: int = 10, whole: str = "--report=FILE") -> str:
        """The report for the console, with at most `limit` lines of each kind.

        Args:
            limit: that number.
            whole: where all lines are, for the reader of a shortened list.
        """
        # A few unreadable files must not be lost among thousands of missing ones.
        problems = [s for status in ("unreadable", "missing") for s in self._with_status(status)]
        notes = [(s, note) for s in self.states if (note := self._note(s))]
        sections = [
            _table([("split", *COUNTS, "classes", "enough"), *map(self._row, self.classes)]),
            _section("classes with losses", self._loss_lines(), limit, whole),
            _section(
                "videos that cannot be used",
                [f"{_place(s)}: {printable(s.reason or s.status)}" for s in problems],
                limit,
                whole,
            ),
            self._left_out_section(limit, whole),
            _section("notes", [f"{_place(s)}: {note}" for s, note in notes], limit, whole),
            self._verdict(limit, whole),
        ]
        return "\n\n".join(filter(None, (f"{self.dataset}:", *sections)))

    def too_few(self) -> list[str]:
        """A sentence for each split and class that has not enough for the episodes asked."""
        return self.shortages().sentences()

    def shortages(self) -> Shortages:
        """What the splits lack for the episodes asked."""
        return Shortages(self.classes, self.needs, self.division)

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
            frames = plural(state.frames, "frame", "frames")
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
            if counts.usable < counts.listed
        ]
        return [
            f"{split} {class_title(class_id, counts.name)}: {counts.usable} of {counts.listed}"
            f" usable ({_losses(counts)})"
            f"{'' if enough else ', TOO FEW'}"
            for enough, _, split, class_id, counts in sorted(rows, key=lambda row: row[:4])
        ]

    def _left_out_section(self, limit: int, whole: str) -> str:
        """The files in no list by reason: how many, and the first few."""
        groups: dict[str, list[str]] = {}
        for file, reason in self.left_out.items():
            # What follows differs from file to file.
            groups.setdefault(printable(reason).partition(";")[0], []).append(printable(file))
        lines = [
            f"{len(files)} × {reason}: {', '.join(files[:_EXAMPLES])}"
            f"{', …' if len(files) > _EXAMPLES else ''}"
            for reason, files in sorted(groups.items(), key=lambda group: -len(group[1]))
        ]
        text = _section("in no list", lines, limit, whole, total=len(self.left_out))
        more = any(len(files) > _EXAMPLES for files in groups.values())
        return f"{text}\n  all of them: {whole}" if more else text

    def _verdict(self, limit: int, whole: str) -> str:
        if not self.needs:
            return ""
        shortages = self.shortages()
        sentences = shortages.sentences()
        if not sentences:
            return episode_verdict(tuple(self.needs))
        title = "not enough for the episodes asked"
        return f"{_section(title, sentences, limit, whole)}\n  what to do: {shortages.remedy()}"


def _losses(counts: Counts) -> str:
    lost = {"missing": counts.missing, "unreadable": counts.unreadable}
    return ", ".join(f"{count} {what}" for what, count in lost.items() if count)


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


def _section(
    title: str, lines: Sequence[str], limit: int, whole: str, total: int | None = None
) -> str:
    if not lines:
        return ""
    shown = [f"  {line}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"  … and {len(lines) - limit} more, see {whole}")
    return "\n".join([f"{title} ({len(lines) if total is None else total}):", *shown])
