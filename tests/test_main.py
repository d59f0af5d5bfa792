"""The whole command on real files: trained, killed, resumed, evaluated, drawn."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import thin_backbone
from event_files import events
from flax import nnx
from html_page import HtmlPage
from matplotlib.image import imread

from molo_jax import build, evaluate, evaluated, report_run
from molo_jax.cli import load_config
from molo_jax.convert import convert
from molo_jax.data.augment import eval_views
from molo_jax.engine.mesh import make_mesh
from molo_jax.engine.metrics import read_metrics
from molo_jax.errors import MoloError
from molo_jax.evaluator import Evaluator
from molo_jax.methods.episode import Episode
from molo_jax.reporting.features import ClipFeatures
from molo_jax.reporting.work_folder import read_work_folder

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/synthetic.py"
SETTINGS = {
    "model.backbone": "thin",
    "data.num_frames": 2,
    "data.resize": 32,
    "data.crop": 32,
    "data.workers": 1,
    # Random parts of a step, which a resumed run must draw again as they were.
    "method.dropout_position": 0.1,
    "augment.hue": 0.25,
    "augment.flip": 0.5,
    "train.n_way": 3,
    "train.n_query": 1,
    "train.steps": 8,
    "train.episodes_per_step": 1,
    "train.log_every": 1,
    "train.eval_every": 4,
    "train.checkpoint_every": 2,
    "train.val_episodes": 5,
    "train.microbatch": 1,
    "optimizer.warmup_steps": 2,
    "eval.n_way": 3,
    "eval.episodes": 7,
    "eval.episode_batch": 4,
    "eval.clip_batch": 5,
}


def command(data: Path, workdir: Path, *extra: str) -> list[str]:
    overrides = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    return [
        *(sys.executable, thin_backbone.PROGRAM, "molo_jax.main"),
        *(f"--config={CONFIG}", f"--workdir={workdir}"),
        "--config.data.source=videos",
        *(f"--config.data.root={data}/videos", f"--config.data.split_dir={data}/splits"),
        *(*overrides, "--config.eval.shots=1", "--config.eval.shots=3", *extra),
    ]


def run_until(step: int, number: int, arguments: list[str], workdir: Path) -> tuple[int, str]:
    """Runs the command and sends it a signal once `step` is in its metrics."""
    child = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=workdir.parent)
    while child.poll() is None and not any(x["step"] >= step for x in read_metrics(workdir)):
        time.sleep(0.005)
    child.send_signal(number)
    _, errors = child.communicate(timeout=120)
    return child.returncode, errors


def results(workdir: Path) -> dict[str, dict]:
    """Reads the result files, without what names the folder, and without measured times."""
    found = {}
    for path in sorted(workdir.glob("eval_*.json")):
        found[path.name] = json.loads(path.read_text())
        found[path.name].pop("checkpoint")
        assert found[path.name].pop("seconds") > 0
    return found


def lines(workdir: Path) -> list[dict]:
    return [
        {name: value for name, value in line.items() if name != "episodes_per_second"}
        for line in read_metrics(workdir)
    ]


@pytest.fixture(scope="module", autouse=True)
def _thin_backbone():
    with thin_backbone.registered():
        yield


@pytest.fixture(scope="module")
def whole(motion_data, tmp_path_factory):
    """A run from start to end; returns its folder and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    arguments = command(motion_data, workdir)
    options = {"capture_output": True, "text": True, "check": False}
    result = subprocess.run(arguments, cwd=workdir.parent, **options)
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def test_a_run_leaves_checkpoints_metrics_results_and_the_picture(whole):
    workdir, _ = whole
    names = {path.name for path in workdir.iterdir()}
    assert names >= {"checkpoints", "best", "metrics.jsonl", "tensorboard", "summary.png"}
    assert list(results(workdir)) == [
        f"eval_test_3way_{shot}shot{variant}.json"
        for shot in (1, 3)
        for variant in ("", "_static", "_untrained")
    ]
    assert [line["step"] for line in lines(workdir) if line["kind"] == "val"] == [4, 8]
    assert imread(workdir / "summary.png").std() > 0.1


def test_each_validation_is_seen_in_tensorboard(whole):
    workdir, _ = whole
    shown = [(x.step, v.tag) for x in events(workdir) for v in x.summary.value]
    for tag in ("val/episode", "val/classes", "val/margin", "val_class/val_motion5"):
        assert [step for step, found in shown if found == tag] == [4, 8]


