"""The benchmarks: lists are fetched and checked, and what departs from them is named."""

import dataclasses
import hashlib

import pytest

from molo_jax import downloads
from molo_jax.benchmarks import BENCHMARKS
from molo_jax.data.lists import official
from molo_jax.data.lists.official import check_apart, fetch_lists, read_lists
from molo_jax.data.lists.splits import read_split
from molo_jax.errors import MoloError, UsageError


def write_lists(folder, **lines):
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in lines.items():
        (folder / f"{split}_few_shot.txt").write_text("\n".join(text) + "\n")
    return folder


LISTS = {
    "train": ["train0//videos/run/a.avi", "train0//videos/run/b.avi", "train1//videos/jump/c.avi"],
    "val": ["val0//videos/sit/d.avi"],
    "test": ["test0//videos/eat/e.avi", "test1//videos/lie/f.avi"],
}


def test_an_unknown_benchmark_is_answered_with_those_that_there_are():
    with pytest.raises(UsageError, match="'ucf11' is no benchmark; choose one of ssv2, ssv2_small"):
        fetch_lists("ucf11")


def test_lists_come_from_the_pinned_address_into_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def fetch(url, path, digest, *, otherwise):
        asked.append((url, path, digest))
        assert "--config.data.split_dir" in otherwise

    monkeypatch.setattr(downloads, "fetch", fetch)
    folder = fetch_lists("ssv2")
    assert folder == tmp_path / "molo_jax/splits/ssv2_full"
    url, path, digest = asked[2]
    assert url.endswith(
        "/MoLo/f7f73b6dd8cba446b414b1c47652ab26033bc88e/configs/projects/MoLo/ssv2_full/"
        "test_few_shot.txt"
    )
    assert url.startswith("https://raw.githubusercontent.com/alibaba-mmai-research/")
    assert path == folder / "test_few_shot.txt"
    assert digest == "83a1ac8e7c6f720c55dced1dc9deae1c11fb8271f8a3bb1f0952aed068646a1e"
    assert len(asked) == 3


def test_without_network_one_message_names_address_place_and_flag(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(official, "_LISTS", "http://127.0.0.1:9")
    with pytest.raises(MoloError) as error:
        fetch_lists("ucf101")
    message = str(error.value)
    assert message.startswith("http://127.0.0.1:9/ucf101/train_few_shot.txt cannot be downloaded (")
    assert f"put it at {tmp_path}/molo_jax/splits/ucf101/train_few_shot.txt (its SHA" in message
    assert "), or name a folder" in message


def test_own_lists_are_read_with_a_warning_that_counts(tmp_path, caplog):
    lists = read_lists("hmdb51", write_lists(tmp_path, **LISTS))
    assert lists["train"].class_names == ("run", "jump")
    assert len(caplog.records) == 3
    assert (
        "train_few_shot.txt is not the official list (3 videos of 2 classes, the smallest of 1;"
        " official: 4280 videos of 31 classes, the smallest of 102)" in caplog.text
    )


def test_the_official_list_is_read_without_a_word(tmp_path, monkeypatch, caplog):
    folder = write_lists(tmp_path, **LISTS)
    known = BENCHMARKS["hmdb51"]
    lists = {
        split: dataclasses.replace(
            known.lists[split],
            sha256=hashlib.sha256((folder / f"{split}_few_shot.txt").read_bytes()).hexdigest(),
        )
        for split in LISTS
    }
    monkeypatch.setitem(BENCHMARKS, "hmdb51", dataclasses.replace(known, lists=lists))
    read_lists("hmdb51", folder)
    assert caplog.records == []


def test_a_list_that_is_absent_is_named(tmp_path):
    write_lists(tmp_path, train=LISTS["train"], val=LISTS["val"])
    with pytest.raises(MoloError, match=r"test_few_shot\.txt: No such file"):
        read_lists("hmdb51", tmp_path)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("test2//videos/run/z.avi", "class 'run'"),
        ("test2//videos/sit/d.avi", "video 'videos/sit/d"),
    ],
)
def test_what_is_trained_must_not_be_tested(tmp_path, line, what):
    folder = write_lists(tmp_path, **LISTS | {"test": [*LISTS["test"], line]})
    with pytest.raises(MoloError, match=f"test_few_shot.txt and .* share the {what}"):
        read_lists("hmdb51", folder)


def test_numbers_and_a_common_folder_are_no_class_names(tmp_path):
    numbers = write_lists(tmp_path / "a", train=["train8/78687", "train50/42326"])
    assert read_split(numbers / "train_few_shot.txt", "train").class_names == ("", "")
    common = write_lists(
        tmp_path / "b",
        train=["train0//all/a.mp4", "train1//all/b.mp4", "train2//x/c.mp4", "train2//y/d.mp4"],
        test=["test0//all/e.mp4", "test1//all/f.mp4"],
    )
    splits = [read_split(common / f"{name}_few_shot.txt", name) for name in ("train", "test")]
    assert splits[0].class_names == ("", "", "")
    check_apart(splits)
