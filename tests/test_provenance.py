"""What a checkpoint remembers of its training, and what follows from it."""

import dataclasses
import json
import logging

import pytest

from molo_jax import provenance
from molo_jax.data.lists.splits import Split, Video
from molo_jax.errors import MoloError
from molo_jax.methods.settings import METHODS, TRAINING_ONLY, MoLoSettings, own_fields
from molo_jax.provenance import ListRecord, Overlap, Provenance
from molo_jax.results import Comparison


def a_list(classes, split="train", names=()):
    """A list from the videos of each class."""
    videos = [
        Video(name, class_id, line)
        for class_id, members in classes.items()
        for line, name in enumerate(members, start=1)
    ]
    return dataclasses.replace(Split.of(split, f"{split}.txt", videos), names=names)


def record(classes, **changes):
    return ListRecord.of("folder", a_list(classes, **changes))


TRAINED = record({0: ["wave/1", "wave/2"], 1: ["jump/1"], 2: ["clap/1", "clap/2"]})
VALIDATED = record({0: ["bow/1"], 1: ["sit/1"]}, split="val")
ORIGIN = Provenance().followed_by(TRAINED, VALIDATED, {"data.num_frames": 8})
# What another division of the same videos tests: a class of each kind, and a new one.
TESTED = record({0: ["jump/1"], 1: ["run/1"], 2: ["bow/1"], 3: ["clap/9"]}, split="test")


def test_the_record_of_a_list_survives_json_and_forgets_no_video():
    again = ListRecord.from_json(json.loads(json.dumps(TRAINED.to_json())))
    assert again == TRAINED
    assert [each.name for each in again.classes] == ["wave", "jump", "clap"]
    assert [len(each.videos) for each in again.classes] == [2, 1, 2]
    origin = Provenance.of_meta(json.loads(json.dumps(ORIGIN.to_meta())))
    assert origin == ORIGIN


def test_a_list_has_another_digest_if_one_video_changes_or_changes_its_class():
    base = record({0: ["a", "b"], 1: ["c"]})
    assert record({0: ["a", "b"], 1: ["c"]}).digest == base.digest
    assert record({0: ["a"], 1: ["c", "b"]}).digest != base.digest
    assert record({0: ["a", "b"], 1: ["d"]}).digest != base.digest


def test_tested_classes_that_were_trained_on_or_chosen_by_are_found_by_name():
    assert provenance.overlap(ORIGIN, TESTED, "test") == Overlap(["jump", "clap"], ["bow"])
    # Of what is validated on it is no surprise that it was validated on.
    assert provenance.overlap(ORIGIN, TESTED, "val") == Overlap(["jump", "clap"], [])


def test_classes_without_names_are_found_by_any_of_their_videos():
    origin = Provenance().followed_by(record({0: ["101", "102"], 1: ["201"]}), None, {})
    tested = record({7: ["301", "102"], 8: ["302"], 9: ["200"]}, split="test")
    assert provenance.overlap(origin, tested, "test") == Overlap(["class 7"], [])
    # A class that has got another name is found by its videos, too.
    renamed = record({0: ["102"], 1: ["9"]}, names=("waving", "running"))
    assert provenance.overlap(origin, renamed, "test").trained == ["waving"]


def test_testing_what_was_trained_on_is_one_error_with_the_names_and_both_ways_out():
    found = provenance.overlap(ORIGIN, TESTED, "test")
    message = (
        r"^best/3 was trained on 2 classes \('jump', 'clap'\) and was chosen by its accuracy on 1"
        r" class \('bow'\), which the test split holds; .* Use the lists of that training, or"
        r" train anew with another --workdir; --config\.eval\.on_trained_classes=warn goes on all"
        r" the same$"
    )
    with pytest.raises(MoloError, match=message):
        provenance.check_new("best/3", found, "test", refuse=True)


