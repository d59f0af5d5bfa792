import numpy as np
import pytest

from molo_jax import banks
from molo_jax.bank.description import Layout


@pytest.mark.parametrize(
    ("rows", "runs"),
    [
        ([0], [[0, 1]]),
        ([0, 1, 2], [[0, 3]]),
        ([5, 7, 8, 11], [[5, 6], [7, 9], [11, 12]]),
    ],
)
def test_rows_are_told_as_runs_that_give_the_rows_again(rows, runs):
    assert banks._runs(np.array(rows)) == runs
    assert np.concatenate([np.arange(*run) for run in runs]).tolist() == rows


def test_a_row_has_its_place_without_the_files_of_the_bank():
    layout = Layout(None, (), (2, 3))
    classes, videos, draws = layout.places(np.arange(10))
    assert classes.tolist() == [0, 0, 1, 1, 1] * 2
    assert videos.tolist() == [0, 1, 0, 1, 2] * 2
    assert draws.tolist() == [0] * 5 + [1] * 5
    np.testing.assert_array_equal(layout.rows(classes, videos, draws), np.arange(10))
