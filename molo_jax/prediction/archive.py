"""The file of a classifier, such as `gym.molo`: what it knows of its classes, without any code.

The file holds the features and the small pictures of the support clips, the calibration, and the
settings and the digest of the network; with `weights` also the network's own numbers.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import simplejpeg

from molo_jax.data.video.images import encode_jpeg
from molo_jax.errors import MoloError, shortened
from molo_jax.files import replacing, written
from molo_jax.methods.episode import Features
from molo_jax.prediction import checks
from molo_jax.prediction.container import (
    DamagedError,
    OtherVersionError,
    read_container,
    write_container,
)
from molo_jax.prediction.embedder import EmbeddedClip
from molo_jax.prediction.trees import describe, leaves_of, rebuild

FORMAT, VERSION = "molo_jax classifier", 1
# Quality of the small pictures, and the longest side that one may have.
_QUALITY, _CHROMA, _LONGEST_SIDE = 85, "420", 1024
# Bytes of all small pictures together, once they are decoded.
MAX_PICTURES = 4 * 2**30
# A place in the network: names of modules and their numbers.
WeightPath = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class ArchiveRecord:
    """What the file of a classifier holds.

    Attributes:
        settings: the settings of the method, as `Settings.to_json` returns them.
        rule: the fields of the rule by which frames are chosen and made squares.
        digest: that of the network (weights, settings and rule), hexadecimal.
        source: where the weights were read from.
        origin: one sentence, what the network was trained on.
        calibration: the threshold of the unknown rule and what else was calibrated; numbers that
            are finite, texts, truth values or None.
        clips: the support clips of every class, in the order of the classes.
        weights: parameters and statistics by their paths; None: they are not in the file.
        version: the molo_jax that has written the file.
    """

    settings: Mapping[str, Any]
    rule: Mapping[str, Any]
    digest: str
    source: str
    origin: str
    calibration: Mapping[str, Any]
    clips: Mapping[str, Sequence[EmbeddedClip]]
    weights: Mapping[WeightPath, np.ndarray] | None = None
    version: str = dataclasses.field(default_factory=lambda: metadata.version("molo-jax"))


def write_archive(path: str | os.PathLike[str], record: ArchiveRecord) -> None:
    """Writes the file of a classifier; it is there as a whole or not at all.

    The same record gives the same bytes.

    Args:
        path: the file, which is replaced.
        record: its content.

    Raises:
        MoloError: the file cannot be written, or a value is none that such a file can hold.
    """
    path = Path(path)
    try:
        arrays: dict[str, np.ndarray] = {}
        header = _described(record, arrays)
        # What would be refused in reading is not written.
        _record(header, _Members(arrays))
        with written(path), replacing(path) as temporary:
            write_container(temporary, FORMAT, VERSION, header, arrays)
    except (TypeError, ValueError) as error:
        raise MoloError(f"{path} is not written: {error}") from error


def _described(record: ArchiveRecord, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns what the file says of its arrays, which are put into `arrays`."""
    classes, structures = [], []
    for place, (name, clips) in enumerate(record.clips.items()):
        described = []
        for number, clip in enumerate(clips):
            structure, leaves = describe(clip.features)
            structures.append(structure)
            described.append(_put_clip(arrays, f"clips/{place}_{number}", clip, leaves))
        # Names that NumPy has kept are texts of a type of its own.
        classes.append({"name": str(name), "clips": described})
    if any(structure != structures[0] for structure in structures):
        raise ValueError("the features of its clips differ in their structure")
    weights = None
    if record.weights is not None:
        weights = [list(place) for place in record.weights]
        for number, value in enumerate(record.weights.values()):
            arrays[f"weights/{number}"] = np.asarray(value)
    return {
        "molo_jax": record.version,
        "network": {
            "settings": dict(record.settings),
            "rule": dict(record.rule),
            "digest": record.digest,
            "source": record.source,
            "origin": record.origin,
        },
        "calibration": dict(record.calibration),
        "features": structures[0] if structures else None,
        "classes": classes,
        "weights": weights,
    }


