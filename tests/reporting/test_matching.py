"""Lines between the frames of a query and of a class."""

import numpy as np
import pytest

from molo_jax.methods.evidence import BI_MHM, OTAM, Evidence, Metric
from molo_jax.reporting import matching
from molo_jax.reporting.strips import SIDE

BOTH = Metric(BI_MHM)
# Two queries, two classes, three frames each.
FRAMES = np.full((2, 2, 3, 3), 9.0)
FRAMES[1, 0] = [[1, 5, 5], [5, 5, 3], [2, 5, 5]]


def evidence(frames=FRAMES, each_clip=False, metric=BOTH):
    return {
        "appearance": Evidence(np.array([[4.0, 1.0], [6.0, 2.0]]), 1.0, frames, metric, each_clip),
        "motion": Evidence(np.array([[1.0, 3.0], [2.0, 8.0]]), 0.5),
    }


def test_distances_are_the_weighted_sum_of_the_streams():
    np.testing.assert_allclose(matching.distances(evidence()), [[4.5, 2.5], [7.0, 6.0]])


def test_the_lines_are_the_matched_pairs_the_nearest_one_the_thickest():
    (drawn,) = matching.streams_of(evidence(), 1, 0, 0, (3, 3))
    assert (drawn.name, drawn.share) == ("appearance", 6.0)
    # From the query 1-1, 2-3, 3-1; from the class 1-1, 1-2 (first of equal ones), 2-3.
    pairs = [(line.start / SIDE, line.end / SIDE, line.solid) for line in drawn.lines]
    assert pairs == [(0.5, 0.5, True), (0.5, 1.5, False), (1.5, 2.5, True), (2.5, 0.5, False)]
    thick = [line.thickness for line in drawn.lines]
    assert thick[0] == max(thick) == 6.0
    assert thick[1] == min(thick) == 1.2
    assert drawn.lines[2].text == "2 and 3: distance 3"
    assert "1 and 2: distance 5; 2 and 3: distance 3" in drawn.text


def test_changes_of_frames_begin_between_two_frames():
    (drawn,) = matching.streams_of(evidence(), 1, 0, 0, (4, 4))
    assert drawn.lines[0].start == SIDE
    assert drawn.lines[2].end == 3 * SIDE
    assert drawn.lines[2].text.startswith("2→3 and 3→4")


def test_a_single_direction_has_solid_lines_only():
    metric = Metric(BI_MHM, single_direction=True)
    (drawn,) = matching.streams_of(evidence(metric=metric), 1, 0, 0, (3, 3))
    assert [line.solid for line in drawn.lines] == [True] * 3


def test_an_alignment_is_said_to_be_softened():
    (drawn,) = matching.streams_of(evidence(metric=Metric(OTAM, 0.1)), 1, 0, 0, (3, 3))
    assert (
        drawn.note == "; the lines are the best alignment, and the method softens over all of them"
    )
    (plain,) = matching.streams_of(evidence(), 1, 0, 0, (3, 3))
    assert plain.note == ""


def test_where_each_clip_is_compared_the_nearest_of_its_class_is_shown():
    frames = np.full((2, 4, 3, 3), 9.0)
    frames[1, 3] = 1.0
    found = evidence(frames, each_clip=True)
    assert matching.shown_clip(found, 1, [1, 3]) == 3
    assert matching.shown_clip(found, 1, [1]) == 1
    assert matching.shown_clip(evidence(), 1, [1, 3]) == 1
    (drawn,) = matching.streams_of(found, 1, 0, 3, (3, 3))
    assert drawn.lines[0].text.endswith("distance 1")


@pytest.mark.parametrize(
    ("each_clip", "count", "note"),
    [
        (False, 1, ""),
        (True, 5, "Shown is the nearest of its 5 clips; the distance is the mean over them."),
        (False, 5, "The lines are those to the mean of its 5 clips, of which the first is shown."),
    ],
)
def test_the_note_says_what_the_frames_stand_for(each_clip, count, note):
    assert matching.note_of(evidence(each_clip=each_clip), count) == note
