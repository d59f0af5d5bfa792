"""Parts of records: the bytes that the library reads, or nothing."""

import os
import struct

import numpy as np
import pytest
from array_record.python import array_record_module

from molo_jax.data.store import parts
from molo_jax.data.store.parts import RecordFile

PLAIN = "group_size:1,uncompressed"
BLOCK, HEADER = 1 << 16, 24


def write(path, records, options=PLAIN) -> RecordFile:
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return RecordFile(path, len(records))


@pytest.fixture
def records():
    """Records of many sizes, some of which begin or end beside the border of a block."""
    random = np.random.default_rng(0)
    # The chunk header of the file, and the chunk header and the prefix of a record.
    before = 40 + 40 + 5
    sizes = [BLOCK - HEADER - before - 1, 1, BLOCK - HEADER - 45, BLOCK, 5, 3 * BLOCK, 0, 777]
    return [random.bytes(size) for size in [*sizes, *range(64_000, 67_000, 131)]]


def test_parts_are_the_bytes_that_the_library_reads(tmp_path, records):
    file = write(tmp_path / "records", records)
    random = np.random.default_rng(1)
    for position, record in enumerate(records):
        assert file.read(position) == record
        ends = np.sort(random.integers(0, len(record) + 1, (8, 2)))
        ranges = [(0, len(record)), (0, 0), (len(record), len(record)), *map(tuple, ends.tolist())]
        expected = [record[start:stop] for start, stop in ranges]
        assert file.read_parts(position, len(record), ranges) == expected


def test_only_the_bytes_that_were_asked_for_are_read(tmp_path, monkeypatch):
    file = write(tmp_path / "records", [bytes(100), bytes(range(256)) * 4000])
    file.read_parts(1, 1_024_000, [])
    read, original = [], os.pread
    monkeypatch.setattr(
        parts.os, "pread", lambda *values: read.append(values[1]) or original(*values)
    )
    (found,) = file.read_parts(1, 1_024_000, [(250, 20_250)])
    assert found == (bytes(range(256)) * 4000)[250:20_250]
    # With the header of a block between them at most.
    assert sum(read) in (20_000, 20_024)


@pytest.mark.parametrize("options", ["group_size:1", "group_size:1,snappy", "group_size:1,brotli"])
def test_compressed_records_are_read_as_a_whole_only(tmp_path, options, records):
    file = write(tmp_path / "records", records[:4], options)
    assert file.read(3) == records[3]
    assert file.read_parts(3, len(records[3]), [(0, 5)]) is None


def test_records_that_share_a_chunk_are_read_as_a_whole_only(tmp_path, records):
    file = write(tmp_path / "records", records[:8], "group_size:4,uncompressed")
    assert file.read(5) == records[5]
    assert file.read_parts(5, len(records[5]), [(0, 5)]) is None


def test_another_size_or_number_than_the_file_has_gives_no_parts(tmp_path, records):
    file = write(tmp_path / "records", records[:3])
    assert file.read_parts(2, len(records[2]), [(0, 5)]) == [records[2][:5]]
    assert file.read_parts(2, len(records[2]) + 1, [(0, 5)]) is None
    assert file.read_parts(3, len(records[2]), [(0, 5)]) is None
    with pytest.raises((RuntimeError, ValueError)):
        file.read(3)
    # The index of the file looks like a record, of three records.
    more = RecordFile(file.path, 9)
    assert more.read_parts(2, len(records[2]), [(0, 5)]) == [records[2][:5]]
    assert more.read_parts(3, 5, [(0, 5)]) is None


def test_a_file_that_was_written_to_gives_no_parts(tmp_path, records):
    file = write(tmp_path / "records", records[:3])
    assert file.read_parts(0, len(records[0]), [(0, 5)]) == [records[0][:5]]
    with file.path.open("r+b") as other:
        other.seek(200)
        other.write(b"x")
    os.utime(file.path, ns=(1, 1))
    assert file.read_parts(0, len(records[0]), [(0, 5)]) is None
    with pytest.raises(RuntimeError):
        file.read(0)


def test_a_file_that_was_cut_or_is_gone_gives_no_parts(tmp_path, records):
    path = tmp_path / "records"
    write(path, records[:3])
    path.write_bytes(path.read_bytes()[: BLOCK + 100])
    assert RecordFile(path, 3).read_parts(2, len(records[2]), [(0, 5)]) is None
    path.unlink()
    assert RecordFile(path, 3).read_parts(0, len(records[0]), [(0, 5)]) is None
    with pytest.raises(RuntimeError):
        RecordFile(path, 3).read(0)


@pytest.mark.parametrize("size", [0, 2, BLOCK, 2**40, 2**63, 2**64 - 1])
def test_hostile_sizes_in_the_file_give_no_parts_of_elsewhere(tmp_path, size):
    records = [bytes([number]) * 1000 for number in range(4)]
    file = write(tmp_path / "records", records)
    # Behind the header of the block and the first chunk, a header with the size of the data.
    place = HEADER + 40 + 8
    content = bytearray(file.path.read_bytes())
    assert struct.unpack_from("<Q", content, place) == (1004,)
    struct.pack_into("<Q", content, place, size)
    file.path.write_bytes(content)
    for position, record in enumerate(records):
        found = file.read_parts(position, 1000, [(0, 1000)])
        assert found in (None, [record])
    assert file.read_parts(0, 1000, [(0, 1000)]) is None


def test_descriptors_are_closed_with_their_files(tmp_path, records):
    file = write(tmp_path / "records", records[:3])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert RecordFile(file.path, 3).read_parts(0, len(records[0]), [(0, 5)])
    assert len(os.listdir("/proc/self/fd")) == before
