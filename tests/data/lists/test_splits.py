import dataclasses

import pytest

from molo_jax.data.lists.splits import Video, read_split
from molo_jax.errors import MoloError


@pytest.fixture
def write_list(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "list.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_ids_without_extension_are_grouped_by_ascending_class_in_file_order(write_list):
    path = write_list("train10/78687\ntrain2/5\ntrain10/42\ntrain0/7\n")
    split = read_split(path, "train")
    assert split.classes == (0, 2, 10)
    assert split.videos == (
        (Video("7", 0, 4),),
        (Video("5", 2, 2),),
        (Video("78687", 10, 1), Video("42", 10, 3)),
    )
    assert split.class_sizes == (1, 1, 2)
    assert (split.name, split.path) == ("train", str(path))


def test_a_path_behind_two_slashes_loses_them_and_keeps_its_odd_signs(write_list):
    path = write_list("val0//videos/cartwheel/(Rad)Schlag die_Bank!_0.avi\nval0//a/b.c/d.mp4\n")
    (videos,) = read_split(path, "val").videos
    assert [v.name for v in videos] == [
        "videos/cartwheel/(Rad)Schlag die_Bank!_0.avi",
        "a/b.c/d.mp4",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "test1/a\r\ntest3/b\r\n",
        "test1/a\ntest3/b",
        "test1/a \ntest3/b\n\n\n",
        "\ufefftest1/a\ntest3/b",
    ],
    ids=["windows", "no-last-newline", "blank-end", "byte-order-mark"],
)
def test_line_ends_and_blank_lines_at_the_end_do_not_matter(write_list, content):
    split = read_split(write_list(content), "test")
    assert [[v.name for v in videos] for videos in split.videos] == [["a"], ["b"]]


@pytest.mark.parametrize(
    "line",
    [
        "78687",
        "train/78687",
        "train8",
        "train8/",
        "train8//",
        "8/78687",
        "train8 78687",
        "train8/a\0b",
    ],
)
def test_a_malformed_line_is_named_with_its_file_number_and_text(write_list, line):
    path = write_list(f"train1/a\n{line}\ntrain1/c\n")
    with pytest.raises(MoloError) as error:
        read_split(path, "train")
    message = str(error.value)
    assert message.startswith(f"{path}:2: malformed line {line!r}")
    assert "expected '<letters><class number>/<video>'" in message


def test_a_blank_line_between_others_is_malformed(write_list):
    path = write_list("train1/a\n\ntrain1/c\n")
    with pytest.raises(MoloError, match=r"list\.txt:2: blank line"):
        read_split(path, "train")


@pytest.mark.parametrize("second", ["train1/a", "train2/a", "train1//a"])
def test_a_video_listed_twice_is_named_with_both_lines(write_list, second):
    path = write_list(f"train1/b\ntrain1/a\n{second}\n")
    with pytest.raises(MoloError, match=r"list\.txt:3: .* line 2 already lists"):
        read_split(path, "train")


def test_two_prefixes_in_one_list_are_refused_since_their_classes_would_merge(write_list):
    path = write_list("kind3/a\nsort3/b\n")
    with pytest.raises(MoloError, match=r"list\.txt:2: 'sort3/b' begins with 'sort'.*'kind'"):
        read_split(path, "train")


def test_the_list_of_another_split_is_refused(write_list):
    path = write_list("test3/a\n")
    with pytest.raises(MoloError, match=r"list\.txt:1: .* split 'test', but .* read as 'train'"):
        read_split(path, "train")


def test_a_prefix_that_names_no_standard_split_is_accepted(write_list):
    assert read_split(write_list("class_7/a\n"), "train").classes == (7,)
    assert read_split(write_list("train7/a\n"), "trainval").classes == (7,)


@pytest.mark.parametrize("content", ["", "\n", " \r\n\n"])
def test_an_empty_list_is_refused(write_list, content):
    with pytest.raises(MoloError, match=r"list\.txt is empty"):
        read_split(write_list(content), "train")


def test_text_that_is_not_utf8_is_named_with_its_line(write_list):
    with pytest.raises(MoloError, match=r"list\.txt:2: not UTF-8 text \(byte 0xff\)"):
        read_split(write_list(b"train1/a\ntrain1/\xff\n"), "train")


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(MoloError, match=r"cannot read the split list .*gone\.txt: No such file"):
        read_split(tmp_path / "gone.txt", "train")


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["0//v/run/a.avi", "0//w/run/b.avi", "1//v/sit/c.avi"], ("run", "sit")),
        (["0//run/1/a", "0//run/2/b", "1//sit/1/c", "1//sit/2/d"], ("run", "sit")),
        (["0//train/run/1/a", "0//train/run/2/b", "1//train/sit/c"], ("run", "sit")),
        (["0//all/run/a", "1//b", "1//all/c"], ("run", "")),
        (["0//v/all/a", "1//v/all/b"], ("", "")),
        (["0//all/1/a", "0//all/2/b"], ("",)),
        (["0/1", "1/2"], ("", "")),
    ],
)
def test_a_class_is_called_after_the_folder_that_is_its_own(write_list, lines, names):
    path = write_list("".join(f"train{line}\n" for line in lines))
    assert read_split(path, "train").class_names == names


def test_class_names_that_are_known_need_no_folder(write_list):
    split = read_split(write_list("train0/1\ntrain4//run/2\n"), "train")
    named = dataclasses.replace(split, names=("to run", "to sit"))
    assert named.class_names == ("to run", "to sit")


def test_a_malformed_line_of_any_length_is_shown_by_its_beginning(tmp_path):
    path = tmp_path / "train_few_shot.txt"
    path.write_text("train0/a\n" + "x" * 10_000_000)
    with pytest.raises(MoloError) as error:
        read_split(path, "train")
    assert f"{path}:2: malformed line '{'x' * 120}'… (10,000,000 characters); " in str(error.value)
    assert len(str(error.value)) < 500
