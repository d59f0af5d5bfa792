"""What a folder of videos holds: every layout, and what is no video."""

import os

import pytest

from molo_jax.data.lists.directory import Directory, printable
from molo_jax.errors import MoloError


def make(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()


def test_files_are_listed_by_extension_in_any_case_and_depth(tmp_path):
    make(tmp_path, "b/c/d.MKV", "a.mp4", "b/e.WebM", "b/f.avi", "b/g.MOV", "b/h.txt", "i")
    folder = Directory.index(tmp_path)
    assert folder.files() == ["a.mp4", "b/c/d.MKV", "b/e.WebM", "b/f.avi", "b/g.MOV"]
    assert folder.folders() == ["b", "b/c"]
    assert (folder.defects(), folder.unlistable) == ({}, {})


def test_hidden_files_and_folders_are_no_videos(tmp_path):
    make(tmp_path, ".a.mp4", "._b.mp4", ".cache/c.mp4", "b/._d.mp4", ".mp4", "d.mp4")
    folder = Directory.index(tmp_path)
    assert folder.files() == ["d.mp4"]
    assert folder.folders() == ["b"]


def test_everything_else_has_a_reason_and_hidden_folders_are_not_entered(tmp_path):
    make(tmp_path, "a.mp4", "b/c.txt", "b/d", "b/e.tar.gz", ".f/g.mp4", "b/.h", "i/j.mp4")
    (tmp_path / "k").symlink_to(tmp_path / "i")
    (tmp_path / "l.txt").symlink_to(tmp_path / "gone")
    assert Directory.index(tmp_path).others() == {
        ".f/": "its name begins with a dot",
        "b/.h": "its name begins with a dot",
        "b/c.txt": ".txt is no extension of a video",
        "b/d": "it has no extension",
        "b/e.tar.gz": ".gz is no extension of a video",
        "l.txt": ".txt is no extension of a video",
    }


def test_what_is_named_like_a_video_and_is_none_has_a_reason(tmp_path):
    make(tmp_path, "a.mp4/frame.jpg", "f.avi")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone")
    (tmp_path / "c.mp4").symlink_to(tmp_path / "c.mp4")
    os.mkfifo(tmp_path / "d.mp4")
    (tmp_path / "e.avi").symlink_to(tmp_path / "f.avi")
    (tmp_path / "g.mp4").symlink_to(tmp_path / "d.mp4")
    folder = Directory.index(tmp_path)
    assert folder.files() == ["e.avi", "f.avi"]
    assert folder.defects() == {
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
    folder = Directory.index(root)
    assert folder.files() == ["c/d.mp4", "linked/a.mp4", "linked/deep/b.mp4"]
    assert folder.unlistable == {
        f"{root}/above": f"it is the same folder as {tmp_path}",
        f"{root}/c/self": f"it is the same folder as {root}",
        f"{root}/linked/deep/up": f"it is the same folder as {root}/linked",
    }


def test_a_folder_that_is_linked_too_is_listed_where_it_really_is(tmp_path):
    make(tmp_path, "z/a.mp4")
    (tmp_path / "b").symlink_to(tmp_path / "z")
    assert Directory.index(tmp_path).files() == ["z/a.mp4"]


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
    folder = Directory.index(tmp_path / "root")
    assert folder.files() == ["c/d.mp4"]
    assert folder.unlistable == {f"{tmp_path}/root/a": "Permission denied"}


def test_a_root_that_cannot_be_listed_is_an_error(tmp_path, refuse):
    make(tmp_path / "root", "a.mp4")
    refuse("root")
    with pytest.raises(MoloError, match=r"cannot list the video folder .*root: Permission denied"):
        Directory.index(tmp_path / "root")
    with pytest.raises(MoloError, match=r"cannot list .*/gone: No such file or directory"):
        Directory.index(tmp_path / "gone")
    with pytest.raises(MoloError, match=r"cannot list .*a\.mp4: Not a directory"):
        Directory.index(tmp_path / "root/a.mp4")


def test_names_of_any_bytes_are_listed_and_can_be_printed(tmp_path):
    make(tmp_path, b"\xff\xfe.mp4", "tab\tnew\nline.mp4", "ä 'quoted' \"#%.mp4")
    files = Directory.index(tmp_path).files()
    assert [printable(name) for name in files] == [
        r"tab\tnew\nline.mp4",
        "ä 'quoted' \"#%.mp4",
        r"\xff\xfe.mp4",
    ]
    for name in files:
        printable(name).encode()


def test_odd_characters_that_can_be_printed_are_kept():
    assert printable("a\u00a0b\u200d東\u2028\ud800") == "a\u00a0b\u200d東\\u2028\\ud800"


def test_all_usual_kinds_of_video_are_taken_whatever_their_letter_case(tmp_path):
    kinds = ["mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "wmv"]
    kinds += ["flv", "3gp", "ogv", "ts", "mts", "m2ts", "vob", "gif"]
    names = [f"{place}.{kind}" for place, kind in enumerate(kinds)]
    names += [f"{place}_.{kind.upper()}" for place, kind in enumerate(kinds)]
    for name in names:
        (tmp_path / name).touch()
    assert Directory.index(tmp_path).files() == sorted(names)
