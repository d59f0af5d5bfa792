"""The file of a classifier: no damage goes unnoticed, and no malicious file does any."""

import contextlib
import dataclasses
import io
import json
import re
import tracemalloc
import zipfile
from importlib import metadata

import jax
import numpy as np
import pytest
from archives import NAME, contents, npy, npy_header, record, refusal, rewrite, with_header

from molo_jax.errors import MoloError
from molo_jax.prediction import archive, container
from molo_jax.prediction.archive import read_archive, write_archive


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "gym.molo"
    write_archive(path, record())
    return path


def test_an_absent_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(MoloError, match=r"x\.molo does not exist$"):
        read_archive(tmp_path / "x.molo")
    with pytest.raises(MoloError, match="is a folder, not a file of the format molo_jax class"):
        read_archive(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it begins with b'', expected a zip archive"),
        (b"version https://git-lfs", "it begins with b'vers', expected a zip archive"),
        (
            b"PK\x03\x04" + b"x" * 200,
            "it is cut off, or something stands behind the end of its zip archive",
        ),
    ],
)
def test_another_file_is_refused(tmp_path, content, message):
    path = tmp_path / "x.molo"
    path.write_bytes(content)
    assert refusal(path) == f"is damaged, or no file of a classifier: {message}"


def test_a_file_that_is_cut_off_anywhere_is_refused(path):
    whole = path.read_bytes()
    for kept in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:kept])
        assert "is damaged, or no file of a classifier" in refusal(path)


