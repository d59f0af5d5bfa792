"""The end-to-end mode of the benchmark: what the input pipeline costs shows in its numbers."""

import json
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from preparing import prepare_tree

from molo_jax.errors import MoloError, UsageError

FOLDER = Path(__file__).parents[1] / "benchmarks"
SIZES = {"backbone": "resnet18", "crop": 32, "frames": 2, "way": 2, "shot": 1, "query": 1}


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import _end_to_end
    import _prepared
    import train_step

    return {"mode": _end_to_end, "prepared": _prepared, "main": train_step}


@pytest.fixture
def data(motion_data, tmp_path, monkeypatch):
    """A prepared data set with frames of 48 pixels."""
    prepare_tree(motion_data, tmp_path / "prepared", monkeypatch)
    return tmp_path / "prepared"


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("loading", "ratio", "waited"), [(0.0, 1.0, 0.0), (1.5, 0.4, 0.6)])
def test_a_starving_device_shows(modules, loading, ratio, waited):
    """A step of two chunks computes 2 seconds, and its pipeline takes 2 * 1.5 seconds."""
    clock, taken = Clock(), []

    def batches():
        for number in range(1 + 2 + 4):
            yield chunks(number)

    def chunks(number):
        for chunk in range(2):
            clock.now += loading
            yield number, chunk

    def step(state, chunks):
        taken.append(list(chunks))
        clock.now += 2.0
        return state + 1, {"loss": jnp.float32(0)}

    found = modules["mode"].measured(0, batches(), step, warmup=2, steps=4, episodes=6, clock=clock)
    assert found == pytest.approx(
        {"arrays": 3.0, "pipeline": 3.0 * ratio, "ratio": ratio, "waited": waited}
    )
    # The arrays are those of one step; of the pipeline every step gets its own.
    first, *others = [[(number, chunk) for chunk in range(2)] for number in range(7)]
    assert taken == [*[first] * 6, *others]


def test_prepared_videos_go_through_the_projects_pipeline_into_its_step(
    modules, data, capsys, monkeypatch, tmp_path
):
    main, mode, given, taken = modules["main"], modules["mode"], {}, []

    class InThisProcess:
        def __init__(self, name, options):
            self.benchmark = mode.Benchmark(options)

        def call(self, method):
            return getattr(self.benchmark, method)()

        def stop(self):
            pass

    def make_train_step(*_, **named):
        given.update(named)

        def step(state, chunks, count):
            chunks = list(chunks)
            assert count == len(chunks) == 2
            assert all(chunk["support"].shape == (1, 2, 2, 48, 48, 3) for chunk in chunks)
            taken.append([int(index) for chunk in chunks for index in chunk["index"]])
            return state, {"loss": jnp.float32(0)}

        return step

    # Compiling the real one takes half a minute.
    monkeypatch.setattr(mode.build, "make_train_step", make_train_step)
    path = tmp_path / "numbers.json"
    sizes = [f"--{name}={value}" for name, value in SIZES.items()]
    sizes += ["--episodes=2", "--steps=3", "--warmup=1", "--variants=bf16+blocks"]
    main._run(main._options([*sizes, f"--data={data}", f"--json={path}"]), InThisProcess)
    assert (given["precision"].name, given["remat"]) == ("bf16", "blocks")
    assert taken == [*[[0, 1]] * 4, [2, 3], [4, 5], [6, 7], [8, 9]]
    found = json.loads(path.read_text())["rows"][0]["end_to_end"]
    assert found["ratio"] == pytest.approx(found["pipeline"] / found["arrays"])
    # A step that computes nothing waits for its data most of the time.
    assert 0.3 < found["waited"] < 1
    numbers = [f"{found['arrays']:.4g}", f"{found['pipeline']:.4g}", f"{found['ratio']:.3g}"]
    last = [*numbers, f"{100 * found['waited']:.1f}", "%"]
    assert capsys.readouterr().out.splitlines()[-1].split() == ["bf16+blocks", *last]
    assert "tensorflow" in sys.modules


def test_the_settings_of_the_data_are_taken_from_the_folder(modules, data):
    prepared_data = modules["prepared"].prepared_data
    options = SIZES | {"data": str(data), "dataset": None}
    found = prepared_data(options)
    expected = {"dataset": "folder", "resize": 48, "sampling": "segments", "prepared": str(data)}
    assert found == expected
    config = modules["mode"].configuration(
        options | found | {"workers": 2, "episodes": 4, "microbatch": 2, "warmup": 1, "steps": 5}
        | {"precision": "bf16", "remat": "blocks"}
    )  # fmt: skip
    assert (config.data.resize, config.data.crop, config.data.num_frames) == (48, 32, 2)
    assert (config.train.precision, config.train.remat) == ("bf16", "blocks")
    # One for the arrays, one that is not counted, five that are.
    assert config.train.steps == 7
    with pytest.raises(UsageError, match="--crop is 64; expected at most 48, the side"):
        prepared_data(options | {"crop": 64})
    with pytest.raises(UsageError, match=r"--dataset is ssv2, but .* holds folder; choose"):
        prepared_data(options | {"dataset": "ssv2"})


def test_one_of_several_data_sets_must_be_chosen(modules, data):
    folder = next(data.glob("*/folder"))
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    (settings,) = other.glob("*/preparation.json")
    settings.write_text(settings.read_text().replace('"folder"', '"other"'))
    options = SIZES | {"data": str(data), "dataset": None}
    with pytest.raises(UsageError, match="which holds folder and other; choose one with --dataset"):
        modules["prepared"].prepared_data(options)
    found = modules["prepared"].prepared_data(options | {"dataset": "other"})
    assert found["dataset"] == "other"


def test_the_generated_videos_are_made_where_no_folder_is_given(modules, monkeypatch):
    prepared, asked = modules["prepared"], []

    class Done:
        returncode, stderr = 1, "12:00:00 preparing\nerror: no space is left\n"

    def run(command, **options):
        asked.append(command)
        return Done

    monkeypatch.setattr(prepared.subprocess, "run", run)
    with pytest.raises(MoloError, match=r"^the videos could not be prepared: no space is left$"):
        prepared.prepared_data(SIZES | {"data": None, "dataset": None})
    (command,) = asked
    assert command[1:] == [
        *("-m", "molo_jax.prepare", "--dataset=synthetic", "--out=runs/benchmark")
    ]
