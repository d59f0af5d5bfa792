"""What one user of the page has: classes, a clip, and an answer; it knows no browser."""

import contextlib
import dataclasses
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from molo_jax.data.video.containers import BadVideoError
from molo_jax.data.video.decode import one_video, probe
from molo_jax.errors import MoloError
from molo_jax.prediction.archive import check_features, read_archive
from molo_jax.prediction.classifier import Classifier
from molo_jax.prediction.clips import identify, read_clip, spelled_time
from molo_jax.prediction.embedder import EmbeddedClip, Embedder
from molo_jax.prediction.given import AUTO
from molo_jax.prediction.results import UNKNOWN, Prediction

# Characters that the name of a class may have in a page.
LONGEST_NAME = 60
# Writes a page that explains a prediction of a classifier to a path.
Explainer = Callable[[Classifier, Prediction, Path], None]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one user may ask for.

    Attributes:
        megabytes: size of one file.
        seconds: length of one clip.
        clips: number of clips of all classes.
        reading_seconds: time limit for the decoding of one clip.
    """

    megabytes: int = 200
    seconds: float = 60.0
    clips: int = 500
    reading_seconds: float = 60.0


class PageSession:
    """The classes and the clip of one user; no other user sees them.

    Features and small pictures are kept in memory, videos are not kept at all.

    Args:
        embedder: the network, which all users share.
        limits: what is refused.
        unknown: when a clip is *none of these*, see `Classifier`.

    Attributes:
        classifier: with the classes of the user.
        clip: the clip that was asked about last; None before the first.
        prediction: what the classifier says of it; None without a clip or without classes.
        recorded: recordings whose files have to be removed.
    """

    def __init__(self, embedder: Embedder, limits: Limits, unknown: str | float = AUTO):
        # Nothing of a visitor stays on the disk, so there is no cache.
        self.classifier = Classifier(embedder, unknown=unknown, cache=None)
        self.clip: EmbeddedClip | None = None
        self.prediction: Prediction | None = None
        self._limits = limits
        self.recorded: list[str] = []
        self._recordings = 0
        # Files that the user was given to download, each in a folder of its own, by their names.
        self._offered: dict[str, Path] = {}
        # Gradio forgets a visitor without a word where there are too many.
        weakref.finalize(self, _remove_folders, self._offered)

    @property
    def classes(self) -> dict[str, list[EmbeddedClip]]:
        """The clips of each class."""
        return self.classifier.support

    def add(
        self,
        name: str,
        files: Sequence[str | os.PathLike[str]],
        step: Callable[[int], None] = lambda _: None,
    ) -> list[str]:
        """Adds clips to a class, which is made if there is none of this name.

        Args:
            name: of the class.
            files: the videos.
            step: is told the number of clips that are done, before each.

        Returns:
            A sentence for each clip that was left out.

        Raises:
            MoloError: the name cannot be that of a class, or there are no or too many files.
        """
        name = checked_name(name)
        if not files:
            raise MoloError(
                f"There is no clip to add to “{name}”: drop videos into the field first."
            )
        self._check_room(sum(map(len, self.classes.values())) + len(files))
        found, problems = [], []
        for number, file in enumerate(files):
            step(number)
            try:
                found.append(self._read(file))
            except MoloError as error:
                problems.append(said(error, file))
        return problems + self._take(name, found)

    def add_clip(self, name: str) -> list[str]:
        """Adds the clip that was asked about last to a class.

        Returns:
            A sentence where it was left out.

        Raises:
            MoloError: the name cannot be that of a class, or there is no clip.
        """
        name = checked_name(name)
        if self.clip is None:
            raise MoloError("There is no clip yet: drop or record one first.")
        return self._take(name, [self.clip])

    def remove(self, name: str) -> None:
        """Removes a class."""
        if name in self.classes:
            self.classifier.remove_class(name)
        self._predict()

    def ask(self, file: str | os.PathLike[str], *, recorded: bool = False) -> None:
        """Reads a clip and predicts its class.

        Args:
            file: the video.
            recorded: whether it is a recording, which gets a number for its name.

        Raises:
            MoloError: it cannot be used, in a sentence for the user; the clip of before stays.
        """
        try:
            self.clip = self._read(file)
        except MoloError as error:
            raise MoloError(said(error, file)) from error
        if recorded:
            self._recordings += 1
            self.clip = dataclasses.replace(self.clip, name=f"recording {self._recordings}")
        self._predict()

    def advice(self) -> list[str]:
        """Says what is wrong with the classes, and what helps; empty where nothing is."""
        return self.classifier.advice() if self.classes else []

    def save(self, path: Path) -> None:
        """Writes the classes to a file, see `Classifier.save`.

        Raises:
            MoloError: there are no classes.
        """
        if not self.classes:
            raise MoloError("There is nothing to save yet: add a class first.")
        self.classifier.save(path)

    def load(self, file: str | os.PathLike[str]) -> None:
        """Takes the classes of a file in place of the present ones.

        Raises:
            MoloError: it is no such file, is damaged, or is of another network.
        """
        name, path = os.path.basename(file), Path(file)
        try:
            record, embedder = read_archive(path), self.classifier.embedder
            if record.digest != embedder.network.digest:
                raise MoloError(
                    f"{path} was saved with another network ({record.source}), and this page uses"
                    f" {embedder.network.source}"
                )
            check_features(path, record, embedder.structure)
            clips = {
                checked_name(key): list(members) for key, members in record.clips.items() if members
            }
            self._check_room(sum(map(len, clips.values())))
            if not clips:
                raise MoloError(f"{path} has no classes")
        except MoloError as error:
            # The user knows the file by its name alone.
            raise MoloError(str(error).replace(str(path), name)) from error
        self.classifier.fit(clips)
        self._predict()

    def explain(self, explainer: Explainer, path: Path) -> None:
        """Writes a page that explains the last prediction.

        Raises:
            MoloError: there is none.
        """
        if self.prediction is None:
            raise MoloError("There is nothing to explain yet: ask about a clip first.")
        explainer(self.classifier, self.prediction, path)

    def offer(self, path: Path) -> None:
        """Remembers a file for the user to download; an older one of the name is removed."""
        self.forget(path.name)
        self._offered[path.name] = path

    def forget(self, name: str | None = None) -> None:
        """Removes the files for the user to download: that of a name, or all."""
        for key in [name] if name else list(self._offered):
            if key in self._offered:
                shutil.rmtree(self._offered.pop(key).parent, ignore_errors=True)

    def _read(self, file: str | os.PathLike[str]) -> EmbeddedClip:
        path, embedder = os.fspath(file), self.classifier.embedder
        try:
            size = os.path.getsize(path) / 1e6
        except OSError:
            # Whoever gave the same file has had it removed.
            raise BadVideoError(path, "the upload is gone; drop it again", transient=True) from None
        if size > self._limits.megabytes:
            raise BadVideoError(
                path, f"it has {size:,.0f} MB, and a clip here at most {self._limits.megabytes:,}"
            )
        with one_video(path):
            found = probe(path)
        length = float(found.length / found.rate) if found.rate else 0.0
        if length > self._limits.seconds:
            limit = spelled_time(self._limits.seconds)
            raise BadVideoError(
                path,
                f"it lasts {spelled_time(length)}, and a clip here at most {limit}; cut the action"
                " out",
            )
        _, digest = identify(path)
        rule, seconds = embedder.network.rule, self._limits.reading_seconds
        clip = read_clip(path, rule, digest=digest, seconds=seconds)
        # Where an upload lies is nothing for a page or a file.
        return embedder.embed([dataclasses.replace(clip, name=os.path.basename(path))])[0]

    def _take(self, name: str, clips: Sequence[EmbeddedClip]) -> list[str]:
        """Adds clips to a class; returns a sentence for each that is in a class already."""
        problems, fresh = [], list(self.classes.get(name, []))
        known = {clip.digest: key for key, members in self.classes.items() for clip in members}
        for clip in clips:
            if clip.digest in known:
                problems.append(f"{clip.name}: it is in the class “{known[clip.digest]}” already.")
                continue
            known[clip.digest] = name
            fresh.append(clip)
        others = sum(len(members) for key, members in self.classes.items() if key != name)
        self._check_room(others + len(fresh))
        if len(fresh) > len(self.classes.get(name, [])):
            # In its place among the others, or behind them.
            self.classifier.fit({**self.classes, name: fresh})
            self._predict()
        return problems

    def _check_room(self, clips: int) -> None:
        if clips > self._limits.clips:
            raise MoloError(
                f"That would be {clips} clips, and a page takes at most {self._limits.clips};"
                " remove a class first."
            )

    def _predict(self) -> None:
        self.prediction = None
        if self.clip is not None and self.classes:
            self.prediction = self.classifier.predict(self.clip)


def checked_name(name: str | None) -> str:
    """Returns the name of a class without spaces around it.

    Raises:
        MoloError: it is empty, too long, or means something else.
    """
    name = " ".join((name or "").split())
    if not name:
        raise MoloError("The class needs a name: write one, such as “squat”.")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise MoloError(
            f"“{name[:LONGEST_NAME]}…” cannot be the name of a class: expected at most"
            f" {LONGEST_NAME} characters, none of them a control character."
        )
    if name == UNKNOWN:
        raise MoloError(f"“{UNKNOWN}” is what the page says of clips of no class; choose another.")
    return name


def said(error: MoloError, file: str | os.PathLike[str]) -> str:
    """Says what is wrong with a clip, by the name that its user knows."""
    name = os.path.basename(os.fspath(file))
    reason = error.reason if isinstance(error, BadVideoError) else str(error)
    return f"{name}: {reason.replace(os.fspath(file), name)}"


def write_explanation(classifier: Classifier, prediction: Prediction, path: Path) -> None:
    """Writes the report of one prediction, see :mod:`molo_jax.prediction.report`."""
    from molo_jax.prediction.explanation import explain
    from molo_jax.prediction.report import write_report

    write_report(path, classifier, [prediction], [explain(classifier, prediction)])


def _remove_folders(offered: dict[str, Path]) -> None:
    for path in offered.values():
        shutil.rmtree(path.parent, ignore_errors=True)


def forget(session: PageSession | None) -> None:
    """Removes what was written for a visitor; Gradio calls it some time after the visit."""
    if session is not None:
        session.forget()


@contextlib.contextmanager
def removed_afterwards(files: Sequence[str]) -> Iterator[None]:
    """Removes files at the end, with the folders that they leave empty."""
    try:
        yield
    finally:
        for file in files:
            with contextlib.suppress(OSError):
                os.unlink(file)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(file))