def test_with_warn_the_log_names_them_and_on_the_train_split_they_are_what_is_wanted(caplog):
    found = provenance.overlap(ORIGIN, TESTED, "test")
    provenance.check_new("best/3", found, "test", refuse=False)
    assert [entry.getMessage() for entry in caplog.records] == [
        "best/3 was trained on 2 classes ('jump', 'clap'), which the test split holds",
        "best/3 was chosen by its accuracy on 1 class ('bow'), which the test split holds",
    ]
    caplog.clear()
    own = provenance.overlap(ORIGIN, TRAINED, "train")
    provenance.check_new("best/3", own, "train", refuse=True)
    assert own.trained == ["wave", "jump", "clap"]
    assert caplog.records == []


def test_of_a_checkpoint_that_says_nothing_it_is_said_that_nothing_is_known(caplog):
    origin = Provenance.of_meta({"config": {}, "source": "official.pyth"})
    found = provenance.overlap(origin, TESTED, "test")
    assert found == Overlap(None, None)
    provenance.check_new("runs/official/0", found, "test", refuse=True)
    assert "it is not known what runs/official/0 was trained on" in caplog.text


def test_weights_that_a_training_began_with_count_as_well_known_or_not():
    official = Provenance.of_meta({})
    later = official.followed_by(TRAINED, VALIDATED, {})
    assert provenance.overlap(later, TESTED, "test").trained == ["jump", "clap"]
    new = record({0: ["skip/1"]}, split="test")
    assert provenance.overlap(later, new, "test").trained is None
    first = Provenance().followed_by(record({0: ["skip/1"], 1: ["x/1"]}), None, {})
    second = first.followed_by(TRAINED, None, {})
    assert provenance.overlap(second, new, "test").trained == ["skip"]
    # Going on with the same list adds nothing.
    assert second.followed_by(TRAINED, None, {}) == second


