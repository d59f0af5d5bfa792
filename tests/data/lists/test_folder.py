"""Lists made of a folder: its layouts, the division of classes, and what is left out."""

import dataclasses
import os

import pytest

from molo_jax.data.lists import folder as folder_module
from molo_jax.data.lists.folder import FolderLists, divide, read_folder, write_lists
from molo_jax.data.lists.splits import Video, read_split
from molo_jax.errors import MoloError, UsageError

CLASSES = ("dance", "jump", "run", "sit", "walk")


@pytest.fixture
def make(tmp_path):
    """Makes empty files below the folder `videos` and returns it."""

    def make_files(*names):
        root = tmp_path / "videos"
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    return make_files


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "table.csv"
        path.write_text(text)
        return path

    return write


def names(lists: FolderLists):
    """The paths of each class by split and name."""
    return {
        split: {
            name: [video.name for video in videos]
            for name, videos in zip(one.class_names, one.videos, strict=True)
        }
        for split, one in lists.splits.items()
    }


def test_a_folder_for_each_class_is_divided_by_the_ratio(make):
    root = make(*(f"{name}/{n}.mp4" for name in CLASSES for n in (2, 1)))
    lists = read_folder(root, ratio=(3, 1, 1), seed=4)
    division = names(lists)
    assert [len(division[split]) for split in ("train", "val", "test")] == [3, 1, 1]
    assert sorted(name for classes in division.values() for name in classes) == list(CLASSES)
    train = lists.splits["train"]
    assert train.classes == (0, 1, 2)
    assert list(train.class_names) == sorted(train.class_names)
    first, second = train.class_names[:2]
    assert train.videos[:2] == (
        (Video(f"{first}/1.mp4", 0, 1), Video(f"{first}/2.mp4", 0, 2)),
        (Video(f"{second}/1.mp4", 1, 3), Video(f"{second}/2.mp4", 1, 4)),
    )
    assert (train.name, train.path, lists.left_out) == ("train", str(root), {})


def test_the_division_depends_on_the_seed_and_the_names_alone():
    classes = [f"class {n}" for n in range(100)]
    division = divide(classes, (64, 12, 24), 0)
    assert divide(reversed(classes), (64, 12, 24), 0) == division
    counts = [list(division.values()).count(split) for split in ("train", "val", "test")]
    assert counts == [64, 12, 24]
    other = divide(classes, (64, 12, 24), 1)
    assert 20 < sum(division[name] != other[name] for name in classes) < 80
    composed, decomposed = "R\u00fcckw\u00e4rts", "Ru\u0308ckwa\u0308rts"
    for seed in range(9):
        one = divide(["a", "b", composed], (1, 1, 1), seed)[composed]
        assert divide(["a", "b", decomposed], (1, 1, 1), seed)[decomposed] == one
    # Fixed, so that what is published can be repeated.
    assert divide(CLASSES, (3, 1, 1), 0) == {
        "dance": "train",
        "jump": "train",
        "walk": "train",
        "run": "val",
        "sit": "test",
    }


@pytest.mark.parametrize(
    ("total", "ratio", "counts"),
    [
        (100, (64, 12, 24), [64, 12, 24]),
        (10, (64, 12, 24), [7, 1, 2]),
        (5, (64, 12, 24), [3, 1, 1]),
        (3, (64, 12, 24), [1, 1, 1]),
        (2, (64, 12, 24), [1, 0, 1]),
        (7, (1, 0, 1), [4, 0, 3]),
        (4, (0, 0, 5), [0, 0, 4]),
        (9, (1000, 1, 1), [7, 1, 1]),
    ],
)
def test_the_ratio_is_rounded_by_largest_remainders_and_leaves_no_split_empty(total, ratio, counts):
    division = list(divide(map(str, range(total)), ratio, 0).values())
    assert [division.count(split) for split in ("train", "val", "test")] == counts


@pytest.mark.parametrize("ratio", [(0, 0, 0), (1, -1, 1), (1, 1)])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(UsageError, match=r"the ratio is \(.*expected three numbers such as"):
        divide(CLASSES, ratio, 0)


