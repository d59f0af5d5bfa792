"""Listed videos are found in every layout, and never one of another class."""

import os

import pytest

from molo_jax.data.lists.finder import Found, VideoFolder

KINETICS = "train_256/air_drumming/-VtLx-mcPds_000012_000022.mp4"
CLIP = "-VtLx-mcPds_000012_000022"


@pytest.fixture
def finder(tmp_path):
    """Looks for names among empty files; returns what is found, as paths below the root."""

    def below(path):
        return os.path.relpath(path, tmp_path) if path else ""

    def look(files, *names, anywhere=True):
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        find = VideoFolder.index(tmp_path).finder(names, anywhere)
        answers = []
        for found in map(find, names):
            reason = found.reason.replace(f"{tmp_path}/", "")
            answers.append(Found(below(found.path), tuple(map(below, found.others)), reason))
        return answers

    return look


MISSING = Found("", (), "missing")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("78687", "78687.webm"),
        ("78687", "a/b/78687.mp4"),
        ("78687", "78687"),
        ("a.b", "a.b.mov"),
        ("a.b", "a.b"),
        ("a.b", "x/a.b.mkv"),
        ("a/film.txt", "a/film.txt"),
        ("videos/run/x.avi", "videos/run/x.avi"),
        ("videos/run/x.avi", "videos/run/x.AVI"),
        ("videos/run/x.avi", "videos/run/x.mp4"),
        ("videos/run/x.avi", "videos/run/x.avi.mp4"),
        ("videos/run/x.avi", "run/x.webm"),
        ("videos/run/x.avi", "x.avi"),
        ("videos/run/x.avi", "other/deep/x.avi.mkv"),
        (KINETICS, f"air drumming/{CLIP}.mp4"),
        (KINETICS, f"k400/train/Air-Drumming/{CLIP}.mkv"),
        (KINETICS, f"{CLIP}.webm"),
        (KINETICS, "air drumming/-VtLx-mcPds.mp4"),
        ("val_256/run/DcwyDVypfYg.mp4", "val/run/DcwyDVypfYg_000003_000013.mp4"),
        ("./a//b.mp4", "a/b.mp4"),
    ],
)
def test_a_video_is_found_in_the_layouts_that_people_have(finder, name, file):
    assert finder([file], name) == [Found(file)]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("78687", "78687.txt"),
        ("78687", "a/78687"),
        ("7868", "78687.mp4"),
        ("film.txt", "a/film.txt"),
        ("../film.txt", "film.txt"),
        ("a/.x.mp4", "a/.x.mp4"),
        ("a/x.mp4", "a/._x.mp4"),
        (KINETICS, "air_drumming/-VtLx-mcPds_000050_000060.mp4"),
        ("a/clip_000012_000022.mp4", "a/clip.mp4"),
        ("a/clip.mp4", "a/clip_000012_000022.mp4"),
        ("", "a.mp4"),
        ("x" * 5000, "a.mp4"),
        ("a.b\0c", "a.mp4"),
    ],
)
def test_what_is_not_the_video_is_not_taken_for_it(finder, name, file):
    assert finder([file], name) == [MISSING]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("7", ["7", "7.mp4", "7.webm", "7.mkv", "7.avi", "7.mov"]),
        ("r/x.avi", ["r/x.avi", "r/x.AVI", "r/x.avi.mp4", "r/x.avi.mov", "r/x.mp4", "r/x.MOV"]),
    ],
)
def test_the_extension_decides_in_the_order_itself_appended_exchanged(finder, name, files):
    assert finder(reversed(files), name) == [Found(files[0], tuple(files[1:]))]


def test_the_path_in_the_list_comes_before_all_others(finder):
    files = ["a/run/x.avi", "videos/run/x.mp4", "x.avi"]
    assert finder(files, "videos/run/x.avi") == [Found("videos/run/x.mp4")]


def test_the_folder_of_the_class_decides_whatever_its_spelling(finder):
    files = ["train/Air Drumming/1.mp4", "train/sit-up/1.mp4", "train/HandStand/1.webm", "1.mp4"]
    names = ["a/air_drumming/1", "a/sit up/1", "a/handstand/1"]
    assert finder(files, *names) == [Found(file) for file in files[:3]]


