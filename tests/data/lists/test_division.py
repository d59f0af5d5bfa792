"""Which classes go into which split, and what the console and the report say of it."""

import pytest

from molo_jax.data.lists.division import Division, divide, fitting_ratio, share_out

USUAL = (64, 12, 24)


@pytest.mark.parametrize(
    ("total", "ratio", "n_way", "counts"),
    [
        (18, USUAL, 5, (8, 5, 5)),
        (15, USUAL, 5, (5, 5, 5)),
        (14, USUAL, 5, None),
        # 19.2, 3.6, 7.2: val gets 5, and the others share 25 as 64 to 24.
        (30, USUAL, 5, (18, 5, 7)),
        (24, USUAL, 5, (14, 5, 5)),
        (11, USUAL, 3, (5, 3, 3)),
        (11, (64, 0, 24), 5, (6, 0, 5)),
        (9, (64, 0, 24), 5, None),
        (5, (0, 0, 1), 5, (0, 0, 5)),
    ],
)
def test_the_nearest_division_leaves_the_classes_of_an_episode_in_every_split(
    total, ratio, n_way, counts
):
    assert fitting_ratio(total, ratio, n_way) == counts


@pytest.mark.parametrize("total", [42, 51, 100, 101])
def test_a_division_that_is_enough_stays_as_it_is(total):
    assert fitting_ratio(total, USUAL, 5) == share_out(total, USUAL)


def test_a_division_by_numbers_of_classes_gives_these_numbers():
    classes = [f"class {number}" for number in range(18)]
    split_of = divide(classes, (8, 5, 5), seed=3)
    assert [list(split_of.values()).count(split) for split in ("train", "val", "test")] == [8, 5, 5]


def test_the_console_names_the_classes_of_each_split_and_shortens_long_lines():
    many = tuple(f"a class of many {number:03}" for number in range(40))
    division = Division("ratio", {"train": many, "test": ("sit", "a\nb")}, (8, 0, 5), 7, (9, 0, 2))
    assert division.format().splitlines() == [
        "classes of the splits, by --ratio=8,0,5 and --seed=7 (64,12,24 would give 9,0,2 classes,"
        " too few for an episode):",
        f"  train (40): {', '.join(many[:4])} and 36 more",
        "  test (2): sit, a\\nb",
    ]
    assert Division("folders", {}).format() == "classes of the splits, by the folders:"


def test_the_report_holds_every_class_and_how_the_splits_came_about():
    many = tuple(map(str, range(200)))
    assert Division("ratio", {"train": many}, (1, 0, 0), 7).to_json() == {
        "by": "ratio",
        "ratio": (1, 0, 0),
        "seed": 7,
        "classes": {"train": list(many)},
    }
    assert Division("lists", {"val": ("a",)}).to_json() == {
        "by": "lists",
        "classes": {"val": ["a"]},
    }
