import csv
import dataclasses
import json
import os
import re
import shutil

import jax
import numpy as np
import programs
import pytest
import thin_backbone
from flax import nnx

from molo_jax import build, predict_run
from molo_jax.config import base_config
from molo_jax.data.video.decode import read_whole
from molo_jax.engine.evaluation import FeatureStore
from molo_jax.errors import UsageError
from molo_jax.evaluator import Evaluator
from molo_jax.methods.settings import METHODS
from molo_jax.prediction.api import classifier_of, load_classifier
from molo_jax.prediction.clips import ClipRule
from molo_jax.prediction.inputs import Query, list_support, parse_seconds
from molo_jax.prediction.sources import make_network, variables_of
from molo_jax.weights.networks import abstract_network

RULE = ClipRule(num_frames=4, resize=40, crop=32)
THIN_PREDICT = (thin_backbone.PROGRAM, "molo_jax.predict")


def random_network(method="molo"):
    settings = METHODS[method](num_classes=3, backbone=thin_backbone.THIN.name)
    rng, values = np.random.default_rng(1), {}
    for state in abstract_network(settings)[1:]:
        for path, leaf in nnx.to_flat_state(state):
            fan_in = max(1, int(np.prod(leaf.shape[:-1])))
            value = rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
            value = 0.75 + rng.random(leaf.shape) / 2 if path[-1] in ("scale", "var") else value
            values[path] = value.astype(leaf.dtype)
    return make_network("random weights", settings, values, rule=RULE)


@pytest.fixture(scope="module", autouse=True)
def _thin_backbone():
    with thin_backbone.registered():
        yield


@pytest.fixture(scope="module")
def network():
    return random_network()


@pytest.fixture(scope="module")
def clips(motion_data, tmp_path_factory):
    """Three classes of three clips each, named by letters; the fourth clips are the queries."""
    root = tmp_path_factory.mktemp("clips")
    for letter, number in zip("abc", (3, 5, 8), strict=True):
        for part, videos in (("support", (0, 1, 2)), ("queries", (3,))):
            (root / part / letter).mkdir(parents=True)
            for video in videos:
                source = motion_data / f"videos/test_motion{number}/{video}.mp4"
                shutil.copy(source, root / part / letter / f"{video}.mp4")
    return root


