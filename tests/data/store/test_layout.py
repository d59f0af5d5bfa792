"""Where the images of a record lie: as protobuf says, and never outside the record."""

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from molo_jax.data.store.layout import VideoLayout

# Lengths of one, two and three bytes.
IMAGES = [b"a", b"b" * 127, b"c" * 128, b"", b"d" * 20_000]
NUMBERS = [0, 3, 4, 200, 70_000]
VALUES = {
    "video": [b"a/b\xc3\xa9.avi"],
    "class_id": [300],
    "class_name": [b"Bat"],
    "length": [70_001],
    "rate": [30_000, 1_001],
    "frame_numbers": NUMBERS,
    "frames": IMAGES,
}


def example(**changes) -> bytes:
    """A record; a value that is None leaves its field out."""
    message = tf_example_pb2.Example()
    for name, values in (VALUES | changes).items():
        if values is None:
            continue
        feature = message.features.feature[name]
        if any(isinstance(value, bytes) for value in values):
            feature.bytes_list.value[:] = values
        else:
            feature.int64_list.value[:] = values
    return message.SerializeToString(deterministic=True)


def shown(record: bytes) -> tuple:
    """All that a layout says, with the images."""
    layout = VideoLayout.of(record)
    places = range(len(layout.numbers))
    images = [record[start:stop] for start, stop in layout.ranges(places)]
    name, class_id, class_name = layout.name, layout.class_id, layout.class_name
    return name, class_id, class_name, layout.length, layout.rate, layout.numbers.tolist(), images


def shown_by_protobuf(record: bytes) -> tuple:
    """The same as protobuf reads it."""
    fields = tf_example_pb2.Example.FromString(record).features.feature
    (name,), (class_name,) = (fields[f].bytes_list.value for f in ("video", "class_name"))
    (class_id,), (length,) = (fields[f].int64_list.value for f in ("class_id", "length"))
    numerator, denominator = fields["rate"].int64_list.value
    numbers = list(fields["frame_numbers"].int64_list.value)
    rate, images = numerator / denominator, list(fields["frames"].bytes_list.value)
    return name.decode(), class_id, class_name.decode(), length, rate, numbers, images


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    low = bytes([value & 127 | (128 if value > 127 else 0)])
    return low + varint(value >> 7) if value > 127 else low


def field(number: int, content: bytes, length: int | None = None) -> bytes:
    """A field with a length in front, which may be another than its own."""
    return varint(number << 3 | 2) + varint(len(content) if length is None else length) + content


def entry(name: str, feature: bytes) -> bytes:
    """A record with one more entry behind the others."""
    return example() + field(1, field(1, field(1, name.encode()) + field(2, feature)))


def test_a_layout_says_what_the_record_holds():
    record = example()
    expected = ("a/bé.avi", 300, "Bat", 70_001, 30_000 / 1_001, NUMBERS, IMAGES)
    assert shown(record) == expected == shown_by_protobuf(record)
    layout = VideoLayout.of(record)
    assert layout.size == len(record)
    # In the order that was asked for, some twice.
    ranges = layout.ranges([4, 1, 1])
    assert [stop - start for start, stop in ranges] == [20_000, 127, 127]
    assert layout.images.dtype == np.int32


def test_what_a_record_has_besides_is_passed_over():
    # A fixed 64, a fixed 32, a number and bytes of fields that nobody knows.
    unknown = b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x78\xff\x01" + field(15, b"more")
    record = example(more=[1, 2]) + unknown
    assert shown(record) == shown(example())


def test_of_a_field_that_is_there_twice_the_last_counts_as_with_protobuf():
    others = [b"one", b"two", b"three", b"four", b"five"]
    record = entry("frames", field(1, b"".join(field(1, image) for image in others)))
    assert shown(record) == shown_by_protobuf(record)
    assert shown(record)[-1] == others


def test_lengths_that_reach_beyond_their_message_are_refused():
    images = field(1, b"image", length=6)
    with pytest.raises(ValueError, match=r"a field of 6 bytes at byte .* reaches beyond the end"):
        VideoLayout.of(entry("frames", field(1, images)))
    # Beyond its message, though not beyond the record.
    with pytest.raises(ValueError, match=r"reaches beyond the end of its message"):
        VideoLayout.of(example() + field(1, b"\x0a\x05ab") + field(1, b"") * 9)
    with pytest.raises(ValueError, match=f"a field of {2**69} bytes"):
        VideoLayout.of(field(1, b"", length=2**69))
    with pytest.raises(ValueError, match="the number at byte 1 does not end"):
        VideoLayout.of(b"\x0a" + b"\xff" * 11)
    with pytest.raises(ValueError, match="the number at byte 1 does not end"):
        VideoLayout.of(b"\x0a\xff")
    with pytest.raises(ValueError, match="unknown type 3 at byte 0"):
        VideoLayout.of(b"\x0b\x0c")
    for tag, number in ((2, 0), (2**32 + 2, 2**29)):
        with pytest.raises(ValueError, match=f"a field with the number {number} at byte 0"):
            VideoLayout.of(varint(tag) + b"\x00")


def test_no_damage_leads_out_of_the_record_or_to_other_images_than_protobuf_finds():
    record = example(frames=[b"abc", b"de", b"f" * 130, b"", b"gh"])
    random = np.random.default_rng(0)
    understood = 0
    for place in range(len(record)):
        damaged = bytearray(record)
        damaged[place] = random.integers(256)
        for content in (bytes(damaged), record[:place]):
            try:
                found = shown(content)
            except ValueError:
                continue
            understood += 1
            layout = VideoLayout.of(content)
            assert 0 <= layout.images[1:].min() <= layout.images[1:].max() <= len(content)
            assert found == shown_by_protobuf(content)
    # Those in an image, a name or a number.
    assert 140 < understood < len(record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": None}, "it has no field 'video'"),
        ({"length": [1, 2]}, "its field 'length' has 2 values in place of 1"),
        ({"class_name": [1]}, "its field 'class_name' has 0 values in place of 1"),
        ({"rate": [25]}, "its field 'rate' has 1 values in place of 2"),
        ({"rate": [25, 0]}, "its rate is a division by 0"),
        ({"frames": IMAGES[1:]}, "it has 4 images for 5 frame numbers"),
        ({"frames": None}, "it has 0 images for 5 frame numbers"),
        ({"frames": None, "frame_numbers": None}, "it has no field 'frame_numbers'"),
        ({"frames": None, "frame_numbers": []}, "it has no image"),
        ({"frames": [1, 2, 3, 4, 5]}, "its field 'frames' is no list of bytes"),
        ({"frame_numbers": [0, 1, 2, 3, 2**40]}, f"a frame number beyond 32 bits: {2**40}"),
    ],
)
def test_a_record_that_is_none_of_a_video_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        VideoLayout.of(example(**changes))


def test_a_small_field_that_protobuf_cannot_read_is_named():
    with pytest.raises(ValueError, match="its field 'rate' is no feature"):
        VideoLayout.of(entry("rate", b"\x1a\x05a"))