def test_a_flipped_byte_anywhere_is_refused_or_changes_nothing(path):
    """The zip archive has bytes, such as dates, that no reader looks at."""
    whole, expected = path.read_bytes(), read_archive(path)
    refused = 0
    for place in range(0, len(whole), max(1, len(whole) // 300)):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        try:
            found = read_archive(path)
        except MoloError:
            refused += 1
            continue
        jax.tree.map(
            np.testing.assert_array_equal,
            dataclasses.asdict(found)["clips"],
            dataclasses.asdict(expected)["clips"],
        )
        assert (found.settings, found.digest) == (expected.settings, expected.digest)
    assert refused > 150


def test_a_wrong_checksum_a_missing_an_additional_and_a_double_member_are_named(path):
    whole = contents(path)
    changed = whole["weights/0.npy"][:-1] + b"\x01"
    rewrite(path, whole | {"weights/0.npy": changed}, sums=False)
    assert "the member weights/0.npy is not what was written: its SHA-256 differs" in refusal(path)
    rewrite(path, {n: d for n, d in whole.items() if n != "clips/0_1/numbers.npy"}, sums=False)
    assert "the member 'clips/0_1/numbers.npy' is missing" in refusal(path)
    rewrite(path, whole | {"extra.npy": b"x"}, sums=False)
    assert "the member 'extra.npy' is not in the list of its members" in refusal(path)
    rewrite(path, whole | {"extra.npy": npy(np.zeros(3))})
    assert "the member extra.npy belongs to nothing" in refusal(path)
    rewrite(path, {n: d for n, d in whole.items() if n != "clips/0_1/numbers.npy"})
    assert "the member clips/0_1/numbers.npy is missing" in refusal(path)
    rewrite(path, {n: d for n, d in whole.items() if n != NAME}, sums=False)
    assert f"the member {NAME} is missing" in refusal(path)
    rewrite(path, whole)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("weights/0.npy", b"other")
    assert "the member 'weights/0.npy' is there twice" in refusal(path)


@pytest.mark.parametrize("name", ["../../evil.npy", "/etc/evil.npy", "a\\..\\b.npy", "x/../y.npy"])
def test_a_name_that_would_be_a_path_elsewhere_is_refused_and_writes_nothing(path, tmp_path, name):
    before = {p.name for p in tmp_path.parent.iterdir()}
    members = contents(path) | {name: npy(np.zeros(3))}
    rewrite(path, members, sums=False)
    assert "is not in the list of its members" in refusal(path)
    rewrite(path, members)
    assert "has no list of members" in refusal(path)
    assert {p.name for p in tmp_path.parent.iterdir()} == before


def test_a_zip_bomb_is_refused_before_it_is_unpacked(path):
    bomb = npy(np.zeros(50_000_000, np.uint8))
    rewrite(path, contents(path) | {"weights/0.npy": bomb}, compression=zipfile.ZIP_DEFLATED)
    size = path.stat().st_size
    assert size < 200_000
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert re.search(
        r"the member 'classifier.json' is compressed, [\d,]+ bytes that become", message
    )
    assert peak < 2_000_000


def test_members_that_share_their_bytes_are_refused(path, monkeypatch):
    """A table of contents can name the same bytes many times."""
    real = zipfile.ZipFile.infolist

    def shared(self):
        parts = real(self)
        parts[-1].file_size = parts[-1].compress_size = 10**9
        return parts

    monkeypatch.setattr(zipfile.ZipFile, "infolist", shared)
    assert re.search(r"its members have 1,0[\d,]+ bytes, and the file only", refusal(path))


def test_what_stands_behind_the_archive_and_what_is_encrypted_is_refused(path):
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"more"
    assert "something stands behind the end of its zip archive" in refusal(path)
    for more in (b"x", b"x" * 70_000):
        path.write_bytes(whole + more)
        assert "something stands behind the end of its zip archive" in refusal(path)
    encrypted = bytearray(whole)
    # The flags of the first member in the table of contents.
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(encrypted)
    assert "the member 'classifier.json' is encrypted" in refusal(path)


def test_too_many_members_are_refused(path, monkeypatch):
    monkeypatch.setattr(container, "MAX_MEMBERS", 10)
    assert re.search(r"it has \d+ members, expected at most 10", refusal(path))


def nodes(value, place=()):
    yield place
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(child, (*place, key))


def test_no_value_of_the_description_can_raise_anything_else(path):
    """Every value, one after the other, becomes one of another type; weights have any place."""
    members = contents(path)
    header = json.loads(members[NAME])
    places = [place for place in nodes(header) if place and place[0] != "members"]
    random = np.random.default_rng(0)
    for place in places:
        for value in (None, -1, [[]], {"a": {}}, "\ud800", True, 10**40)[random.integers(3) :: 3]:
            changed = json.loads(members[NAME])
            deep(changed, *place[:-1])[place[-1]] = value
            rewrite(path, members | {NAME: json.dumps(changed).encode()}, sums=False)
            with contextlib.suppress(MoloError):
                read_archive(path)


def test_a_table_of_contents_that_is_too_large_is_not_read(path, monkeypatch):
    monkeypatch.setattr(container._Bounded, "limit", 1000)
    message = refusal(path)
    assert re.search(
        r"the table of contents of its zip archive has [\d,]+ bytes, expected", message
    )


def test_files_descriptions_and_pictures_that_are_too_large_are_refused(path, monkeypatch):
    monkeypatch.setattr(container, "MAX_JSON", 100)
    assert re.search(
        r"the member classifier.json has [\d,]+ bytes, expected at most 100", refusal(path)
    )
    monkeypatch.undo()
    monkeypatch.setattr(container, "MAX_FILE", 100)
    assert re.search(r": it has [\d,]+ bytes, expected at most 100", refusal(path))
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MAX_PICTURES", 3 * 24 * 40 * 3 * 2)
    assert "its pictures would fill 25,920 bytes of memory, expected at most 17,280" in refusal(
        path
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"junk", "is no .npy file"),
        (npy(np.array([{}], object), allow_pickle=True), "no .npy file|is of the type '|O'"),
        (npy(np.zeros(6, np.complex64)), "is of the type '<c8', expected rows of one of <f2, <f4"),
        (npy(np.zeros(6, ">f4")), "is of the type '>f4', expected rows"),
        (npy(np.zeros((2, 3), np.float32, order="F")), "is an array stored by columns"),
        (npy(np.array([1, np.nan], np.float32)), "weights/0.npy has numbers that are not finite"),
        (npy(np.array([1, np.inf], np.float32)), "weights/0.npy has numbers that are not finite"),
        (npy(np.zeros(6, np.float32))[:-4], "has 20 bytes of numbers, expected 24 for the shape"),
        (npy(np.zeros(6, np.float32)) + b"1234", "has 28 bytes of numbers, expected 24 for the"),
        (
            npy_header("{'descr':'<f4','fortran_order':False,'shape':(1000000000,1000000000,)}"),
            "has the shape '(1000000000, 1000000000)'|expected 4,000,000,000,000,000,000",
        ),
        (
            npy_header("{'descr':'<f4','fortran_order':False,'shape':(-1,)}"),
            "has the shape '(-1,)', expected at most 8 axes, none of them negative",
        ),
        (
            npy_header("{'descr':'<f4','fortran_order':False,'shape':(0,10**30)}"),
            "is no .npy file",
        ),
        (
            npy_header("{'descr':'<f4','fortran_order':False,'shape':(0," + "9" * 30 + ",)}"),
            "none of them negative or above",
        ),
        (npy_header(" " * 60_000), "is no .npy file"),
        (npy_header("(" * 9000), "is no .npy file"),
        (npy_header("[" + "-" * 9000 + "1]"), "is no .npy file"),
    ],
)
def test_an_array_that_is_none_is_named(path, data, message):
    rewrite(path, contents(path) | {"weights/0.npy": data})
    found = refusal(path)
    assert "weights/0.npy" in found
    assert any(part in found for part in message.split("|")), found