def counts(lists: FolderLists):
    return {split: len(one.classes) for split, one in lists.splits.items()}


def test_the_default_division_makes_the_episodes_possible_where_there_are_enough_classes(make):
    root = make(*(f"class {n:02}/a.mp4" for n in range(18)))
    lists = read_folder(root, n_way=5)
    assert counts(lists) == {"train": 8, "val": 5, "test": 5}
    division = lists.division
    assert (division.by, division.ratio, division.instead_of) == ("ratio", (8, 5, 5), (12, 2, 4))
    assert division.classes["val"] == lists.splits["val"].class_names
    assert names(read_folder(root, n_way=5)) == names(lists)
    # A ratio that was given is taken as it is, and so is one that nothing can be made of.
    given = read_folder(root, ratio=(64, 12, 24), n_way=5)
    assert counts(given) == counts(read_folder(root, n_way=7)) == {"train": 12, "val": 2, "test": 4}
    assert (given.division.ratio, given.division.instead_of) == ((64, 12, 24), None)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_default_division_that_was_enough_before_is_the_same(make, seed):
    root = make(*(f"class {n:02}/a.mp4" for n in range(50)))
    assert names(read_folder(root, n_way=5, seed=seed)) == names(
        read_folder(root, ratio=(64, 12, 24), seed=seed)
    )


def test_a_table_that_lists_one_of_several_classes_is_what_is_named(make, table):
    root = make(*(f"{name}/a.mp4" for name in CLASSES))
    source = table("class,split\nrun,train\n")
    with pytest.raises(MoloError) as error:
        read_folder(root, split_file=source)
    assert str(error.value) == (
        f"{source} lists one class only, 'run'; expected a row for every class that is used"
        f" ({root} has 5 folders)"
    )


def test_an_empty_folder_is_called_empty(make):
    root = make("a/b.mp4")
    (root / "a/b.mp4").unlink()
    (root / "a").rmdir()
    with pytest.raises(MoloError, match=r"no video in .*videos, which is empty; expected <class>/"):
        read_folder(root)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folders_of_splits_are_taken_as_they_are(make, val):
    root = make("train/run/a.mp4", "train/sit/b.avi", f"{val}/walk/c.mov", "test/jump/d.webm")
    assert names(read_folder(root)) == {
        "train": {"run": ["train/run/a.mp4"], "sit": ["train/sit/b.avi"]},
        "val": {"walk": [f"{val}/walk/c.mov"]},
        "test": {"jump": ["test/jump/d.webm"]},
    }


def test_a_split_may_be_absent(make):
    root = make("train/run/a.mp4", "test/sit/b.mp4", "test/walk/b.mp4")
    assert list(read_folder(root).splits) == ["train", "test"]
    assert list(read_folder(make("train/run/a.mp4")).splits) == ["train", "test"]


def test_what_is_in_no_class_folder_of_a_split_is_left_out(make):
    root = make("train/run/a.mp4", "test/sit/b.mp4", "test/c.mp4", "test/lie/d.txt", "val/e.txt")
    lists = read_folder(root)
    expected = {"train": {"run": ["train/run/a.mp4"]}, "test": {"sit": ["test/sit/b.mp4"]}}
    assert names(lists) == expected
    assert lists.left_out == {
        "test/c.mp4": "not in the folder of a class",
        "test/lie/": "no video in it",
        "test/lie/d.txt": ".txt is no extension of a video",
        "val/e.txt": ".txt is no extension of a video",
    }


def test_train_may_be_the_name_of_a_class(make):
    root = make("bus/a.mp4", "train/b.mp4", "car/c.mp4")
    classes = [name for split in names(read_folder(root)).values() for name in split]
    assert sorted(classes) == ["bus", "car", "train"]


def test_folders_below_that_of_a_class_belong_to_it(make):
    root = make("run/day 1/a.mp4", "run/day 2/x/a.mp4", "sit/day 1/a.mp4", "sit/b.mp4")
    lists = read_folder(root, ratio=(1, 0, 0))
    expected = {
        "run": ["run/day 1/a.mp4", "run/day 2/x/a.mp4"],
        "sit": ["sit/b.mp4", "sit/day 1/a.mp4"],
    }
    assert names(lists) == {"train": expected}


