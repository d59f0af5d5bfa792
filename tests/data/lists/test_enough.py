"""What is said where classes or videos are too few for the episodes, with the remedy."""

import pytest

from molo_jax.data.lists.division import Division
from molo_jax.data.lists.enough import Counts, Need, Shortages, count_files, episode_verdict
from molo_jax.data.store.records import Listed

NEEDS = {"train": Need(5, 1, 6), "val": Need(5, 1, 1), "test": Need(5, 5, 1)}


def counts_of(**sizes):
    """The numbers of every class of each split, named split and number; all videos usable."""
    return {
        split: {n: Counts(f"{split}{n}", listed=size) for n, size in enumerate(of_split)}
        for split, of_split in sizes.items()
    }


def by_ratio(classes, ratio):
    names = {split: tuple(c.name for c in ofs.values()) for split, ofs in classes.items()}
    return Division("ratio", names, ratio)


def headline(classes, ratio=None, by="folders", n_way=5):
    division = by_ratio(classes, ratio) if ratio else Division(by, {})
    needs = {split: Need(n_way, NEEDS[split].n_shot, NEEDS[split].n_query) for split in classes}
    return Shortages(classes, needs, division).headline()


@pytest.mark.parametrize(
    ("train", "val", "test", "ratio", "line"),
    [
        (
            *(12, 2, 4, (64, 12, 24)),
            "18 classes, divided into train 12, val 2 and test 4; 5-way episodes need 5 in each:"
            " use --ratio=8,5,5",
        ),
        (
            *(7, 1, 3, (64, 12, 24)),
            "11 classes are not enough to train: 5-way episodes need 15, 5 in each of train, val"
            " and test; tested classes must be new ones: add classes, use --n_way=3 or do without"
            " validation (--ratio=6,0,5)",
        ),
        (
            *(3, 1, 1, (64, 12, 24)),
            "5 classes are not enough to train: 5-way episodes need 15, 5 in each of train, val"
            " and test; tested classes must be new ones: add classes or only test a network that is"
            " trained (--ratio=0,0,1)",
        ),
        (
            *(9, 1, 1, (9, 1, 1)),
            "11 classes are not enough to train: 5-way episodes need 15, 5 in each of train, val"
            " and test; tested classes must be new ones: add classes, use --n_way=3 --ratio=5,3,3"
            " or do without validation (--ratio=6,0,5)",
        ),
        (
            *(0, 0, 4, (0, 0, 1)),
            "4 classes are not enough: 5-way episodes need 5 in test; add classes or use --n_way=4",
        ),
    ],
)
def test_too_few_classes_for_a_ratio_are_answered_with_numbers_that_do(
    train, val, test, ratio, line
):
    classes = counts_of(train=[9] * train, val=[9] * val, test=[9] * test)
    there = {split: of_split for split, of_split in classes.items() if of_split}
    assert headline(there, ratio) == line
    assert len(line) < 210


def test_too_few_classes_in_folders_of_splits_are_not_answered_with_a_ratio():
    classes = counts_of(train=[9] * 8, val=[9] * 3, test=[9] * 4)
    assert headline(classes) == (
        "5-way episodes need 5 classes in every split: train 8, val 3 and test 4; add classes to"
        " val and test, or use --n_way=3"
    )


def test_too_few_videos_name_classes_counts_and_a_smaller_episode():
    classes = counts_of(train=[7, 4, 7, 5, 9], val=[2] * 5, test=[6, 6, 6, 6, 3])
    assert headline(classes) == (
        "train episodes (1-shot with 6 queries) need 7 videos of a class: 'train1' has 4, 'train3'"
        " has 5; add videos, take these classes out or use --train_n_query=3 --n_shot=2"
    )
    many = counts_of(train=[3, 3, 3, 3, 3, 2], val=[2] * 5, test=[6] * 5)
    assert headline(many).split(": ")[1] == (
        "'train0' has 3, 'train1' has 3, 'train2' has 3 and 3 more classes have too few; add"
        " videos, take these classes out or use --train_n_query=1"
    )


def test_a_class_of_a_single_video_is_not_answered_with_a_smaller_episode():
    classes = counts_of(train=[7] * 5, val=[2, 2, 1, 2, 2], test=[6] * 5)
    assert headline(classes) == (
        "val episodes (1-shot with 1 query) need 2 videos of a class: 'val2' has 1; add videos or"
        " take these classes out"
    )


@pytest.mark.parametrize(
    ("need", "usable", "flags"),
    [
        ({"train": Need(2, 1, 6)}, 2, "--train_n_query=1"),
        ({"train": Need(2, 4, 6)}, 3, "--train_n_shot=2 --train_n_query=1"),
        ({"val": Need(2, 5, 3)}, 7, "--n_query=2"),
        ({"test": Need(2, 5, 1)}, 2, "--n_shot=1"),
        ({"test": Need(2, 5, 9)}, 4, "--n_shot=1 --n_query=3"),
    ],
)
def test_the_smaller_episode_that_is_offered_fits(need, usable, flags):
    (split,) = need
    classes = counts_of(**{split: [usable] * 2})
    assert Shortages(classes, need, None).remedy().endswith(f" or use {flags}")
    values = dict(flag.lstrip("-").split("=") for flag in flags.split())
    shot, query = {"train": ("train_n_shot", "train_n_query"), "val": ("train_n_shot", "n_query"),
                   "test": ("n_shot", "n_query")}[split]  # fmt: skip
    taken = int(values.get(shot, need[split].n_shot)) + int(values.get(query, need[split].n_query))
    assert taken == usable


def test_only_what_was_lost_is_to_be_got_or_replaced():
    def remedy(**lost):
        classes = {"test": {0: Counts("a", listed=3, **lost)}}
        return Shortages(classes, {"test": Need(1, 2, 1)}, None).remedy()

    assert remedy(missing=2) == "get the missing videos or take these classes out of the lists"
    assert remedy(unreadable=1) == (
        "replace the unreadable videos, take these classes out of the lists or use --n_shot=1"
    )
    both = "get the missing videos, replace the unreadable videos or take these classes out of the"
    assert remedy(missing=1, unreadable=1).startswith(both)


def test_enough_is_said_of_the_splits_that_there_are():
    every = "every class has enough videos for the episodes asked"
    assert episode_verdict(("train", "val", "test")) == every
    assert episode_verdict(("train",)) == (
        "every class of train has enough videos for the episodes asked; without val and test"
        " nothing is validated or tested"
    )


def test_files_are_counted_before_they_are_opened():
    lists = {
        "val": [
            Listed("a", 3, "x", "/a.mp4"),
            Listed("b", 3, "x", "", "missing"),
            Listed("c", 3, "x", "/c.mp4", "not a regular file"),
            Listed("d", 4, "y\n", "/d.mp4"),
        ]
    }
    assert count_files(lists) == {
        "val": {3: Counts("x", 3, missing=1, unreadable=1), 4: Counts("y\\n", 1)}
    }
    assert count_files(lists, trust=True)["val"][3] == Counts("x", 3, unreadable=1)