def test_going_on_needs_the_same_classes_and_says_when_their_videos_have_changed(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    provenance.check_same_classes("x/5", ORIGIN, TRAINED)
    assert caplog.records == []
    more = record({0: ["wave/1", "wave/3"], 1: ["jump/1"], 2: ["clap/1", "clap/2"]})
    provenance.check_same_classes("x/5", ORIGIN, more)
    assert "the train list has changed since x/5, its classes are the same" in caplog.text
    swapped = record({0: ["wave/1"], 1: ["run/1"], 2: ["clap/1"]})
    message = (
        r"x/5 was trained on other classes: 'jump' then, 'run' in its place now.*init_from=x/5"
    )
    with pytest.raises(MoloError, match=message):
        provenance.check_same_classes("x/5", ORIGIN, swapped)
    with pytest.raises(MoloError, match="3 classes then, 2 now"):
        provenance.check_same_classes("x/5", ORIGIN, record({0: ["wave/1"], 1: ["jump/1"]}))
    # A checkpoint that does not say what it was trained on is no reason to refuse.
    provenance.check_same_classes("x/5", Provenance.of_meta({}), swapped)


class Source:
    """A tested split, as far as a comparison looks at it."""

    split = a_list({0: ["run/1"], 1: ["skip/1"]}, split="test")
    pixels = "frames of the video files"


CLIPS = {"num_frames": 8, "sampling": "segments", "resize": 256, "crop": 224}
SETTINGS = MoLoSettings(num_classes=3, backbone="resnet18")


def compare(seen, origin, *, refuse=True):
    tested = ListRecord.of("folder", Source.split)
    return Comparison.of("best/3", origin, tested, "test", seen=seen, refuse=refuse)


def test_every_setting_that_changes_what_is_seen_is_compared_and_named_with_both_values(caplog):
    before = provenance.settings_seen(
        CLIPS, Source(), dataclasses.replace(SETTINGS, num_classes=9), "tf32"
    )
    origin = dataclasses.replace(ORIGIN, seen=before | {"normalization": [0, 1]})
    assert compare(before, origin).settings == {
        "normalization": {"training": [0, 1], "now": [0.45, 0.225]}
    }
    clips = {"num_frames": 3, "sampling": "window", "resize": 320, "crop": 192}
    other = dataclasses.replace(SETTINGS, positional_a=2048.0, dropout_position=0.7)
    origin = dataclasses.replace(ORIGIN, seen=before)
    found = compare(provenance.settings_seen(clips, Source(), other, "bf16"), origin)
    assert found.settings == {
        "data.num_frames": {"training": 8, "now": 3},
        "data.sampling": {"training": "segments", "now": "window"},
        "data.resize": {"training": 256, "now": 320},
        "data.crop": {"training": 224, "now": 192},
        "method.positional_a": {"training": 10.0, "now": 2048.0},
        "precision": {"training": "tf32", "now": "bf16"},
    }
    sentence = (
        "not as in training (best/3): data.num_frames was 8, is 3; data.sampling was 'segments', is"
        " 'window'; data.resize was 256, is 320; data.crop was 224, is 192; method.positional_a was"
        " 10.0, is 2048.0; precision was 'tf32', is 'bf16'"
    )
    assert found.notes("test") == [f"warning: {sentence}"]
    assert sentence in caplog.text


def test_what_a_method_uses_in_training_alone_is_not_compared():
    seen = provenance.settings_seen(CLIPS, Source(), SETTINGS, "tf32")
    assert {key: value for key, value in seen.items() if key.startswith("method.")} == {
        "method.matching": "bi_mhm",
        "method.smoothing": 0.1,
        "method.streams": "both",
        "method.positional_a": 10.0,
        "method.positional_b": 1.0,
        "method.motion_weight": 0.3,
        "method.single_direction": False,
    }


@pytest.mark.parametrize("known", METHODS.values(), ids=METHODS)
def test_a_setting_with_the_name_of_a_term_of_the_loss_is_its_weight(known):
    weights = [field for name, field in own_fields(known).items() if name in known.losses]
    assert all(field.metadata[TRAINING_ONLY] for field in weights), weights


def test_the_settings_of_a_checkpoint_that_knew_one_method_are_compared_by_their_names_of_now():
    meta = ORIGIN.to_meta() | {"seen": {"model.positional_a": 512.0, "data.crop": 32}}
    origin = Provenance.of_meta(json.loads(json.dumps(meta)))
    assert origin.seen == {"method.positional_a": 512.0, "data.crop": 32}


def test_the_frames_of_other_images_are_another_setting():
    before = Source()
    before.pixels = "JPEG images of quality 95, 420, at most 4 of a video"
    origin = dataclasses.replace(
        ORIGIN, seen=provenance.settings_seen(CLIPS, before, SETTINGS, "tf32")
    )
    now = {"training": before.pixels, "now": Source.pixels}
    seen = provenance.settings_seen(CLIPS, Source(), SETTINGS, "tf32")
    assert compare(seen, origin).settings == {"pixels": now}


def test_what_was_trained_on_stands_below_the_table_where_it_may_be_tested():
    origin = Provenance().followed_by(record({0: ["run/1"], 1: ["x/1"]}), None, {})
    found = compare({}, origin, refuse=False)
    assert found.classes.trained == ["run"]
    assert found.notes("test") == [
        "warning: the network was trained on 1 class ('run'), which the test split holds"
    ]
    with pytest.raises(MoloError, match=r"best/3 was trained on 1 class \('run'\)"):
        compare({}, origin)


@pytest.mark.parametrize(
    "damaged",
    [
        {"trained_on": [5], "validated_on": [], "seen": {}, "init_from": ""},
        {"trained_on": [{"classes": 3}], "validated_on": [], "seen": {}, "init_from": ""},
        {"trained_on": []},
        {"config": {"data": 3}},
    ],
)
def test_a_damaged_record_of_a_training_is_one_message(damaged):
    message = "what the checkpoint says of its training is damaged"
    with pytest.raises(MoloError, match=message):
        Provenance.of_meta(damaged)