def test_a_run_leaves_its_report_with_episodes_and_map_and_its_command(whole, motion_data):
    workdir, _ = whole
    page = HtmlPage((workdir / "report.html").read_text(encoding="utf-8"))
    assert page.problems() == []
    text = page.text()
    best = json.loads((workdir / "eval_test_3way_1shot.json").read_text())
    assert f"3-way 1-shot accuracy {100 * best['accuracy']:.1f} %" in text
    assert "Episode 0: 3-way 1-shot" in text
    assert "Appearance: adds" in text
    assert "Motion: adds" in text
    # Two episodes of three rows, each a support clip and a query.
    assert len([x for x in page.all("svg") if x.get("class") == "strip"]) >= 12
    assert page.all("line")
    assert "usable clips of" in text
    assert "What is missing" not in text
    # The clips came from the bank that the evaluation filled.
    shown = read_work_folder(workdir).evaluated[0].shown
    evaluation = report_run._evaluation(shown, "")
    network = evaluate.load_network("", workdir, evaluation.method, evaluation.data.mesh)
    features = ClipFeatures(evaluation, network, workdir)
    (sampler,) = evaluation.data.samplers.values()
    assert features.ensure([sampler.clip(c, v, 0) for c in range(3) for v in range(2)])
    assert features.embedded == 0
    (line,) = (workdir / "commands.jsonl").read_text().splitlines()
    given = ["-m", *command(motion_data, workdir)[2:]]
    assert json.loads(line)["command"] == f"python {shlex.join(given)}"


def test_a_result_file_holds_what_the_table_shows_and_how_it_came_about(whole):
    workdir, printed = whole
    for name, result in results(workdir).items():
        assert 0 <= result["accuracy"] <= 1
        cell = f"{100 * result['accuracy']:.1f} ± {100 * result['ci95']:.1f}"
        assert cell in printed
        assert set(result["per_class"]) == {"test_motion3", "test_motion5", "test_motion8"}
        assert result["trained_classes_tested"] == result["validated_classes_tested"] == []
        assert result["settings_not_as_in_training"] == {}
        assert result["init_from"] == ""
        mean = sum(result["per_class"].values()) / len(result["per_class"])
        # All three classes are in every episode, with one query each.
        assert mean == pytest.approx(result["accuracy"])
        assert (result["way"], result["query"], result["episodes"]) == (3, 1, 7)
        assert result["shot"] == (1 if "1shot" in name else 3)
        validations = [line for line in lines(workdir) if line["kind"] == "val"]
        best = max(validations, key=lambda line: line["accuracy"])
        assert result["checkpoint_step"] == (0 if "untrained" in name else best["step"])
        assert result["config"]["train"]["steps"] == 8
        assert result["bad_videos"] == {}


