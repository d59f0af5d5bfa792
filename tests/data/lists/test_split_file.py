"""Tables that divide classes or videos: what is understood, and what a message says."""

import pytest

from molo_jax.data.lists.split_file import Row, closest, read_split_file
from molo_jax.errors import MoloError


@pytest.fixture
def read(tmp_path):
    def read_text(text: str | bytes):
        path = tmp_path / "s.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_split_file(path)

    return read_text


@pytest.mark.parametrize(
    "text",
    [
        "class,split\nrun,train\nsit down,test\n",
        "class\tsplit\r\nrun\ttrain\r\nsit down\ttest",
        "\ufeffClass; Split\nrun; Training \nsit down; TEST\n",
        'split,"comment, if any",class\ntrain,"a, b",run\n"test",,"sit down"\n',
    ],
    ids=["commas", "tabs, windows", "semicolons, byte order mark", "quotes, other columns"],
)
def test_classes_are_read_with_any_separator_and_order_of_columns(read, text):
    assert read(text) == [Row(2, "train", "run", None), Row(3, "test", "sit down", None)]


def test_videos_are_read_with_their_lines(read):
    text = 'video,class,split\n\n"run/a, b.mp4",run,valid\n,,\nc,walk,validation\n'
    assert read(text) == [Row(3, "val", "run", "run/a, b.mp4"), Row(5, "val", "walk", "c")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"s\.csv:1: the header is ''; expected the columns class,split or video,class,split"),
        ("run,train\nsit,test\n", r"s\.csv:1: the header is 'run,train'"),
        ("class,split\n\n", r"s\.csv has a header only"),
        ("class,split\nrun,train\nsit\n", r"s\.csv:3: 1 fields; the header has 2"),
        ("class,split\nrun,\n", r"s\.csv:2: the split is empty"),
        ("video,class,split\n ,run,test\n", r"s\.csv:2: the video is empty"),
        (
            "class,split\nrun,train\nsit,tset\n",
            r"s\.csv:3: unknown split 'tset'; expected train, val or test; did you mean 'test'\?",
        ),
        (
            "class,split\nrun,train\nsit,val\nrun,test\n",
            r"s\.csv:4: class 'run' is in test, but line 2 has it in train; classes that are",
        ),
        (b"class,split\nl\xe4ufer,train\n", r"s\.csv is not UTF-8 text \(byte 0xe4\); save it as"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(read, text, message):
    with pytest.raises(MoloError, match=message):
        read(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MoloError, match=r"cannot read the split file .*no\.csv: No such file"):
        read_split_file(tmp_path / "no.csv")


def test_the_closest_name_is_offered_if_one_is_close():
    assert closest("runing", ["walking", "running"]) == "; did you mean 'running'?"
    assert closest("xyz", ["walking", "running"]) == ""


def test_a_field_of_any_length_is_shown_by_its_beginning(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("class,split\nrun," + "x" * 100_000)
    with pytest.raises(MoloError) as error:
        read_split_file(path)
    assert f"unknown split '{'x' * 120}'… (100,000 characters); expected" in str(error.value)
