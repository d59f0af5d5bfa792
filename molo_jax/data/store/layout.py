"""Where the images of a record lie, a serialized `tf.train.Example`, without a copy of them.

protobuf makes an object of every image, which for a long video takes as long as decoding the images
of a clip. Here the outer messages are walked through in their wire format
(https://protobuf.dev/programming-guides/encoding/), and protobuf reads the small fields only.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import Int32
from tensorflow_datasets.proto import tf_feature_pb2

_IMAGES = "frames"
# Wire types, and the tags of fields 1 and 2 whose content has a length in front.
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIRST, _SECOND = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH
_LONGEST_VARINT, _LAST_FIELD = 10, 2**29 - 1


_TEXTS, _NUMBERS = ("video", "class_name"), ("class_id", "length")


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class VideoLayout:
    """What a record says of its video, and where the images are in the record.

    Attributes:
        name: the video as the list names it.
        class_id, class_name: its class.
        length: number of frames of the video.
        rate: frames a second.
        images: of each stored frame its number, and the bytes of the record where its image begins
            and has ended; ascending.
        size: bytes of the record.
    """

    name: str
    class_id: int
    class_name: str
    length: int
    rate: float
    images: Int32[np.ndarray, "3 n"]
    size: int

    @classmethod
    def of(cls, record: bytes) -> "VideoLayout":
        """Reads all of a record but its images.

        Raises:
            ValueError: the bytes are no such record, with the field or the place that is wrong.
        """
        fields, places = _features(record)
        (name,), (class_name,) = (_values(fields, f, "bytes_list", 1) for f in _TEXTS)
        (class_id,), (length,) = (_values(fields, f, "int64_list", 1) for f in _NUMBERS)
        numerator, denominator = _values(fields, "rate", "int64_list", 2)
        numbers = _values(fields, "frame_numbers", "int64_list")
        if len(numbers) != len(places):
            raise ValueError(f"it has {len(places)} images for {len(numbers)} frame numbers")
        if not places or denominator == 0:
            raise ValueError("it has no image" if denominator else "its rate is a division by 0")
        try:
            images = np.array([numbers, *zip(*places, strict=True)], np.int32)
        except OverflowError as error:
            raise ValueError(f"it has a frame number beyond 32 bits: {max(numbers)}") from error
        rate = numerator / denominator
        return cls(name.decode(), class_id, class_name.decode(), length, rate, images, len(record))

    @property
    def numbers(self) -> Int32[np.ndarray, " n"]:
        """Numbers of the stored frames, ascending."""
        return self.images[0]

    def ranges(self, places: Sequence[int]) -> list[tuple[int, int]]:
        """Where the images of some of the stored frames begin in the record, and have ended."""
        return [tuple(self.images[1:, place].tolist()) for place in places]


def _values(
    fields: dict[str, tf_feature_pb2.Feature], name: str, kind: str, count: int | None = None
) -> list:
    if name not in fields:
        raise ValueError(f"it has no field {name!r}")
    values = list(getattr(fields[name], kind).value)
    if count not in (None, len(values)):
        raise ValueError(f"its field {name!r} has {len(values)} values in place of {count}")
    return values


def _features(record: bytes) -> tuple[dict[str, tf_feature_pb2.Feature], list[tuple[int, int]]]:
    """The small fields, and where the images are."""
    small: dict[str, tf_feature_pb2.Feature] = {}
    images: list[tuple[int, int]] = []
    for features in _contents(record, (0, len(record)), _FIRST):
        for entry in _contents(record, features, _FIRST):
            # Of an entry of a map: the name, and the value. What comes last counts.
            parts = dict(_fields(record, entry))
            name = record[slice(*parts.get(_FIRST, (0, 0)))].decode()
            value = parts.get(_SECOND, (0, 0))
            if name == _IMAGES:
                images = _images(record, value)
                continue
            try:
                small[name] = tf_feature_pb2.Feature.FromString(record[slice(*value)])
            except DecodeError as error:
                raise ValueError(f"its field {name!r} is no feature: {error}") from error
    return small, images


def _images(record: bytes, feature: tuple[int, int]) -> list[tuple[int, int]]:
    found = []
    for tag, place in _fields(record, feature):
        if tag != _FIRST:
            raise ValueError(f"its field {_IMAGES!r} is no list of bytes")
        found += _contents(record, place, _FIRST)
    return found


def _contents(record: bytes, message: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    return (place for tag, place in _fields(record, message) if tag == wanted)


def _fields(record: bytes, message: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yields the tag of every field of a message, and where its content begins and has ended.

    Raises:
        ValueError: a field reaches beyond the end of its message, or is of no known type.
    """
    at, stop = message
    while at < stop:
        tag, start = _varint(record, at, stop)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number <= _LAST_FIELD:
            raise ValueError(f"it has a field with the number {number} at byte {at}")
        if wire_type == _LENGTH:
            size, start = _varint(record, start, stop)
            at = start + size
        elif wire_type == _VARINT:
            _, at = _varint(record, start, stop)
        elif wire_type in (_FIXED32, _FIXED64):
            at = start + (4 if wire_type == _FIXED32 else 8)
        else:
            raise ValueError(f"it has a field of the unknown type {wire_type} at byte {at}")
        if at > stop:
            raise ValueError(
                f"a field of {at - start} bytes at byte {start} reaches beyond the end of its"
                f" message at byte {stop}"
            )
        yield tag, (start, at)


def _varint(record: bytes, at: int, stop: int) -> tuple[int, int]:
    """A number, seven bits a byte with the lowest first, and where it has ended."""
    value = shift = 0
    for place in range(at, min(stop, at + _LONGEST_VARINT)):
        byte = record[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise ValueError(f"the number at byte {at} does not end")