def test_more_common_folders_are_better(finder):
    files = ["a/run/1.mp4", "b/train/run/1.webm", "run/1.mp4"]
    assert finder(files, "train/run/1.mp4") == [Found("b/train/run/1.webm")]


def test_equally_good_files_are_reported_and_the_one_in_fewer_folders_is_used(finder):
    files = ["backup/run/x.mp4", "run/x.mp4", "run/x.mkv"]
    assert finder(files, "videos/run/x.mp4") == [
        Found("run/x.mp4", ("backup/run/x.mp4", "run/x.mkv"))
    ]
    assert finder(["a/9.webm", "b/9.mp4"], "9") == [Found("b/9.mp4", ("a/9.webm",))]


def test_a_file_that_another_name_lists_is_no_further_file(finder):
    assert finder(["run/x.avi", "run/x.mp4"], "run/x.avi", "run/x.mp4") == [
        Found("run/x.avi"),
        Found("run/x.mp4"),
    ]


def test_one_file_serves_the_name_that_it_fits_best(finder):
    names = ["jump/1.avi", "run/1.avi"]
    assert finder(["x/run/1.mp4"], *names) == [MISSING, Found("x/run/1.mp4")]


def test_the_loser_of_a_file_takes_its_next_best(finder):
    names = ["jump/1.avi", "run/1.avi"]
    files = ["x/run/1.mp4", "y/1.mp4"]
    assert finder(files, *names) == [Found("y/1.mp4"), Found("x/run/1.mp4")]


def test_a_file_that_fits_two_names_equally_serves_neither(finder):
    assert finder(["1.mp4"], "jump/1.avi", "run/1.avi") == [
        Found("", ("1.mp4",), "ambiguous: 1.mp4 also fits run/1.avi"),
        Found("", ("1.mp4",), "ambiguous: 1.mp4 also fits jump/1.avi"),
    ]


def test_a_file_beside_the_folder_of_the_class_is_of_another_class(finder):
    # Otherwise a file that was removed would be replaced by one of another class.
    files = ["v/run/1.mp4", "v/run/2.mp4", "v/jump/more/1.mp4"]
    assert finder(files, "v/jump/2.mp4") == [MISSING]
    assert finder(["replaced/3.mp4"], "v/jump/3.mp4") == [Found("replaced/3.mp4")]


def test_several_files_in_folders_of_other_names_are_ambiguous(finder):
    files = ["a/1.mp4", "b/1.mp4", "c/1.mp4", "d/1.mp4", "e/1.mp4"]
    reason = "ambiguous: a/1.mp4, b/1.mp4, c/1.mp4 and 2 more"
    assert finder(files, "run/1.mp4") == [Found("", tuple(files), reason)]


def test_the_clip_of_a_video_is_preferred_to_a_file_of_its_id(finder):
    files = ["air_drumming/-VtLx-mcPds.mp4", f"{CLIP}.mp4"]
    assert finder(files, KINETICS) == [Found(f"{CLIP}.mp4")]


def test_a_file_of_the_id_is_not_taken_if_two_clips_of_the_video_are_listed(finder):
    other = KINETICS.replace("000012_000022", "000050_000060")
    assert finder(["-VtLx-mcPds.mp4"], KINETICS, other) == [MISSING, MISSING]
    files = ["-VtLx-mcPds.mp4", f"{CLIP}.mp4"]
    assert finder(files, KINETICS, other) == [Found(f"{CLIP}.mp4"), MISSING]


def test_a_name_without_times_takes_no_video_of_several_times(finder):
    files = ["a/DcwyDVypfYg_000003_000013.mp4", "a/DcwyDVypfYg_000020_000030.mp4"]
    reason = f"ambiguous: {files[0]}, {files[1]}"
    assert finder(files, "a/DcwyDVypfYg.mp4") == [Found("", tuple(files), reason)]
    # Unless all others are listed themselves.
    assert finder(files, "a/DcwyDVypfYg.mp4", files[1]) == [Found(files[0]), Found(files[1])]