def read_archive(path: str | os.PathLike[str]) -> ArchiveRecord:
    """Reads the file of a classifier.

    Everything is checked, and nothing of the file is run. The memory that is used is bounded by
    the size of the file and of the small pictures.

    Features of clips fit each other, and `check_features` tells whether they fit the network.

    Raises:
        MoloError: the file is absent, none of a classifier, damaged, or of another version.
    """
    path = Path(path)
    try:
        header, arrays = read_container(path, FORMAT, VERSION)
        return _record(header, _Members(arrays))
    except OtherVersionError as error:
        raise MoloError(
            f"{path} cannot be used: {error}; this is molo_jax {metadata.version('molo-jax')}, use"
            " the one that the file was saved with, or save the classifier again"
        ) from error
    except DamagedError as error:
        raise MoloError(
            f"{path} is damaged, or no file of a classifier: {error}; save the classifier again"
        ) from error


def check_features(
    path: str | os.PathLike[str], record: ArchiveRecord, structure: Features
) -> None:
    """Checks that the features of a record that was read are those of its network.

    Args:
        path: the file, for messages.
        record: as `read_archive` returns it.
        structure: what the method keeps of one clip: a pytree of arrays or of
            `jax.ShapeDtypeStruct`, without an axis for the clips.

    Raises:
        MoloError: the features of the file have another structure, other shapes or types.
    """
    expected, tree = _kind(structure), jax.tree.structure(structure)
    for clip in (clip for members in record.clips.values() for clip in members):
        found = _kind(clip.features)
        if found != expected or jax.tree.structure(clip.features) != tree:
            raise MoloError(
                f"{path} does not fit its own settings: the features of the clip"
                f" {shortened(clip.name)} are {_shown(found)}, expected {_shown(expected)}; save"
                " the classifier again"
            )