def test_another_version_of_the_format_is_told_apart_from_damage(path):
    with_header(path, lambda header: header.update(version=2))
    assert refusal(path) == (
        "cannot be used: it has version '2' of its format, expected version 1; this is molo_jax"
        f" {metadata.version('molo-jax')}, use the one that the file was saved with, or save the"
        " classifier again"
    ).removesuffix("; save the classifier again")
    with_header(path, lambda header: header.update(version=True))
    assert "it has version 'True' of its format" in refusal(path)
    with_header(path, lambda header: header.update(version=1, format="other"))
    assert "does not say format: 'molo_jax classifier'" in refusal(path)


def deep(header, *places):
    for place in places:
        header = header[place]
    return header


FIRST_CLIP = ("classes", 0, "clips", 0)


@pytest.mark.parametrize(
    ("places", "value", "message"),
    [
        ((), [1], "does not say format"),
        (("members",), ["a"], "has no list of members"),
        (("members", "weights/0.npy"), 7, "has no list of members"),
        (("network",), None, "network is 'None', expected an object"),
        (("network", "settings"), "x", "the settings of the network is 'x', expected an object"),
        (
            ("network", "settings", "method"),
            ["molo"],
            "the method is \"['molo']\", expected one of",
        ),
        (("network", "settings", "num_classes"), "x", "the setting num_classes of molo is 'x'"),
        (("network", "settings", "num_classes"), 10**9, "'1000000000', expected int from 1 to 1,"),
        (("network", "settings", "backbone"), True, "the setting backbone of molo is 'True'"),
        (("network", "settings", "backbone"), "vgg", "'vgg', expected one of resnet18, resnet34"),
        (
            ("network", "settings", "positional_a"),
            None,
            "the setting positional_a of molo is 'None'",
        ),
        (("network", "settings", "smoothing"), 0, "of molo is '0', expected float above 0"),
        (("network", "settings", "streams"), "three", "'three', expected one of both, appear"),
        (("network", "settings", "other"), 1, "'other' is no setting of molo"),
        (("network", "rule"), {}, "the rule lacks 'crop'"),
        (("network", "rule", "crop"), 10**9, "the rule of the network cannot be used: the crop of"),
        (("network", "rule", "num_frames"), 10**9, "num_frames of the rule is '1000000000', expec"),
        (("network", "rule", "sampling"), [1], "the rule of the network cannot be used: "),
        (("network", "digest"), "Z" * 64, "the digest of the network is 'ZZZ"),
        (("network", "source"), "a\x1b[2J", r"the source of the network is 'a\x1b[2J', expected 1"),
        (("network", "extra"), 1, "network has the unknown entry 'extra'"),
        (("calibration",), 3, "calibration is '3', expected an object"),
        (("calibration", "threshold"), {"a": 1}, "calibration 'threshold' is"),
        (("classes",), {}, "classes is '{}', expected a list"),
        (("classes", 1, "name"), "жим лёжа", "the class 'жим лёжа' is there twice"),
        (("classes", 1, "name"), "\ud800", r"the name of class 1 is '\ud800'"),
        (("classes", 1, "name"), "x" * 5000, "(5,000 characters), expected 1 to 4096"),
        (("classes", 1, "clips"), None, "the clips of class 'squat' is 'None', expected a list"),
        (("features",), ["tuple", ["array"] * 3], "the member clips/0_0/features_2.npy is missing"),
        (("features",), ["tuple", ["array"] * 101], "its features have more than 100 arrays"),
        (("features",), "array", "the member clips/0_0/features_1.npy belongs to nothing"),
        (("features",), ["os", {}], "['os', {}]\" is no structure of features"),
        (("features",), ["Tokens", {"motion": "array"}], "is no structure of features"),
        (("features",), [["list"], []], "is no structure of features"),
        (("features",), 7, "'7' is no structure of features"),
        (("features",), json.loads('["list",[' * 90 + "]]" * 90), "is no structure of feat"),
        ((*FIRST_CLIP, "seconds"), 1, "seconds of clips/0_0 is '1', expected true or false"),
        ((*FIRST_CLIP, "seconds"), False, "the member clips/0_0/seconds.npy belongs to nothing"),
        ((*FIRST_CLIP, "size"), [24, 10**6], "the images of clips/0_0 are not described as they"),
        (
            (*FIRST_CLIP, "size"),
            [24, 41],
            "an image of clips/0_0 is damaged (24×40, expected 24×41",
        ),
        ((*FIRST_CLIP, "images"), [1, 2, 3], "expected 3 lengths whose sum is"),
        ((*FIRST_CLIP, "images"), [True, 2, 3], "expected 3 lengths whose sum is"),
        (("weights",), [[], ["scale"]], "the place of weights/0 is empty, or there twice"),
        (("weights",), [["scale"], ["scale"]], "the place of weights/1 is empty, or there twice"),
        (("weights",), [[1.5], ["scale"]], "the place of weights/0 is '[1.5]', expected a list"),
        (("weights",), [["scale"]], "the member weights/1.npy belongs to nothing"),
    ],
)
def test_a_description_of_other_types_is_named(path, places, value, message):
    def change(header):
        if places:
            deep(header, *places[:-1])[places[-1]] = value

    if places:
        with_header(path, change)
    else:
        rewrite(path, contents(path) | {NAME: json.dumps(value).encode()}, sums=False)
    found = refusal(path)
    assert all(part in found for part in message.split("|")), found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe{", "is no text in UTF-8"),
        ('{"format": "ü"}'.encode("latin-1"), "is no text in UTF-8"),
        (b"{", "holds no JSON (Expecting property name"),
        (b'{"a": 1, "a": 2}', "holds no JSON (a name is there twice)"),
        (b'{"a": NaN}', "holds no JSON ('NaN' is no finite number)"),
        (b'{"a": 1e999}', "holds no JSON ('1e999' is no finite number)"),
        (b'{"a": -Infinity}', "holds no JSON ('-Infinity' is no finite number)"),
        (b'{"a": ' + b"9" * 5000 + b"}", "holds no JSON (Exceeds the limit"),
        (b"[" * 100_000, "holds no JSON (maximum recursion depth"),
    ],
)
def test_a_description_that_is_no_json_is_refused(path, text, message):
    rewrite(path, contents(path) | {NAME: text}, sums=False)
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("numbers", np.array([0.0, 1, 2]), "numbers.npy has the type float64, expected int64"),
        ("numbers", np.array([-1, 1, 2]), "numbers.npy holds no frame numbers"),
        ("numbers", np.zeros((0,), np.int64), "numbers.npy holds no frame numbers"),
        ("numbers", np.zeros((3, 1), np.int64), "numbers.npy holds no frame numbers"),
        ("seconds", np.zeros(2), "seconds.npy has the shape (2,), expected (3,)"),
        ("seconds", np.array([0, np.nan, 1]), "seconds.npy has numbers that are not finite"),
        ("thumbnails", np.zeros(9, np.uint8), "the images of clips/0_0 are not described"),
        ("features_0", np.full((4, 5), np.nan, np.float32), "features_0.npy has numbers that"),
        ("features_0", np.zeros((4, 6), np.float32), "clip 'videos/"),
    ],
)
def test_parts_of_a_clip_that_do_not_fit_are_named(path, name, array, message):
    rewrite(path, contents(path) | {f"clips/0_0/{name}.npy": npy(array)})
    assert message in refusal(path)


def test_a_damaged_picture_is_named(path):
    members = contents(path)
    name = "clips/0_0/thumbnails.npy"
    data = np.load(io.BytesIO(members[name])).copy()
    data[:40] = 0
    rewrite(path, members | {name: npy(data)})
    assert "an image of clips/0_0 is damaged" in refusal(path)