@pytest.fixture(scope="module")
def saved(network, clips, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "gym.molo"
    classifier = classifier_of(network, cache=False)
    folders = sorted((clips / "support").iterdir())
    classifier.fit({folder.name: sorted(folder.glob("*.mp4")) for folder in folders})
    classifier.save(path, with_weights=True)
    return path, classifier


def test_a_program_predicts_exactly_what_an_evaluation_predicts(network, motion_data):
    config = base_config()
    config.data.update(
        source="videos",
        root=str(motion_data / "videos"),
        split_dir=str(motion_data / "splits"),
        num_frames=RULE.num_frames,
        resize=RULE.resize,
        crop=RULE.crop,
    )
    config.eval.update(n_way=3, shots=(2,), n_query=1)
    data = build.evaluation(config).data
    evaluator = Evaluator(data, network.graphdef)
    weights = network.params, network.batch_stats
    store = FeatureStore(lambda requests: evaluator.embed(*weights, requests), capacity=100)
    sampler, classifier = data.samplers[3, 2], classifier_of(network, cache=False)
    how = {name: data.reading[name] for name in ("sampling", "resize")}
    for index in range(4):
        episode = sampler.resolve(sampler(index), data.dataset.is_bad)
        assert store.ensure((*episode.support, *episode.query))
        rows = [np.int32([store.rows(part)]) for part in (episode.support, episode.query)]
        table, labels = store.table(), episode.support_labels[None]
        expected = np.asarray(evaluator.match(3, *weights, table, *rows, labels))[0]
        read = lambda request: data.dataset.read_clip(request, **how)  # noqa: E731
        order = np.argsort(episode.support_labels, kind="stable")
        support = [read(episode.support[i]) for i in order]
        names = [str(episode.support_labels[i]) for i in order]
        classifier.fit(support, names)
        found = classifier.predict([read(request) for request in episode.query])
        assert [int(each.nearest) for each in found] == expected.argmax(axis=1).tolist()
        distances = np.array([list(each.distances.values()) for each in found])
        np.testing.assert_allclose(distances, -expected, rtol=0, atol=3e-6)


def test_the_command_predicts_tells_bad_clips_and_writes_its_files(saved, clips, tmp_path):
    path, classifier = saved
    queries = tmp_path / "queries"
    shutil.copytree(clips / "queries", queries)
    (queries / "a/кадр.mp4").write_bytes(b"no video")
    (queries / "unbekannt").mkdir()
    shutil.copy(clips / "support/a/0.mp4", queries / "unbekannt/0.mp4")
    outputs = [tmp_path / name for name in ("out.csv", "out.json", "page.html")]
    result = programs.run(
        *(*THIN_PREDICT, f"--classifier={path}", f"--videos={queries}", "--nocache"),
        *(f"--videos={tmp_path}/absent.mp4", f"--report={outputs[2]}"),
        *(f"--out={outputs[0]}", f"--out={outputs[1]}"),
    )
    assert result.returncode == 1, result.stderr
    error = result.stderr[result.stderr.index("error: ") :].splitlines()
    assert error[0] == "error: 2 of the clips could not be used:"
    assert error[1].startswith(f"{queries}/a/кадр.mp4: not a video file")
    assert error[2].startswith(f"{tmp_path}/absent.mp4: cannot be opened: No such file")
    assert len(error) == 3
    assert "Traceback" not in result.stderr

    rows = {row["video"]: row for row in csv.DictReader(outputs[0].open(encoding="utf-8"))}
    expected = [clips / f"queries/{letter}/3.mp4" for letter in "abc"]
    for source in expected:
        row = rows[str(queries / source.relative_to(clips / "queries"))]
        prediction = classifier.predict(source)
        assert row["predicted"] == prediction.label
        assert row["runner_up"] == prediction.runner_up
        assert row["truth"] == source.parent.name
        assert float(row["probability"]) == pytest.approx(prediction.probability, rel=1e-3)
        for name, distance in prediction.distances.items():
            assert float(row[f"distance_{name}"]) == pytest.approx(distance, rel=1e-3)
    assert rows[f"{queries}/unbekannt/0.mp4"]["truth"] == "unbekannt"
    assert len(rows) == 4

    content = json.loads(outputs[1].read_text(encoding="utf-8"))
    assert [each["video"] for each in content["not_usable"]] == [
        f"{queries}/a/кадр.mp4",
        f"{tmp_path}/absent.mp4",
    ]
    right = sum(row["predicted"] == row["truth"] for row in rows.values())
    assert f"accuracy: {right} of 3 clips of the classes" in result.stdout
    assert "1 of these clips are clips of the support set themselves" in result.stdout
    assert re.search(r"^seconds: start .*, prediction \(6 clips\) ", result.stdout, re.M)
    assert "кадр" in outputs[2].read_text(encoding="utf-8")


def test_names_that_cannot_be_printed_are_shown_with_what_they_hold(
    saved, clips, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    (tmp_path / "q").mkdir()
    good, bad = (tmp_path / "q" / os.fsdecode(name) for name in (b"\xff\x1b[31m.mp4", b"\xfe.mp4"))
    shutil.copy(clips / "support/a/0.mp4", good)
    bad.write_bytes(b"no video")
    command = (*THIN_PREDICT, f"--classifier={saved[0]}", "--nocache")
    result = programs.run(*command, f"--videos={tmp_path}/q", f"--out={tmp_path}/out.csv")
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert "q/\\xff\\x1b[31m.mp4  a " in result.stdout
    assert f"\n{tmp_path}/q/\\xfe.mp4: not a video file" in result.stderr
    assert "\\xff\\x1b[31m.mp4,a," in (tmp_path / "out.csv").read_text()


def test_the_command_needs_no_tensorflow(saved, clips):
    result = programs.run(
        *("-X", "importtime", *THIN_PREDICT, f"--classifier={saved[0]}", "--nocache"),
        f"--videos={clips / 'queries/b/3.mp4'}",
    )
    assert result.returncode == 0, result.stderr
    assert saved[1].predict(clips / "queries/b/3.mp4").nearest in result.stdout
    lines = [line.split("|") for line in result.stderr.splitlines() if line.startswith("import ")]
    imported = {line[-1].strip().split(".")[0] for line in lines}
    assert {"molo_jax", "jax", "av"} <= imported
    assert not {"tensorflow", "tensorflow_datasets", "torch"} & imported


def test_a_program_needs_neither_tensorflow_nor_ml_collections(saved, clips):
    program = (
        f"import sys; sys.path.append({os.path.dirname(__file__)!r});"
        "from thin_backbone import BACKBONES, THIN; BACKBONES[THIN.name] = THIN;"
        "from molo_jax.prediction.api import load_classifier;"
        f"print(load_classifier({str(saved[0])!r}, cache=False).predict("
        f"{str(clips / 'queries/b/3.mp4')!r}).nearest);"
        "slow = {'tensorflow', 'tensorflow_datasets', 'torch', 'ml_collections'};"
        "print(*slow & set(sys.modules))"
    )
    result = programs.run("-c", program)
    assert result.stdout.split() == [saved[1].predict(clips / "queries/b/3.mp4").nearest]


OPTIONS = predict_run.Options(
    weights="x",
    classifier=None,
    method="",
    precision="tf32",
    unknown="auto",
    cache=True,
    seconds=60.0,
)


@pytest.fixture
def weights(network, monkeypatch, tmp_path):
    """Stands for a source of weights, and for a user who never predicted before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(predict_run, "open_network", lambda source, **_: network)


def test_weights_and_a_support_set_make_a_classifier_that_is_saved(weights, clips, tmp_path):
    root = tmp_path / "support"
    shutil.copytree(clips / "support", root)
    (root / "a/broken.mp4").write_bytes(b"no video")
    shutil.copy(root / "a/0.mp4", root / "a/again.mp4")
    shutil.copy(root / "a/1.mp4", root / "b/from a.mp4")
    (root / "c/1.mp4").unlink()
    (root / "c/2.mp4").unlink()
    (root / "loose.mp4").touch()
    classifier = predict_run.make_classifier(OPTIONS, list_support(root))
    assert {name: len(each) for name, each in classifier.support.items()} == {
        "a": 3,
        "b": 4,
        "c": 1,
    }
    told = "\n".join(predict_run.notes(classifier))
    assert f"{root}/a/broken.mp4 (an example of 'a'): not a video file" in told
    assert f"{root}/a/again.mp4 is the same clip as {root}/a/0.mp4; it counts once" in told
    assert "is in 2 classes, “a” and “b”" in told
    assert "class “c” has one clip, so it cannot be tested: add a second" in told
    classifier.save(tmp_path / "gym.molo", with_weights=True)
    options = dataclasses.replace(OPTIONS, weights=None, classifier=str(tmp_path / "gym.molo"))
    again = predict_run.make_classifier(options, None)
    query = clips / "queries/b/3.mp4"
    assert again.predict(query).distances == classifier.predict(query).distances


def test_a_second_run_on_the_same_clips_embeds_none_of_them(weights, clips, tmp_path):
    first = predict_run.make_classifier(OPTIONS, list_support(clips / "support"))
    assert first.embedder.embedded == 9
    # The content of a clip counts, not its place.
    moved = shutil.copytree(clips / "support", tmp_path / "moved")
    second = predict_run.make_classifier(OPTIONS, list_support(moved))
    assert second.embedder.embedded == 0
    assert second.support["a"][0].name == f"{moved}/a/0.mp4"
    query = clips / "queries/a/3.mp4"
    assert second.predict(query).distances == first.predict(query).distances
    third = predict_run.make_classifier(
        dataclasses.replace(OPTIONS, cache=False), list_support(clips / "support")
    )
    assert third.embedder.embedded == 9


def test_a_long_video_is_labeled_along_its_time(saved, write_motion, tmp_path, capsys):
    _, classifier = saved
    video = tmp_path / "long.mp4"
    write_motion(video, direction=0, start=0, frames=36)  # three seconds
    timeline = predict_run.Timeline(
        window=1.0,
        stride=0.5,
        windows=[tmp_path / "windows.csv"],
        segments=tmp_path / "segments.csv",
        subtitles=[tmp_path / "a.srt", tmp_path / "a.vtt"],
        annotated=tmp_path / "drawn.mp4",
    )
    queries = [Query(str(video)), Query(str(tmp_path / "absent.mp4"))]
    (failure,) = predict_run.label_videos(classifier, queries, timeline)
    assert failure.name == str(tmp_path / "absent.mp4")
    windows = list(csv.DictReader((tmp_path / "windows.csv").open()))
    assert [float(row["start"]) for row in windows] == [0, 0.5, 1, 1.5, 2]
    # The frames at the centers of four equal parts of a window of twelve frames.
    numbers = [1, 4, 7, 10]
    frames = [frame for _, frame in sorted(read_frames(video, numbers).items())]
    prediction = classifier.predict(np.stack(frames))
    assert windows[0]["predicted"] == prediction.label
    assert float(windows[0]["distance_a"]) == pytest.approx(prediction.distances["a"], rel=1e-3)
    segments = list(csv.DictReader((tmp_path / "segments.csv").open()))
    assert (float(segments[0]["start"]), float(segments[-1]["end"])) == (0, 3)
    printed = capsys.readouterr().out
    assert str(video) in printed
    assert segments[0]["predicted"] in printed
    assert (tmp_path / "a.vtt").read_text().startswith("WEBVTT\n")
    assert (tmp_path / "a.srt").exists()
    assert len(read_frames(tmp_path / "drawn.mp4", range(36))) == 36


def read_frames(path, numbers):
    wanted = np.array(list(numbers))
    return read_whole(str(path), lambda length, fps: wanted, lambda frame: frame)[2]


WEIGHTS, SUPPORT, VIDEOS = "--weights=resnet18", "--support=.", "--videos=a.mp4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SUPPORT, VIDEOS], "--weights is missing; for example: python -m molo_jax.predict"),
        ([WEIGHTS, VIDEOS], "--support is missing"),
        ([WEIGHTS, SUPPORT], "--videos=FILE or --videos=DIR is missing"),
        (["--classifier=a.molo", SUPPORT, VIDEOS], "--classifier has its classes already"),
        (["--classifier=a.molo", "--method=otam", VIDEOS], "--classifier has its method already"),
        ([WEIGHTS, SUPPORT, "--videos="], "--videos= is empty: expected a clip or a folder"),
        ([WEIGHTS, SUPPORT, VIDEOS, "--unknown=-2"], "--unknown=-2: expected auto, off or a num"),
        ([WEIGHTS, SUPPORT, VIDEOS, "--out=a.txt"], "--out=a.txt: expected a name that ends in"),
        ([WEIGHTS, SUPPORT, VIDEOS, "--out=no/a.csv"], "expected a file in a folder that exists"),
        ([WEIGHTS, SUPPORT, VIDEOS, "--stride=1s"], "--stride is for long videos; it needs --wind"),
        ([WEIGHTS, SUPPORT, VIDEOS, "--window=x"], "--window=x: expected a time above 0, such as"),
        ([WEIGHTS, SUPPORT, VIDEOS, "--with_weights"], "--with_weights belongs to --save=FILE"),
        ([WEIGHTS, SUPPORT, VIDEOS, "--method=tsn"], "--method=tsn"),
        (["--wieghts=a"], "unknown flag --wieghts; did you mean --weights?"),
    ],
)
def test_a_mistake_in_the_flags_is_said_before_anything_is_loaded(arguments, message, tmp_path):
    result = programs.run("-m", "molo_jax.predict", *arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_times_have_units():
    assert [parse_seconds("window", t) for t in ("2s", "0.5", "500ms", "1min", "2h")] == [
        2,
        0.5,
        0.5,
        60,
        7200,
    ]
    for wrong in ("0s", "-1s", "two", "nan", "infs", ""):
        with pytest.raises(UsageError, match=f"--window={wrong}: .*the units are ms, s, min and h"):
            parse_seconds("window", wrong)


@pytest.fixture
def folder(tmp_path):
    """Two clips, weights and a classifier, which are empty files."""
    for name in ("support/a/1.mp4", "queries/2.mp4", "w.pth", "gym.molo"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "other"),
    [
        (["--save=queries/2.mp4"], "a clip of --videos (queries/2.mp4)"),
        (["--save=support/a/1.mp4"], "a clip of --support (support/a/1.mp4)"),
        (["--save=./w.pth"], "--weights=w.pth"),
        (["--save=out.csv"], "--out=out.csv"),
        (["--report=link.html"], "a clip of --videos (queries/2.mp4)"),
        (["--window=2s", "--annotate=queries/2.mp4"], "a clip of --videos (queries/2.mp4)"),
        (["--window=2s", "--segments=out.csv"], "--out=out.csv"),
        (["--window=2s", "--subtitles=a.srt", "--subtitles=./a.srt"], "--subtitles=a.srt"),
    ],
)
def test_no_file_of_the_run_is_written_over_another_one(folder, flags, other, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "link.html").symlink_to("queries/2.mp4")
    given = ["--weights=w.pth", "--support=support", "--videos=queries", "--out=out.csv"]
    result = programs.run("-m", "molo_jax.predict", *given, *flags)
    assert result.returncode == 2, result.stderr
    message = f"error: {flags[-1]} is the same file as {other}; choose another name"
    assert result.stderr.strip() == message


def test_a_classifier_is_not_written_over_itself(folder, monkeypatch):
    monkeypatch.chdir(folder)
    command = ("-m", "molo_jax.predict", "--classifier=gym.molo", "--save=./gym.molo")
    result = programs.run(*command)
    assert result.returncode == 2, result.stderr
    assert "--save=./gym.molo is the same file as --classifier=gym.molo" in result.stderr


def test_flags_that_are_not_given_leave_a_saved_classifier_as_it_was(network, clips, tmp_path):
    values = variables_of(network)
    network = make_network("x", network.settings, values, rule=network.rule, precision="float32")
    classifier = classifier_of(network, cache=False, unknown=1.7)
    classifier.fit({name: sorted((clips / "support" / name).glob("*.mp4")) for name in "ab"})
    classifier.save(tmp_path / "mine.molo", with_weights=True)
    options = dataclasses.replace(
        OPTIONS,
        weights=None,
        classifier=str(tmp_path / "mine.molo"),
        cache=False,
        unknown=None,
        precision=None,
    )
    given = dataclasses.replace(options, unknown="off", precision="tf32")
    made = [predict_run.make_classifier(each, None) for each in (options, given)]
    found = [(each.unknown, each.embedder.network.precision.name) for each in made]
    assert found == [(1.7, "float32"), ("off", "tf32")]


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"molo"}))
def test_every_method_predicts_and_is_kept_in_files(clips, method, tmp_path):
    folders = sorted((clips / "support").iterdir())
    support = {folder.name: sorted(folder.glob("*.mp4")) for folder in folders}
    network = random_network(method)
    classifier = classifier_of(network, cache=tmp_path / "cache").fit(support)
    found = classifier.predict(sorted((clips / "support").glob("*/0.mp4")))
    # A support clip is nearest to the class that it is in.
    assert [each.nearest for each in found] == ["a", "b", "c"]
    # What is kept on disk, and in a file, is the same.
    second = classifier_of(network, cache=tmp_path / "cache").fit(support)
    assert second.embedder.embedded == 0
    classifier.save(tmp_path / "gym.molo", with_weights=True)
    third = load_classifier(tmp_path / "gym.molo", cache=False)
    query = clips / "queries/b/3.mp4"
    expected = classifier.predict(query).distances
    assert second.predict(query).distances == expected
    assert third.predict(query).distances == expected
    jax.clear_caches()