def _kind(features: Features) -> list[tuple[tuple[int, ...], np.dtype]]:
    return [(tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in jax.tree.leaves(features)]


def _shown(kinds: Sequence[tuple[tuple[int, ...], np.dtype]]) -> str:
    return " and ".join(f"{dtype}{list(shape)}" for shape, dtype in kinds) or "nothing"


def _put_clip(
    arrays: dict[str, np.ndarray], where: str, clip: EmbeddedClip, leaves: Sequence[np.ndarray]
) -> dict[str, Any]:
    for number, leaf in enumerate(leaves):
        arrays[f"{where}/features_{number}"] = leaf
    images = [encode_jpeg(frame, _QUALITY, _CHROMA) for frame in clip.thumbnails]
    arrays[f"{where}/thumbnails"] = np.frombuffer(b"".join(images), np.uint8)
    arrays[f"{where}/numbers"] = np.asarray(clip.numbers, np.int64)
    if clip.seconds is not None:
        arrays[f"{where}/seconds"] = np.asarray(clip.seconds, np.float64)
    return {
        "name": str(clip.name),
        "digest": clip.digest,
        "size": list(clip.thumbnails.shape[1:3]),
        "images": [len(image) for image in images],
        "seconds": clip.seconds is not None,
    }


class _Members:
    """The arrays of a file; each is asked for once, and none may be left."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.left = dict(arrays)
        self._pictures = 0

    def take(self, name: str, dtype: str = "") -> np.ndarray:
        """Returns an array, whose numbers are finite."""
        if name not in self.left:
            raise DamagedError(f"the member {name}.npy is missing")
        array = self.left.pop(name)
        if dtype and array.dtype.str != dtype:
            raise DamagedError(
                f"the member {name}.npy has the type {array.dtype}, expected {np.dtype(dtype)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DamagedError(f"the member {name}.npy has numbers that are not finite")
        return array

    def pictures(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns memory for decoded pictures, which is bounded for the whole file."""
        self._pictures += math.prod(shape)
        if self._pictures > MAX_PICTURES:
            raise DamagedError(
                f"its pictures would fill {self._pictures:,} bytes of memory, expected at most"
                f" {MAX_PICTURES:,}"
            )
        return np.empty(shape, np.uint8)


def _record(header: dict[str, Any], members: _Members) -> ArchiveRecord:
    """Makes the record of a description and arrays, and checks all of it."""
    names = {"molo_jax", "network", "calibration", "features", "classes", "weights"}
    checks.fields(header, names, "the description")
    network = header["network"]
    checks.fields(network, {"settings", "rule", "digest", "source", "origin"}, "network")
    checks.network_settings(network["settings"])
    checks.clip_rule(network["rule"])
    checks.plain(header["calibration"], "calibration")
    clips: dict[str, list[EmbeddedClip]] = {}
    leaves_of(header["features"])
    checks.is_a(header["classes"], list, "classes")
    for place, one in enumerate(header["classes"]):
        checks.fields(one, {"name", "clips"}, f"class {place}")
        name = checks.text(one["name"], f"the name of class {place}")
        if name in clips:
            raise DamagedError(f"the class {shortened(name)} is there twice")
        checks.is_a(one["clips"], list, f"the clips of class {shortened(name)}")
        clips[name] = [
            _clip(members, f"clips/{place}_{number}", described, header["features"])
            for number, described in enumerate(one["clips"])
        ]
    _same_kind(clips)
    record = ArchiveRecord(
        settings=network["settings"],
        rule=network["rule"],
        digest=checks.digest(network["digest"], "the digest of the network"),
        source=checks.text(network["source"], "the source of the network"),
        origin=checks.text(network["origin"], "the origin of the network", least=0),
        calibration=header["calibration"],
        clips=clips,
        weights=_weights(header["weights"], members),
        version=checks.text(header["molo_jax"], "the version of molo_jax"),
    )
    for name in members.left:
        raise DamagedError(f"the member {name}.npy belongs to nothing")
    return record


def _clip(members: _Members, where: str, described: Any, structure: Any) -> EmbeddedClip:
    checks.fields(described, {"name", "digest", "size", "images", "seconds"}, where)
    checks.is_a(described["seconds"], bool, f"seconds of {where}")
    leaves = [members.take(f"{where}/features_{n}") for n in range(leaves_of(structure))]
    numbers = members.take(f"{where}/numbers", "<i8")
    frames = len(numbers) if numbers.ndim == 1 else 0
    if not frames or numbers.min() < 0:
        raise DamagedError(f"the member {where}/numbers.npy holds no frame numbers")
    seconds = members.take(f"{where}/seconds", "<f8") if described["seconds"] else None
    if seconds is not None and seconds.shape != (frames,):
        raise DamagedError(
            f"the member {where}/seconds.npy has the shape {seconds.shape}, expected ({frames},)"
        )
    return EmbeddedClip(
        name=checks.text(described["name"], f"the name of {where}"),
        digest=checks.digest(described["digest"], f"the digest of {where}"),
        features=rebuild(structure, leaves),
        thumbnails=_images(members, where, described, frames),
        numbers=numbers,
        seconds=seconds,
    )


def _images(members: _Members, where: str, described: dict[str, Any], frames: int) -> np.ndarray:
    data = members.take(f"{where}/thumbnails", "|u1")
    lengths, size = described["images"], described["size"]
    if (
        not checks.whole_numbers(lengths, frames, 1, data.size)
        or data.ndim != 1
        or sum(lengths) != data.size
        or not checks.whole_numbers(size, 2, 1, _LONGEST_SIDE)
    ):
        raise DamagedError(
            f"the images of {where} are not described as they are stored: expected {frames}"
            f" lengths whose sum is {data.size:,}, and a size of at most {_LONGEST_SIDE} pixels"
        )
    height, width = size
    pictures = members.pictures((frames, height, width, 3))
    ends = list(itertools.accumulate(lengths))
    for picture, end, length in zip(pictures, ends, lengths, strict=True):
        image = data[end - length : end].tobytes()
        try:
            found = simplejpeg.decode_jpeg_header(image)[:2]
            if found != (height, width):
                raise ValueError(f"{found[0]}×{found[1]}, expected {height}×{width}")
            simplejpeg.decode_jpeg(image, "RGB", buffer=picture)
        except ValueError as error:
            raise DamagedError(f"an image of {where} is damaged ({error})") from error
    return pictures


def _same_kind(clips: Mapping[str, Sequence[EmbeddedClip]]) -> None:
    """Checks that one network can have made the features of all clips."""
    kinds = [(clip.name, _kind(clip.features)) for members in clips.values() for clip in members]
    for name, kind in kinds:
        if kind != kinds[0][1]:
            raise DamagedError(
                f"the features of the clip {shortened(name)} are {_shown(kind)}, those of the first"
                f" clip {_shown(kinds[0][1])}"
            )


def _weights(places: Any, members: _Members) -> dict[WeightPath, np.ndarray] | None:
    if places is None:
        return None
    checks.is_a(places, list, "weights")
    found: dict[WeightPath, np.ndarray] = {}
    for number, place in enumerate(places):
        if not isinstance(place, list) or not all(type(part) in (str, int) for part in place):
            raise DamagedError(
                f"the place of weights/{number} is {shortened(str(place))}, expected a list of"
                " names and numbers"
            )
        if not place or tuple(place) in found:
            raise DamagedError(f"the place of weights/{number} is empty, or there twice")
        found[tuple(place)] = members.take(f"weights/{number}")
    return found
