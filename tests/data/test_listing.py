"""What a folder of videos holds: every layout, and what is no video."""

import os

import pytest

from molo_jax.data.listing import Listing, printable
from molo_jax.errors import MoloError


def make(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()


def test_files_are_listed_by_extension_in_any_case_and_depth(tmp_path):
    make(tmp_path, "b/c/d.MKV", "a.mp4", "b/e.WebM", "b/f.avi", "b/g.MOV", "b/h.txt", "i")
    listing = Listing.index(tmp_path)
    assert listing.files() == ["a.mp4", "b/c/d.MKV", "b/e.WebM", "b/f.avi", "b/g.MOV"]
    assert listing.folders() == ["b", "b/c"]
    assert (listing.defects(), listing.unlistable) == ({}, {})


def test_hidden_files_and_folders_are_no_videos(tmp_path):
    make(tmp_path, ".a.mp4", "._b.mp4", ".cache/c.mp4", "b/._d.mp4", ".mp4", "d.mp4")
    listing = Listing.index(tmp_path)
    assert listing.files() == ["d.mp4"]
    assert listing.folders() == ["b"]


@pytest.mark.parametrize(
    "extension",
    [
        *("mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "ts", "mts", "m2ts", "vob"),
        *("wmv", "flv", "3gp", "ogv", "gif"),
    ],
)
def test_every_usual_extension_is_that_of_a_video_in_any_case(extension, tmp_path):
    names = [f"a.{extension}", f"b.{extension.upper()}", f"c.{extension.title()}"]
    make(tmp_path, *names)
    listing = Listing.index(tmp_path)
    assert listing.files() == names
    assert listing.left_out() == {}


def test_everything_that_is_not_taken_is_named_with_its_reason(tmp_path):
    make(tmp_path, "run/a.mp4", "run/a.txt", "run/b.mp4.part", "run/notes", ".git/c.mp4", ".d.mp4")
    make(tmp_path, "sit/e.mp4/f.jpg")
    (tmp_path / "run/g.mp4").symlink_to(tmp_path / "gone")
    (tmp_path / "run/h.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "run/again").symlink_to(tmp_path / "run")
    listing = Listing.index(tmp_path)
    assert listing.files() == ["run/a.mp4"]
    assert listing.left_out() == {
        ".d.mp4": "its name begins with a dot",
        ".git/": "its name begins with a dot",
        "run/a.txt": ".txt is not the extension of a video",
        "run/again/": f"it cannot be listed: it is the same folder as {tmp_path}/run",
        "run/b.mp4.part": ".part is not the extension of a video",
        "run/g.mp4": "a link to nothing",
        "run/h.jpg": "a link to nothing",
        "run/notes": "no extension",
        "sit/e.mp4": "a directory of that name",
        "sit/e.mp4/f.jpg": ".jpg is not the extension of a video",
    }


def test_what_is_named_like_a_video_and_is_none_has_a_reason(tmp_path):
    make(tmp_path, "a.mp4/frame.jpg", "f.avi")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone")
    (tmp_path / "c.mp4").symlink_to(tmp_path / "c.mp4")
    os.mkfifo(tmp_path / "d.mp4")
    (tmp_path / "e.avi").symlink_to(tmp_path / "f.avi")
    (tmp_path / "g.mp4").symlink_to(tmp_path / "d.mp4")
    listing = Listing.index(tmp_path)
    assert listing.files() == ["e.avi", "f.avi"]
    assert listing.defects() == {
        "a.mp4": "a directory of that name",
        "b.mp4": "a link to nothing",
        "c.mp4": "a link that cannot be followed: Too many levels of symbolic links",
        "d.mp4": "not a regular file",
        "g.mp4": "not a regular file",
    }


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    make(tmp_path / "elsewhere", "a.mp4", "deep/b.mp4")
    make(tmp_path / "root", "c/d.mp4")
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/c/self").symlink_to(tmp_path / "root")
    (tmp_path / "root/above").symlink_to(tmp_path)
    root = tmp_path / "root"
    listing = Listing.index(root)
    assert listing.files() == ["c/d.mp4", "linked/a.mp4", "linked/deep/b.mp4"]
    assert listing.unlistable == {
        f"{root}/above": f"it is the same folder as {tmp_path}",
        f"{root}/c/self": f"it is the same folder as {root}",
        f"{root}/linked/deep/up": f"it is the same folder as {root}/linked",
    }


def test_a_folder_that_is_linked_too_is_listed_where_it_really_is(tmp_path):
    make(tmp_path, "z/a.mp4")
    (tmp_path / "b").symlink_to(tmp_path / "z")
    assert Listing.index(tmp_path).files() == ["z/a.mp4"]


@pytest.fixture
def refuse(monkeypatch):
    """Makes os.scandir refuse some folders, as it does not for the superuser."""

    def refuse_these(*refused):
        scandir = os.scandir

        def maybe(path):
            if os.path.basename(path) in refused:
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", maybe)

    return refuse_these


def test_a_sub_folder_that_cannot_be_listed_is_remembered(tmp_path, refuse):
    make(tmp_path / "root", "a/b.mp4", "c/d.mp4")
    refuse("a")
    listing = Listing.index(tmp_path / "root")
    assert listing.files() == ["c/d.mp4"]
    assert listing.unlistable == {f"{tmp_path}/root/a": "Permission denied"}


def test_a_root_that_cannot_be_listed_is_an_error(tmp_path, refuse):
    make(tmp_path / "root", "a.mp4")
    refuse("root")
    with pytest.raises(MoloError, match=r"cannot list the video folder .*root: Permission denied"):
        Listing.index(tmp_path / "root")
    with pytest.raises(MoloError, match=r"cannot list .*/gone: No such file or directory"):
        Listing.index(tmp_path / "gone")
    with pytest.raises(MoloError, match=r"cannot list .*a\.mp4: Not a directory"):
        Listing.index(tmp_path / "root/a.mp4")


def test_names_of_any_bytes_are_listed_and_can_be_printed(tmp_path):
    make(tmp_path, b"\xff\xfe.mp4", "tab\tnew\nline.mp4", "ä 'quoted' \"#%.mp4")
    files = Listing.index(tmp_path).files()
    assert [printable(name) for name in files] == [
        r"tab\tnew\nline.mp4",
        "ä 'quoted' \"#%.mp4",
        r"\xff\xfe.mp4",
    ]
    for name in files:
        printable(name).encode()


def test_odd_characters_that_can_be_printed_are_kept():
    assert printable("a\u00a0b\u200d東\u2028\ud800") == "a\u00a0b\u200d東\\u2028\\ud800"
