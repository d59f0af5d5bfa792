"""What a network was trained on, validated on and shown, and how that compares with now.

Every checkpoint carries this in its meta, so that accuracy on classes that were trained on never
passes for few-shot accuracy, and a network is never shown other frames without a word.
"""

import base64
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from absl import logging

from molo_jax.backbones import backbone_info
from molo_jax.data.clips.source import ClipSource
from molo_jax.data.lists.splits import Split
from molo_jax.errors import MoloError, shortened
from molo_jax.methods.settings import DEFAULT_METHOD, METHODS, TRAINING_ONLY, Settings, own_fields
from molo_jax.old_checkpoints import key_of_now

# Two of 70,000 videos get the same digest once in 10^10 trainings.
_DIGEST_BYTES = 8
_EXAMPLES = 8
# Where the configuration of an older checkpoint says what its network saw.
_DATA_KEYS = ("num_frames", "sampling", "resize", "crop")


@dataclasses.dataclass(frozen=True)
class ClassRecord:
    """One class of a list.

    Attributes:
        class_id: its number in the list.
        name: its name; empty where it has none.
        videos: a digest of the name of each of its videos.
    """

    class_id: int
    name: str
    videos: frozenset[bytes]

    @property
    def label(self) -> str:
        """The name, or else the number."""
        return self.name or f"class {self.class_id}"

    def is_like(self, other: "ClassRecord") -> bool:
        """Whether both are one class: by their names, or where one has none, by their videos."""
        if self.name and other.name:
            return self.name == other.name
        return bool(self.videos & other.videos)


@dataclasses.dataclass(frozen=True)
class ListRecord:
    """The list of a split, small enough to be kept in every checkpoint.

    Attributes:
        dataset: name of the data set.
        digest: of all class numbers and names of videos, in their order.
        classes: the classes in the order of the list.
    """

    dataset: str
    digest: str
    classes: tuple[ClassRecord, ...]

    @classmethod
    def of(cls, dataset: str, split: Split) -> Self:
        """Records a list."""
        whole = hashlib.sha256()
        classes = []
        rows = zip(split.classes, split.class_names, split.videos, strict=True)
        for class_id, name, videos in rows:
            names = [_encoded(video.name) for video in videos]
            for video in names:
                whole.update(b"%d\0%s\0" % (class_id, video))
            classes.append(ClassRecord(class_id, name, frozenset(map(_digest, names))))
        return cls(dataset, whole.hexdigest(), tuple(classes))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Undoes `to_json`."""
        classes = (
            ClassRecord(each["id"], each["name"], _cut(base64.b64decode(each["videos"])))
            for each in stored["classes"]
        )
        return cls(stored["dataset"], stored["digest"], tuple(classes))

    def to_json(self) -> dict[str, Any]:
        """Returns the record as JSON; the digests of a class's videos are one base64 string."""
        classes = [
            {
                "id": each.class_id,
                "name": each.name,
                "videos": base64.b64encode(b"".join(sorted(each.videos))).decode(),
            }
            for each in self.classes
        ]
        return {"dataset": self.dataset, "digest": self.digest, "classes": classes}

    def shared_classes(self, others: Iterable["ListRecord"]) -> list[str]:
        """Names the classes of this list that others hold: by name, or by any of their videos."""
        names, videos = set(), set()
        for other in others:
            names |= {each.name for each in other.classes if each.name}
            videos |= frozenset().union(*(each.videos for each in other.classes))
        return [each.label for each in self.classes if each.name in names or each.videos & videos]


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _digest(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=_DIGEST_BYTES).digest()


def _cut(digests: bytes) -> frozenset[bytes]:
    starts = range(0, len(digests), _DIGEST_BYTES)
    return frozenset(digests[start : start + _DIGEST_BYTES] for start in starts)