def test_a_run_that_is_killed_and_stopped_ends_exactly_as_one_that_is_not(
    whole, motion_data, tmp_path
):
    workdir = tmp_path / "killed"
    arguments = command(motion_data, workdir)
    code, _ = run_until(3, signal.SIGKILL, arguments, workdir)
    assert code == -signal.SIGKILL
    code, errors = run_until(5, signal.SIGTERM, arguments, workdir)
    assert code == 128 + signal.SIGTERM
    assert errors.splitlines()[-1].startswith("error: stopped by SIGTERM after step ")
    assert "Traceback" not in errors
    final = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert final.returncode == 0, final.stderr
    assert lines(workdir) == lines(whole[0])
    assert results(workdir) == results(whole[0])
    mine, theirs = (_weights(motion_data, folder) for folder in (workdir, whole[0]))
    assert mine.step == theirs.step
    for a, b in zip(jax.tree.leaves(mine.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_array_equal(a, b)


def _config(data: Path):
    config = load_config(str(CONFIG))
    config.update_from_flattened_dict(SETTINGS)
    config.data.source = "videos"
    config.data.root, config.data.split_dir = f"{data}/videos", f"{data}/splits"
    return config


def _load(config, workdir: Path, source: str = "") -> evaluate.Network:
    return evaluate.load_network(source, workdir, build.method_settings(config, 0), make_mesh())


def _evaluate(config, workdir: Path) -> None:
    evaluate.evaluate(build.evaluation(config), workdir)


def _weights(data: Path, workdir: Path) -> evaluate.Network:
    return _load(_config(data), workdir)


def test_another_architecture_is_refused_in_evaluation(whole, motion_data):
    config = _config(motion_data)
    config.model.backbone = "resnet50"
    message = "backbone is thin in the checkpoint and resnet50 here"
    with pytest.raises(MoloError, match=message):
        _load(config, whole[0])


def test_evaluating_an_untrained_folder_says_how_to_train(motion_data, tmp_path):
    message = f"there is no checkpoint in {tmp_path}/best or {tmp_path}/checkpoints; train first"
    with pytest.raises(MoloError, match=message):
        _weights(motion_data, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(
    whole, motion_data, tmp_path, monkeypatch
):
    """A training that runs beside the evaluation finds a better network at that moment."""
    best, place = _best(whole[0]), tmp_path / "best"
    shutil.copytree(whole[0] / "best", place)
    read = evaluated._restore

    def replaced_meanwhile(checkpoints, step, *rest):
        if step == best:
            (place / str(best)).rename(place / str(best + 1))
        return read(checkpoints, step, *rest)

    monkeypatch.setattr(evaluated, "_restore", replaced_meanwhile)
    network = _weights(motion_data, tmp_path)
    assert network.step == best + 1
    assert network.checkpoint == f"{place}/{best + 1}"


def test_init_from_evaluates_those_weights_also_from_a_pytorch_file(
    whole, motion_data, tmp_path, capsys, caplog
):
    caplog.set_level("INFO", logger="absl")
    config = _config(motion_data)
    config.eval.shots, config.eval.controls = (1, 3), ()
    convert(whole[0], tmp_path / "x.safetensors")
    for source in (whole[0], tmp_path / "x.safetensors"):
        workdir = tmp_path / f"from_{source.name}"
        workdir.mkdir()
        config.init_from = str(source)
        _evaluate(config, workdir)
        checkpoint = _load(config, workdir, config.init_from).checkpoint
        assert checkpoint == (str(source) if source.suffix else f"{source}/best/{_best(whole[0])}")
        assert f"the network is that of {checkpoint}" in capsys.readouterr().out
        for shot in (1, 3):
            name = f"eval_test_3way_{shot}shot.json"
            mine, theirs = (json.loads((f / name).read_text()) for f in (workdir, whole[0]))
            assert mine["checkpoint"] == checkpoint
            for key in ("accuracy", "ci95", "per_class"):
                assert mine[key] == theirs[key]
            # A PyTorch file does not say what it was trained on.
            assert mine["config"]["init_from"] == str(source)
            known = None if source.suffix else []
            assert mine["trained_classes_tested"] == known
            assert mine["settings_not_as_in_training"] == (None if source.suffix else {})
    assert "it is not known what" in caplog.text
    assert "the first clips compile the network" in caplog.text


def _best(workdir: Path) -> int:
    return max(int(path.name) for path in (workdir / "best").iterdir() if path.name.isdigit())


def test_after_training_the_trained_network_is_evaluated_and_not_init_from(
    whole, motion_data, tmp_path, capsys
):
    config = _config(motion_data)
    (tmp_path / "best").symlink_to(whole[0] / "best")
    config.init_from, config.eval.shots, config.eval.controls = "x.pth", (1,), ()
    evaluate.evaluate(build.evaluation(config), tmp_path, trained_here=True)
    (record,) = results(tmp_path).values()
    assert record["checkpoint_step"] == _best(whole[0])
    assert record["config"]["init_from"] == "x.pth"
    assert "the network is that of" not in capsys.readouterr().out
    with pytest.raises(MoloError, match=r"x\.pth does not exist"):
        _evaluate(config, tmp_path)


def test_classes_that_were_trained_on_are_not_tested_unless_this_is_asked_for_and_then_named(
    whole, motion_data, tmp_path, capsys
):
    """The lists are divided anew after the training; and a clip has another number of frames."""
    config = _config(motion_data)
    (tmp_path / "best").symlink_to(whole[0] / "best")
    config.eval.shots, config.eval.controls = (1,), ("untrained",)
    lists = tmp_path / "lists"
    lists.mkdir()
    for split, other in (("train", "test"), ("test", "train"), ("val", "val")):
        text = (motion_data / f"splits/{split}_few_shot.txt").read_text()
        text = text.replace(f"{split}_motion5/", f"{other}_motion5/")
        (lists / f"{split}_few_shot.txt").write_text(text)
    config.data.split_dir, config.data.num_frames = str(lists), 3
    message = r"best/\d+ was trained on 1 class \('train_motion5'\), which the test split holds"
    with pytest.raises(MoloError, match=message):
        _evaluate(config, tmp_path)
    assert results(tmp_path) == {}
    config.eval.on_trained_classes = "warn"
    _evaluate(config, tmp_path)
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert warnings == [
        "warning: the network was trained on 1 class ('train_motion5'), which the test split holds",
        f"warning: not as in training ({tmp_path}/best/{_best(whole[0])}): data.num_frames was 2,"
        " is 3",
    ]
    found = results(tmp_path)
    record, untrained = (
        found[f"eval_test_3way_1shot{variant}.json"] for variant in ("", "_untrained")
    )
    assert record["trained_classes_tested"] == ["train_motion5"]
    assert record["settings_not_as_in_training"] == {"data.num_frames": {"training": 2, "now": 3}}
    assert set(record["per_class"]) == {"test_motion3", "train_motion5", "test_motion8"}
    assert untrained["trained_classes_tested"] == []
    assert untrained["settings_not_as_in_training"] == {}


def test_two_stage_evaluation_gives_the_logits_of_the_network_run_on_the_episode(
    whole, motion_data
):
    config = _config(motion_data)
    network = _load(config, whole[0])
    config.eval.shots = (1,)
    data = build.evaluation(config).data
    evaluator = Evaluator(data, network.graphdef)
    weights = network.params, network.batch_stats
    sampler = data.samplers[3, 1]
    episode = sampler.resolve(sampler(2))
    requests = (*episode.support, *episode.query)
    parts = [features for _, features in evaluator.embed(*weights, requests)]
    table = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    model = nnx.merge(network.graphdef, *weights)
    clips = [data.dataset.read_clip(clip, sampling="segments", resize=32) for clip in requests]
    pixels = eval_views(np.stack(clips), 32, (0.45, 0.225))
    whole_episode = Episode(
        support=pixels[:3],
        query=pixels[3:],
        support_labels=jax.numpy.asarray(episode.support_labels),
        query_labels=jax.numpy.asarray(episode.query_labels),
        # Without training nothing depends on these.
        support_classes=np.zeros(3, np.int32),
        query_classes=np.zeros(3, np.int32),
    )
    output = model(whole_episode, n_way=3, train=False)
    labels = episode.support_labels[None]
    rows = np.int32([[0, 1, 2]]), np.int32([[3, 4, 5]])
    logits = evaluator.match(3, *weights, table, *rows, labels)
    np.testing.assert_allclose(logits[0], output.logits, rtol=1e-4, atol=1e-4)


def test_skipping_a_bad_test_video_evaluates_the_rest_and_reports_it(
    whole, motion_data, tmp_path, capsys
):
    config = _config(motion_data)
    shutil.copytree(motion_data / "videos", tmp_path / "videos")
    broken = tmp_path / "videos/test_motion8/1.mp4"
    broken.write_text("not a video")
    config.data.root = str(tmp_path / "videos")
    config.eval.shots, config.eval.controls = (1,), ()
    (tmp_path / "best").symlink_to(whole[0] / "best")
    with pytest.raises(MoloError, match=r"test_motion8/1\.mp4"):
        _evaluate(config, tmp_path)
    config.data.on_bad_video = "skip"
    _evaluate(config, tmp_path)
    assert "7 episodes" in capsys.readouterr().out
    assert list(results(tmp_path)["eval_test_3way_1shot.json"]["bad_videos"]) == [str(broken)]


def test_ones_own_videos_are_prepared_trained_on_and_evaluated(write_motion, tmp_path):
    for split in ("train", "val", "test"):
        for place, name in enumerate(("to the right", "up", "down")):
            for number in range(4):
                path = tmp_path / f"videos/{split}/{split} {name}/{number}.mp4"
                write_motion(path, direction=place, start=3 * number)
    prepare = [sys.executable, "-m", "molo_jax.prepare", "--dataset=folder", "--resize=32"]
    needs = ("--n_way=3", "--n_shot=3", "--train_n_query=1", "--num_frames=2")
    folders = (f"--videos={tmp_path}/videos", f"--out={tmp_path}/out")
    printed = subprocess.run(
        [*prepare, *needs, *folders, "--workers=1"], check=True, capture_output=True, text=True
    ).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("next ")]
    python, *main = shlex.split(line.removeprefix("next "))
    assert (python, main[:3]) == ("python", ["-m", "molo_jax.main", "--config=configs/folder.py"])
    main = [sys.executable, *main]
    overrides = SETTINGS | {
        "model.backbone": "resnet18",
        "model.pretrained": "",
        "train.steps": 2,
        "train.eval_every": 2,
    }
    arguments = [f"--config.{key}={value}" for key, value in overrides.items()]
    options = {"capture_output": True, "text": True, "check": False, "cwd": ROOT}
    result = subprocess.run([*main, f"--workdir={tmp_path}/run", *arguments], **options)
    assert result.returncode == 0, result.stderr
    assert "folder, test split: 3-way accuracy" in result.stdout
    record = json.loads((tmp_path / "run/eval_test_3way_3shot.json").read_text())
    assert (record["dataset"], record["episodes"], record["bad_videos"]) == ("folder", 7, {})
    assert record["config"]["data"]["source"] == "prepared"
    # The same evaluation from the videos, with the lists that the preparation wrote.
    direct = (
        "--config.data.source=videos",
        f"--config.data.root={tmp_path}/videos",
        f"--config.data.split_dir={tmp_path}/out/splits/folder",
    )
    subprocess.run(
        [
            *(argument for argument in main if "eval.shots" not in argument),
            f"--workdir={tmp_path}/run",
            "--mode=eval",
            *arguments,
            *direct,
            "--config.eval.shots=1",
        ],
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    found = results(tmp_path / "run")
    records = [found[f"eval_test_3way_{shot}shot.json"] for shot in (1, 3)]
    assert [r["config"]["data"]["source"] for r in records] == ["videos", "prepared"]