def test_another_letter_case_or_unicode_form_is_accepted_if_there_is_one_spelling(finder):
    assert finder(["run/CLIP_1.mp4"], "run/clip_1.mp4") == [Found("run/CLIP_1.mp4")]
    composed, decomposed = "R\u00fcck.mp4", "Ru\u0308ck.mp4"
    assert finder([f"lie/{decomposed}"], f"lie/{composed}") == [Found(f"lie/{decomposed}")]
    files = ["go/AB.mp4", "go/Ab.mp4"]
    assert finder(files, "go/ab.mp4") == [
        Found("", tuple(files), "ambiguous: go/AB.mp4, go/Ab.mp4")
    ]


def test_a_file_in_another_letter_case_that_is_listed_itself_is_not_taken(finder):
    assert finder(["run/X.mp4"], "run/x.mp4", "run/X.mp4") == [MISSING, Found("run/X.mp4")]


def test_a_name_whose_file_another_name_has_says_so(finder):
    assert finder(["run/x.mp4"], "run/x", "run/x.mp4") == [
        Found("", (), "missing: run/x.mp4 is the file of run/x.mp4"),
        Found("run/x.mp4"),
    ]


@pytest.mark.parametrize("file", ["x.mp4", "b/x.webm"])
def test_lists_of_the_folder_itself_can_be_held_to_their_paths(finder, file):
    assert finder([file], "a/x.mp4", anywhere=False) == [MISSING]
    assert finder(["a/x.mkv"], "a/x.mp4", anywhere=False) == [Found("a/x.mkv")]


def test_what_is_no_video_is_reported_only_if_there_is_nothing_else(finder, tmp_path):
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.mp4")
    files = ["7.mp4/1.jpg", "8/1.jpg", "9.mp4/1.jpg", "a/9.webm", "c/2.avi/1.jpg", "d/2.avi/1.jpg"]
    assert finder(files, "7", "8", "9", "gone", "pipe", "d/2") == [
        Found("7.mp4", (), "a directory of that name"),
        # Any folder may have such a name: there is no file to speak of.
        Found("", (), "a directory of that name"),
        Found("a/9.webm"),
        Found("gone.mp4", (), "a link to nothing"),
        Found("pipe.mp4", (), "not a regular file"),
        Found("d/2.avi", (), "a directory of that name"),
    ]


def test_a_video_whose_folder_cannot_be_listed_says_so(finder, monkeypatch):
    scandir = os.scandir

    def maybe(path):
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", maybe)
    reason = "its folder cannot be listed: Permission denied"
    assert finder(["shut/in/a.mp4", "b.mp4"], "shut/in/a", "shut/b", "c") == [
        Found("", (), reason),
        Found("b.mp4"),
        MISSING,
    ]


@pytest.mark.parametrize(
    "base",
    [
        "(Rad)Schlag_die_Bank!_[_#1_]&+;~@_0",
        "a b  c",
        'it\'s "quoted" `x`',
        "東京 ñ ü",
        "--help",
        "100%d",
        "back\\slash",
        "n" * 240,
        "new\nline",
    ],
)
def test_odd_names_are_found(finder, base):
    assert finder([f"c/{base}.webm"], f"videos/c/{base}.avi") == [Found(f"c/{base}.webm")]


def test_a_name_does_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "root").mkdir()
    for name in ("film.txt", "film.mp4", "film"):
        (tmp_path / name).touch()
        assert VideoFolder.index(tmp_path / "root").find(f"../{name}") == MISSING


def test_a_name_that_is_not_utf8_is_found_and_harms_no_other(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff.mp4")
    open(path, "wb").close()
    folder = VideoFolder.index(tmp_path)
    assert folder.find(os.fsdecode(b"\xff")).path == os.fsdecode(path)
    assert folder.find("a") == MISSING
    open(path.replace(b".mp4", b".mkv"), "wb").close()
    others = VideoFolder.index(tmp_path).finder(["x/\udcff", "y/\udcff"])("x/\udcff")
    assert others.reason.endswith(r"\xff.mp4 also fits y/\xff")