def test_a_table_of_classes_divides_the_folders(make, table):
    root = make("run/a.mp4", "sit/b.mp4", "sit/c.mp4", "walk/d.mp4", "e.mp4")
    source = table("class,split\nsit,test\nrun,train\n")
    lists = read_folder(root, split_file=source)
    expected = {"train": {"run": ["run/a.mp4"]}, "test": {"sit": ["sit/b.mp4", "sit/c.mp4"]}}
    assert names(lists) == expected
    assert lists.left_out == {"e.mp4": f"not in {source}", "walk/d.mp4": f"not in {source}"}
    assert lists.splits["test"].path == str(source)


def test_a_table_of_classes_outweighs_the_folders_of_splits(make, table):
    root = make("train/run/a.mp4", "test/run/b.mp4", "test/sit/c.mp4")
    lists = read_folder(root, split_file=table("class,split\nrun,test\nsit,train\n"))
    expected = {"run": ["test/run/b.mp4", "train/run/a.mp4"]}
    assert names(lists) == {"train": {"sit": ["test/sit/c.mp4"]}, "test": expected}


def test_a_table_of_videos_names_classes_that_no_folder_has(make, table):
    root = make("all/a 1.mp4", "all/b.avi", "all/deep/c.webm", "d.mp4")
    source = table("video,class,split\nall/a 1,to run,train\nall/b.avi,to sit,test\nc,to run,train")
    lists = read_folder(root, split_file=source)
    expected = {"to run": ["all/a 1.mp4", "all/deep/c.webm"]}
    assert names(lists) == {"train": expected, "test": {"to sit": ["all/b.avi"]}}
    assert lists.left_out == {"d.mp4": f"not in {source}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "class,split\nrun,train\nsitt,test",
            r"table\.csv:3: .*videos has no folder with videos of the class 'sitt'; did you mean"
            r" 'sit'\?",
        ),
        (
            "video,class,split\nrun/clip_1,run,train\nrun/clip_3,sit,test",
            r"table\.csv:3: there is no file for the video 'run/clip_3' in .*videos: missing; did"
            r" you mean 'run/clip_[12]\.mp4'\?",
        ),
        (
            "video,class,split\nrun/clip_1,run,train\nrun/clip_1.mp4,sit,test",
            r"table\.csv:2: there is no file for the video 'run/clip_1' in .*: missing: .*clip_1"
            r"\.mp4 is the file of run/clip_1\.mp4",
        ),
        (
            "video,class,split\nrun/clip_1,run,train\nrun/clip_1,sit,test",
            r"table\.csv:3: line 2 has the video 'run/clip_1\.mp4' too",
        ),
        ("class,split\nrun,train\nrun,val", r"table\.csv:3: class 'run' is in val, but line 2"),
    ],
)
def test_a_table_that_does_not_fit_the_folder_is_named_with_its_line(make, table, text, message):
    root = make("run/clip_1.mp4", "run/clip_2.mp4", "sit/b.mp4")
    with pytest.raises(MoloError, match=message):
        read_folder(root, split_file=table(text))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a.txt", "b/.c"],
            r"no video in .*videos, but a\.txt \(\.txt is no extension of a video\) and 2 more;"
            " expected <class>/<video> with one of the extensions",
        ),
        (["a.mp4", "b.mp4"], r"no video in .*videos is in the folder of a class, such as a\.mp4;"),
        (["all/run/a.mp4", "all/sit/b.mp4"], "all videos in .* are of one class, 'all'; .* root"),
        (
            ["train/run/a.mp4", "train/sit/b.mp4", "test/run/c.mp4"],
            "class 'run' is in test and train of .*videos; a class must be in one split only. Move"
            " its videos into one folder, or all classes directly into the root, where they are"
            " divided$",
        ),
        (
            ["train/run/a.mp4", "test/sit/b.mp4", "more/c.mp4"],
            r"folders of splits \(test, train\) and the folder 'more'; expected either",
        ),
        (["val/run/a.mp4", "valid/sit/b.mp4", "test/x/c.mp4"], "has 'val' and 'valid', which mean"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused_with_the_remedy(make, files, message):
    with pytest.raises(MoloError, match=message):
        read_folder(make(*files))


def test_what_no_list_can_hold_is_left_out_with_its_reason(make):
    root = make(
        *("run/a.mp4", "run/a.avi", "run/b/a.avi", "run/new\nline.mp4", "c.mp4", "run/d.xyz"),
        *("sit/é #1 'x'.mp4", "sit/e.mp4/f.jpg", "walk/g.txt"),
        *("sit/.DS_Store", "sit/.cache/h.mp4", "sit/README"),
    )
    (root / "sit" / "gone.mp4").symlink_to(root / "nothing")
    open(os.path.join(os.fsencode(root), b"sit/\xff.mp4"), "wb").close()
    lists = read_folder(root, ratio=(1, 0, 0))
    expected = {"run": ["run/a.mp4", "run/b/a.avi"], "sit": ["sit/é #1 'x'.mp4"]}
    assert names(lists) == {"train": expected}
    assert lists.left_out == {
        "c.mp4": "not in the folder of a class",
        "run/a.avi": "a second file of that name; run/a.mp4 is used",
        "run/d.xyz": ".xyz is no extension of a video",
        "sit/.DS_Store": "its name begins with a dot",
        "sit/.cache/": "its name begins with a dot",
        "sit/README": "it has no extension",
        "run/new\nline.mp4": "its path has control characters",
        "sit/e.mp4": "a directory of that name",
        "sit/e.mp4/f.jpg": ".jpg is no extension of a video",
        "sit/gone.mp4": "a link to nothing",
        "sit/\udcff.mp4": "its path is not UTF-8",
        "walk/": "no video in it",
        "walk/g.txt": ".txt is no extension of a video",
    }


def test_a_class_folder_that_is_a_link_to_another_is_left_out(make):
    root = make("run/a.mp4", "sit/b.mp4")
    (root / "again").symlink_to(root / "run")
    lists = read_folder(root, ratio=(1, 0, 0))
    assert list(names(lists)["train"]) == ["run", "sit"]
    expected = f"it cannot be listed: it is the same folder as {root}/run"
    assert lists.left_out == {"again": expected}


def test_the_video_that_is_offered_for_an_unknown_one_is_of_its_folder(make, table):
    root = make("run/clip_1.mp4", "runs/klip_1s.mp4")
    with pytest.raises(MoloError, match=r"missing; did you mean 'run/clip_1\.mp4'\?"):
        read_folder(root, split_file=table("video,class,split\nrun/klip_1,run,train\n"))


def test_lists_that_are_written_are_read_back_the_same(make, tmp_path):
    odd = '  it\'s "a" class, №1 '
    root = make(f"{odd}/ x .mp4", f"{odd}/y/#%.mov", *(f"{name}/-1 2.webm" for name in CLASSES))
    lists = read_folder(root)
    write_lists(lists.splits, tmp_path / "new" / "splits")
    assert len(lists.splits) == 3
    for name, split in lists.splits.items():
        path = tmp_path / "new" / "splits" / f"{name}_few_shot.txt"
        back = read_split(path, name)
        assert dataclasses.replace(split, path=str(path), names=()) == back
        # One class of one list has a sub-folder, which is found to belong to it.
        assert back.class_names == split.class_names or len(split.classes) == 1
    assert path.read_text().startswith("test0//")


def test_a_list_is_replaced_as_a_whole_or_not_at_all(make, tmp_path, monkeypatch):
    lists = read_folder(make("train/run/a.mp4", "test/sit/b.mp4"))
    for name in ("train", "val", "other"):
        (tmp_path / f"{name}_few_shot.txt").write_text("old")
    write_lists(lists.splits, tmp_path)
    assert (tmp_path / "train_few_shot.txt").read_text() == "train0//train/run/a.mp4\n"
    assert not (tmp_path / "val_few_shot.txt").exists()
    assert (tmp_path / "other_few_shot.txt").read_text() == "old"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module.os, "replace", full)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        write_lists(lists.splits, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
