"""How the records of prepared videos are read: once as a whole, and never a damaged one."""

import contextlib
import dataclasses
import os
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from preparing import SIDE, every_clip, open_prepared

from molo_jax.data.clips.episodes import ClipRequest
from molo_jax.data.store import prepared
from molo_jax.data.store.parts import RecordFile
from molo_jax.data.store.records import Manifest, manifest_path, prepared_folder
from molo_jax.data.video.frames import frame_chooser
from molo_jax.data.video.images import decode_jpegs


@pytest.fixture
def whole_readings(monkeypatch):
    """The record files and numbers of the records that are read as a whole."""
    read, original = [], RecordFile.read
    monkeypatch.setattr(
        RecordFile,
        "read",
        lambda self, number: read.append((self.path.name, number)) or original(self, number),
    )
    return read


def rewrite(records, options, change=lambda number, record: record):
    """Writes a record file again with other options or contents, and its size into the manifest."""
    with contextlib.closing(array_record_module.ArrayRecordReader(str(records))) as reader:
        content = reader.read_all()
    with contextlib.closing(array_record_module.ArrayRecordWriter(str(records), options)) as writer:
        for number, record in enumerate(content):
            writer.write(change(number, record))
    manifest = Manifest.read(manifest_path(records))
    dataclasses.replace(manifest, bytes=records.stat().st_size).write(manifest_path(records))


def test_a_damaged_record_is_never_shown(copy):
    out, records = copy
    content = bytearray(records.read_bytes())
    content[len(content) // 2] ^= 255
    records.write_bytes(content)
    dataset = open_prepared(out)
    messages = [clip for clip in every_clip(dataset).values() if isinstance(clip, str)]
    (message,) = messages
    assert "cannot be read" in message
    assert f"remove {records} and prepare the data again" in message
    assert dataset.bad_count == 0


def test_a_record_is_read_as_a_whole_once_and_then_the_chosen_images_only(out, whole_readings):
    dataset = open_prepared(out)
    first = every_clip(dataset)
    assert len(first) == len(set(whole_readings)) == len(whole_readings) == 25
    second = every_clip(dataset)
    assert len(whole_readings) == 25
    for video, clip in first.items():
        np.testing.assert_array_equal(clip, second[video], err_msg=str(video))


def test_the_frames_are_the_images_that_tfds_reads(out):
    dataset = open_prepared(out)
    source = tfds.builder_from_directory(str(prepared_folder(out, "folder"))).as_data_source(
        "train"
    )
    stored = {record["video"].decode(): record for record in source}
    draws = np.array([0.1, 0.9, 0.5, 0.3])
    chosen = frame_chooser("segments", draws, False)(17, 25.0)
    for video in [(c, v) for c, size in enumerate(dataset.class_sizes) for v in range(size)]:
        images = stored[dataset.video(*video).name]["frames"]
        expected = decode_jpegs([images[frame] for frame in chosen], SIDE)
        # Of the whole record, and then of parts of it.
        for _ in range(2):
            clip = dataset.read_clip(ClipRequest(*video, draws), sampling="segments", resize=SIDE)
            np.testing.assert_array_equal(clip, expected, err_msg=str(video))


def test_where_there_is_no_room_for_what_is_known_whole_records_are_read(
    out, whole_readings, monkeypatch
):
    # Room for two videos of 17 frames.
    monkeypatch.setattr(prepared, "_MOST_KNOWN_BYTES", 2 * (500 + 12 * 17))
    dataset = open_prepared(out)
    first, second = every_clip(dataset), every_clip(dataset)
    assert len(whole_readings) == 25 + 23
    for video, clip in first.items():
        np.testing.assert_array_equal(clip, second[video], err_msg=str(video))


@pytest.mark.parametrize("options", ["group_size:1", "group_size:1,snappy"])
def test_files_with_compressed_records_give_the_same_frames(copy, out, options, whole_readings):
    folder, records = copy
    rewrite(records, options)
    expected, dataset = every_clip(open_prepared(out)), open_prepared(folder)
    whole_readings.clear()
    for _ in range(2):
        for video, clip in every_clip(dataset).items():
            np.testing.assert_array_equal(clip, expected[video], err_msg=str(video))
    assert len(whole_readings) == 2 * 25


def test_a_record_that_is_damaged_while_it_is_in_use_is_never_shown(copy):
    out, records = copy
    dataset = open_prepared(out)
    good = every_clip(dataset)
    content = bytearray(records.read_bytes())
    content[len(content) // 2] ^= 255
    with records.open("r+b") as file:
        file.write(content)
    os.utime(records, ns=(1, 1))
    now = every_clip(dataset)
    ((video, message),) = ((v, clip) for v, clip in now.items() if isinstance(clip, str))
    name = dataset.video(*video).name
    assert message.startswith(f"the record of {name} in ")
    assert "cannot be read" in message
    assert f"remove {records} and prepare the data again" in message
    for other in set(good) - {video}:
        np.testing.assert_array_equal(now[other], good[other], err_msg=str(other))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda record: record[:-1], "reaches beyond the end of its message"),
        (lambda record: b"\xff" * 30, "the number at byte 0 does not end"),
        (lambda record: b"", "it has no field 'video'"),
    ],
)
def test_a_record_with_wrong_content_is_named_as_a_damaged_one(copy, spoil, message):
    out, records = copy
    rewrite(records, "group_size:1,uncompressed", lambda n, r: spoil(r) if n == 3 else r)
    (said,) = (clip for clip in every_clip(open_prepared(out)).values() if isinstance(clip, str))
    assert re.search(rf"cannot be read \(.*{re.escape(message)}.*\); remove .* and prepare", said)