# The lists of one training after another; None for those that are not known.
Stages = tuple[ListRecord | None, ...]


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What is known of the training of a network.

    Attributes:
        trained: the train lists, the newest last: that of the weights it began with, then its own;
            a list that has changed during the training is in it before and after.
        validated: the val lists by which the best network was chosen, likewise.
        init_from: the source of the weights it began with; None where that is not known.
        seen: the settings that decide what the network sees, see :func:`settings_seen`.
    """

    trained: Stages = ()
    validated: Stages = ()
    init_from: str | None = ""
    seen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any]) -> Self:
        """Reads it from a checkpoint's meta, which may be older than it, or of a converted file.

        Raises:
            MoloError: what the meta says of the training is damaged.
        """
        try:
            return cls._of_meta(meta)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise MoloError(
                "what the checkpoint says of its training is damaged"
                f" ({type(error).__name__}: {shortened(str(error))}); use another checkpoint"
            ) from error

    @classmethod
    def _of_meta(cls, meta: Mapping[str, Any]) -> Self:
        if "trained_on" not in meta:
            # What the configuration and the architecture of an older checkpoint tell.
            data = meta.get("config", {}).get("data", {})
            return cls((None,), (None,), None, _seen_of(data, meta.get("architecture") or {}))
        trained, validated = (
            tuple(stage and ListRecord.from_json(stage) for stage in meta[key])
            for key in ("trained_on", "validated_on")
        )
        seen = {key_of_now(key): value for key, value in meta["seen"].items()}
        return cls(trained, validated, meta["init_from"], seen)

    def to_meta(self) -> dict[str, Any]:
        """Returns the entries of a checkpoint's meta, as JSON."""
        return {
            "trained_on": [stage and stage.to_json() for stage in self.trained],
            "validated_on": [stage and stage.to_json() for stage in self.validated],
            "init_from": self.init_from,
            "seen": dict(self.seen),
        }

    def followed_by(
        self, trained: ListRecord, validated: ListRecord | None, seen: Mapping[str, Any]
    ) -> "Provenance":
        """Returns what is true after further training."""
        return dataclasses.replace(
            self,
            trained=_with(self.trained, trained),
            validated=_with(self.validated, validated) if validated else self.validated,
            seen=seen,
        )

    def other_settings(self, seen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns the settings that are known and differ, each with both values."""
        return {
            key: {"training": self.seen[key], "now": value}
            for key, value in seen.items()
            if key in self.seen and self.seen[key] != value
        }


def _with(stages: Stages, new: ListRecord) -> Stages:
    return stages if stages and stages[-1] == new else (*stages, new)


def _seen_of(data: Mapping[str, Any], architecture: Mapping[str, Any]) -> dict[str, Any]:
    known = METHODS.get(architecture.get("method", DEFAULT_METHOD))
    # Method, backbone and number of classes are not among its own fields: they cannot differ.
    fields = own_fields(known) if known else {}
    seen = [key for key, field in fields.items() if not field.metadata.get(TRAINING_ONLY)]
    return {f"data.{key}": data[key] for key in _DATA_KEYS if key in data} | {
        f"method.{key}": architecture[key] for key in seen if key in architecture
    }


def settings_seen(
    clips: Mapping[str, Any], dataset: ClipSource, settings: Settings, precision: str
) -> dict[str, Any]:
    """Returns everything but the weights that decides what a network makes of a video.

    Args:
        clips: what is made of a video: `num_frames`, `sampling`, `resize` and `crop`.
        dataset: the videos.
        settings: those of the network.
        precision: name of what it computes in, see :mod:`molo_jax.nn.precision`.

    Returns:
        JSON values by the dotted key of the configuration; `pixels` says what the frames went
        through, `normalization` is the mean and the deviation of the pixels.
    """
    backbone = backbone_info(settings.backbone)
    return _seen_of(clips, settings.to_json()) | {
        "pixels": dataset.pixels,
        "normalization": [backbone.mean, backbone.std],
        "precision": precision,
    }


def listed_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Names the values that differ: `train.n_way was 2, is 5; …`."""
    changed = [key for key in now if before.get(key) != now[key]]
    return "; ".join(f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in changed)


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Which tested classes are not new to a network; None where that is not known.

    Attributes:
        trained: those that it was trained on.
        validated: those by which it was chosen; of the test split only.
    """

    trained: Sequence[str] | None
    validated: Sequence[str] | None

    def sentences(self) -> list[str]:
        """Says what is known to be wrong, in words that follow the name of a network."""
        found = (
            (self.trained, "was trained on"),
            (self.validated, "was chosen by its accuracy on"),
        )
        return [f"{verb} {listed(names)}" for names, verb in found if names]


def overlap(origin: Provenance, tested: ListRecord, split: str) -> Overlap:
    """Finds the tested classes that a network was trained on, or was chosen by.

    A class counts as trained on if a train list holds a class of its name or any of its videos.
    Weights that training began with count as well.

    Args:
        origin: what is known of the network.
        tested: the list of the split that is tested.
        split: its name; what a network was chosen by matters on the test split alone.
    """
    validated = origin.validated if split == "test" else ()
    return Overlap(_shared(tested, origin.trained), _shared(tested, validated))


def _shared(tested: ListRecord, stages: Stages) -> list[str] | None:
    found = tested.shared_classes(stage for stage in stages if stage)
    return None if not found and None in stages else found


def check_new(where: str, found: Overlap, split: str, *, refuse: bool) -> None:
    """Refuses to test classes that a network was trained on, or says so.

    Args:
        where: the checkpoint.
        found: what :func:`overlap` has found.
        split: what is tested; on the train split such classes are what one wants to see.
        refuse: whether to refuse, and not only to say so.

    Raises:
        MoloError: there are such classes, and they are to be refused.
    """
    if split == "train":
        return
    sentences = found.sentences()
    if sentences and refuse:
        raise MoloError(
            f"{where} {' and '.join(sentences)}, which the {split} split holds; the accuracy would"
            " not be that on new classes. Use the lists of that training, or train anew with"
            " another --workdir; --config.eval.on_trained_classes=warn goes on all the same"
        )
    for sentence in sentences:
        logging.warning("%s %s, which the %s split holds", where, sentence, split)
    if found.trained is None:
        logging.warning(
            "it is not known what %s was trained on; whether the classes of the %s split are new"
            " to it cannot be checked",
            where,
            split,
        )


def listed(names: Sequence[str]) -> str:
    """Names classes: `2 classes ('a', 'b')`."""
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    shown = ", ".join(map(repr, names[:_EXAMPLES]))
    return f"{len(names)} class{'es' if len(names) > 1 else ''} ({shown}{more})"


def check_same_classes(where: str, origin: Provenance, now: ListRecord) -> None:
    """Checks that a training goes on with the classes that it began with.

    Videos may have come or gone, which is said; the outputs of the auxiliary classifier belong to
    the classes one by one.

    Raises:
        MoloError: naming the first class that is another one.
    """
    before = origin.trained[-1] if origin.trained else None
    if before is None or before.digest == now.digest:
        return
    pairs = list(zip(before.classes, now.classes, strict=False))
    other = next(((old, new) for old, new in pairs if not old.is_like(new)), None)
    if other is None and len(before.classes) == len(now.classes):
        logging.warning("the train list has changed since %s, its classes are the same", where)
        return
    what = f"{len(before.classes)} classes then, {len(now.classes)} now"
    if other is not None:
        what = f"{other[0].label!r} then, {other[1].label!r} in its place now"
    raise MoloError(
        f"{where} was trained on other classes: {what}. Bring back the lists of that training, or"
        f" use another --workdir; to start there from these weights add --config.init_from={where}"
        " --config.init_new_classifier=true"
    )
