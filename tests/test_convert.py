import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from made_weights import official_tensors, torchvision_tensors, variables

from molo_jax.cli import load_config
from molo_jax.convert import convert
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.errors import MoloError, UsageError
from molo_jax.methods.settings import HyRSMPlusPlusSettings, HyRSMSettings, MoLoSettings
from molo_jax.weights import torch_files, torch_map, torch_meta
from molo_jax.weights.networks import abstract_network, filled, fixed_buffers, load_weights
from molo_jax.workdir import work_folder

ROOT = Path(__file__).parents[1]
OUTPUT = ("motion_decoder", "output")
CFG = "NUM_GPUS: 4\n"
pytestmark = pytest.mark.usefixtures("keep_no_networks", "memory_of_a_test")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """An official checkpoint of seven classes."""
    path = tmp_path_factory.mktemp("official") / "checkpoint_epoch_00010.pyth"
    torch_files.write(path, official_tensors(), epoch=10, cfg=CFG)
    return path


@pytest.fixture(scope="module")
def converted(official, tmp_path_factory):
    """The folder that it is converted to, and what the conversion said."""
    folder = tmp_path_factory.mktemp("converted") / "a folder" / "molo"
    return folder, convert(official, folder)


def assert_same(mine, theirs):
    assert list(mine) == list(theirs)
    for name, value in theirs.items():
        assert (mine[name].dtype, mine[name].shape) == (value.dtype, value.shape)
        assert mine[name].tobytes() == value.tobytes()


def test_a_converted_checkpoint_holds_the_official_tensors_in_our_layout(converted):
    folder, _ = converted
    weights = load_weights(folder)
    assert (weights.settings, weights.step) == (MoLoSettings(7, "resnet18"), 0)
    tensors = official_tensors()
    kernel = weights.variables[("backbone", "layer2", 0, "downsample", "conv", "kernel")]
    official = tensors["backbone.5.0.downsample.0.weight"]
    np.testing.assert_array_equal(kernel[0, 0], official[:, :, 0, 0].T)
    kernel = weights.variables[("motion_reduction", "kernel")]
    assert kernel[2, 0, 1, 5, 7] == tensors["motion_reduce.weight"][7, 5, 2, 0, 1]
    assert weights.variables.keys() == variables().keys()
    for path, value in variables().items():
        np.testing.assert_array_equal(weights.variables[path], value)


def test_a_converted_checkpoint_says_where_it_is_from(converted):
    folder, _ = converted
    with Checkpoints(folder, read_only=True) as checkpoints:
        meta = checkpoints.meta(0)
    assert meta == {
        "architecture": MoLoSettings(7, "resnet18").to_json(),
        "step": 0,
        "config": {},
        "source": "checkpoint_epoch_00010.pyth",
        "epoch": 10,
        "official_cfg": CFG,
    }


def test_the_summary_says_what_was_found_ignored_and_written_and_what_comes_next(
    official, converted
):
    folder, summary = converted
    parameters = sum(
        value.size
        for name, value in official_tensors().items()
        if "running" not in name and "tracked" not in name and name != "pe.pe"
    )
    assert summary.splitlines() == [
        f"source    {official}, model_state, names with the prefix head., epoch 10",
        "method    MoLo",
        "backbone  resnet18",
        "classes   7",
        f"tensors   170 with {parameters:,} parameters",
        "ignored   optimizer_state, head.pe.pe (fixed, and as the network computes it)",
        f"written   {folder}/0, a checkpoint of molo_jax",
        "next      python -m molo_jax.main --mode=eval --config=configs/ssv2_5shot.py"
        f" --config.model.backbone=resnet18 --config.init_from='{folder}'",
    ]


@pytest.mark.parametrize(
    ("name", "layout", "prefix"),
    [("x.pyth", None, "head."), ("x.pth", "bare", ""), ("x.safetensors", None, "")],
)
def test_a_round_trip_gives_the_same_bits_names_and_order(
    converted, tmp_path, name, layout, prefix
):
    folder, _ = converted
    summary = convert(folder, tmp_path / name, layout=layout)
    file = torch_files.read(tmp_path / name)
    tensors = {prefix + key: value for key, value in official_tensors().items()}
    found = file.tensors
    # A .safetensors file orders by size.
    assert_same({key: found[key] for key in tensors} if "safe" in name else found, tensors)
    assert (file.epoch, file.cfg) == ((10, CFG) if prefix else (None, ""))
    assert "171 tensors" in summary
    program = re.search(r"^next +python -c '(.*)'$", summary, re.MULTILINE)[1]
    compile(program, "next", "exec")
    again = load_weights(tmp_path / name).variables
    assert again.keys() == variables().keys()
    for path, value in variables().items():
        np.testing.assert_array_equal(again[path], value)


@pytest.mark.parametrize("container", ["", "state_dict"])
def test_another_prefix_and_container_and_an_absent_buffer_give_the_same_checkpoint(
    tmp_path, container
):
    import torch

    tensors = official_tensors()
    del tensors["pe.pe"]
    prefix = "module.head." if container else "module."
    named = {prefix + name: torch.from_numpy(value) for name, value in tensors.items()}
    torch.save({container: named} if container else named, tmp_path / "x.pth")
    summary = convert(tmp_path / "x.pth", tmp_path / "out")
    assert f"{container or 'bare state_dict'}, names with the prefix {prefix}\n" in summary
    assert "ignored" not in summary
    weights = load_weights(tmp_path / "out").variables
    for path, value in variables().items():
        np.testing.assert_array_equal(weights[path], value)


def test_half_precision_is_widened_and_said_so(tmp_path):
    tensors = official_tensors()
    for name in ("outc.conv.bias", "scale"):
        tensors[name] = tensors[name].astype(np.float16)
    tensors["class_token"] = tensors["class_token"].astype(np.float64)
    torch_files.write(tmp_path / "x.pth", tensors)
    summary = convert(tmp_path / "x.pth", tmp_path / "out")
    assert (
        "widened   2 tensors from float16 to float32, exactly, 1 tensors from float64 to" in summary
    )
    weights = load_weights(tmp_path / "out").variables
    np.testing.assert_array_equal(weights[(*OUTPUT, "bias")], tensors["outc.conv.bias"])
    assert weights[(*OUTPUT, "bias")].dtype == np.float32


def test_the_backbone_is_recognized(tmp_path):
    torch_files.write(tmp_path / "x.safetensors", official_tensors("resnet34", 3))
    weights = load_weights(tmp_path / "x.safetensors")
    assert weights.settings == MoLoSettings(3, "resnet34")
    assert len(weights.variables) == len(official_tensors("resnet34", 3)) - 1


def without(name):
    return lambda tensors: tensors.pop(name)


def changed(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


FAULTS = {
    "missing": (without("up2.conv.double_conv.0.weight"), "missing in the file: up2.conv.double_"),
    "extra": (lambda t: t.update(extra=np.zeros(1)), "not part of the network: extra$"),
    "shape": (
        changed("motion_up.weight", lambda v: v[:, 1:]),
        r"motion_up\.weight has shape \(512, 63, 1, 1\), expected \(512, 64, 1, 1\)$",
    ),
    "rank": (
        changed("scale", lambda v: v[0]),
        r"of another shape: scale has shape \(\), expected \(1,\)$",
    ),
    "nan": (changed("outc.conv.bias", lambda v: v * np.nan), r"not finite .*: outc\.conv\.bias \("),
    "variance": (
        changed("up1.conv.double_conv.1.running_var", lambda v: -v),
        r"below 0, which no variance is: up1\.conv\.double_conv\.1\.running_var \(128 values\)$",
    ),
    "dtype": (
        changed("class_token", lambda v: v.astype(np.int64)),
        r"no floating-point weights: class_token \(int64\)$",
    ),
    "counter": (
        changed("backbone.1.num_batches_tracked", lambda v: v * 0 + 2**40),
        r"not between 0 and 2147483647: backbone\.1\.num_batches_tracked \(1099511627776\)$",
    ),
    "buffer": (changed("pe.pe", lambda v: v * 2), r"pe\.pe has other values than the positional"),
    "prefix": (lambda t: t.update({"head.scale": t["scale"]}), "prefixes: .*given twice: scale$"),
    "classifier": (
        lambda t: (without("classification_layer.weight")(t), t.pop("classification_layer.bias")),
        "the number of classes cannot be found",
    ),
    "blocks": (
        lambda t: t.update({"backbone.6.2.conv1.weight": t["scale"]}),
        "the backbone has 2, 2, 3, 2 basic blocks; it must be one of resnet18, resnet34, resnet50",
    ),
    "another network": (
        lambda t: [t.pop(name) for name in list(t) if name.startswith("backbone.")],
        r"it holds no network of a method: none of its \d+ tensors is called backbone",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_file_and_tensors_and_writes_nothing(tmp_path, fault):
    spoil, message = FAULTS[fault]
    tensors = official_tensors()
    spoil(tensors)
    source = tmp_path / "x.safetensors"
    torch_files.write(source, tensors)
    with pytest.raises(MoloError, match=message) as error:
        convert(source, tmp_path / "new" / "out")
    assert str(error.value).startswith(f"{source}: ")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [source]


def test_an_imagenet_file_is_refused_with_the_key_that_takes_it(tmp_path):
    source = tmp_path / "resnet18.safetensors"
    torch_files.write(source, torchvision_tensors())
    message = r"a backbone alone \(resnet18\).* with --config\.model\.pretrained=.*resnet18\.safe"
    with pytest.raises(MoloError, match=message):
        convert(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [source]


def test_a_network_with_weights_that_are_not_finite_is_not_exported(converted, tmp_path):
    broken = dict(variables()) | {(*OUTPUT, "bias"): np.float32([1, np.nan, 2])}
    states = abstract_network(MoLoSettings(num_classes=7, backbone="resnet18"))[1:]
    model = dict(zip(("params", "batch_stats"), (filled(s, broken) for s in states), strict=True))
    meta = {"architecture": {"backbone": "resnet18", "num_classes": 7}, "config": {}}
    with Checkpoints(tmp_path / "broken") as checkpoints:
        checkpoints.save(4, meta=meta, model=jax.device_get(model))
    message = r"broken/4 is of no use: .* not finite .*, in params/motion_decoder/output/bias"
    with pytest.raises(MoloError, match=message):
        convert(tmp_path / "broken", tmp_path / "x.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_folder_without_a_checkpoint_and_an_absent_source_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MoloError, match="empty holds no molo_jax checkpoint: it has no best/ or"):
        convert(tmp_path / "empty", tmp_path / "x.pth")
    with pytest.raises(MoloError, match=r"none does not exist$"):
        convert(tmp_path / "none", tmp_path / "x.pth")
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(MoloError, match=r"weights\.bin is a file that ends in none of \.pth, "):
        convert(tmp_path / "weights.bin", tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_what_exists_is_replaced_only_on_demand_and_only_by_its_like(official, converted, tmp_path):
    folder, _ = converted
    target = tmp_path / "out"
    (target / "3").mkdir(parents=True)
    with pytest.raises(MoloError, match="out exists; choose another DST, or replace it with --ov"):
        convert(official, target)
    convert(official, target, overwrite=True)
    assert [path.name for path in target.iterdir()] == ["0"]
    (target / "notes.txt").write_text("mine")
    with pytest.raises(MoloError, match=r"holds other things than checkpoints \(notes\.txt\)"):
        convert(official, target, overwrite=True)
    assert (target / "notes.txt").read_text() == "mine"
    (tmp_path / "x.pth").write_text("old")
    with pytest.raises(MoloError, match=r"x\.pth exists"):
        convert(folder, tmp_path / "x.pth")
    convert(folder, tmp_path / "x.pth", overwrite=True)
    assert load_weights(tmp_path / "x.pth").settings.num_classes == 7
    with pytest.raises(MoloError, match=r"x\.pth/z cannot be made: .*x\.pth is a file, no folder"):
        convert(official, tmp_path / "x.pth" / "z")
    (tmp_path / "y.pth").mkdir()
    with pytest.raises(MoloError, match=r"y\.pth is a folder, and a file would be written"):
        convert(folder, tmp_path / "y.pth", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "x.pth", "y.pth"}


def test_a_conversion_that_fails_while_it_writes_leaves_nothing(official, tmp_path, monkeypatch):
    def fail(self, step, **_):
        (self.folder / "half").mkdir()
        raise MoloError("the disk is full")

    monkeypatch.setattr(Checkpoints, "save", fail)
    (tmp_path / "out" / "3").mkdir(parents=True)
    with pytest.raises(MoloError, match="the disk is full"):
        convert(official, tmp_path / "out", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "3").is_dir()


@pytest.mark.parametrize("there", [True, False])
def test_the_leftovers_of_a_killed_conversion_are_put_right(official, tmp_path, there):
    old, target = tmp_path / ".out.old", tmp_path / "out"
    for folder in (old, tmp_path / ".out.tmp", *([target] if there else [])):
        (folder / "3").mkdir(parents=True)
    with pytest.raises(MoloError, match="out exists; choose another DST"):
        convert(official, target)
    # Also where only the leftover had been there: it is the folder of before.
    assert (target / "3").is_dir()
    old.mkdir(exist_ok=True)
    convert(official, target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["0"]
    (old / "mine").mkdir(parents=True)
    with pytest.raises(MoloError, match=r"\.out\.old holds other things than checkpoints \(mine\)"):
        convert(official, target, overwrite=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from molo_jax import files
from molo_jax.convert import convert
exchange = files._exchange
def killed(*names):
    exchange(*names)
    os.kill(os.getpid(), signal.SIGKILL)
files._exchange = killed
convert(Path(sys.argv[1]), Path(sys.argv[2]), overwrite=True)
"""


def test_a_conversion_that_was_killed_while_it_replaced_is_complete_and_repeatable(
    official, converted, tmp_path
):
    target = tmp_path / "out"
    (target / "3").mkdir(parents=True)
    command = [sys.executable, "-c", KILLED, str(official), str(target)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert [path.name for path in target.iterdir()] == ["0"]
    assert load_weights(target).variables.keys() == variables().keys()
    convert(official, target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def trained(folder, **values):
    """A checkpoint of a training on one's own videos; returns its record."""
    config = load_config(str(ROOT / "configs/folder.py"))
    config.model.backbone = "resnet18"
    config.update_from_flattened_dict({"data.prepared": "my data/prepared"} | values)
    meta = {
        "architecture": MoLoSettings(7, "resnet18", positional_a=50.0).to_json(),
        "step": 12,
        "config": json.loads(json.dumps(config.to_dict())),
        "classes": ["run", "jump"],
    }
    states = abstract_network(MoLoSettings(num_classes=7, backbone="resnet18"))[1:]
    filled_states = (filled(state, variables()) for state in states)
    model = dict(zip(("params", "batch_stats"), filled_states, strict=True))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(12, meta=meta, model=jax.device_get(model))
    return meta


def test_a_checkpoint_keeps_its_step_and_its_data_through_a_pytorch_file(tmp_path, monkeypatch):
    meta = trained(tmp_path / "run", **{"data.num_frames": 3})
    summary = convert(tmp_path / "run", tmp_path / "x.pyth")
    assert f"source    {tmp_path}/run/12, a checkpoint of molo_jax, step 12\n" in summary
    assert "trained   12 steps on folder\n" in summary
    monkeypatch.chdir(ROOT)
    summary = convert(tmp_path / "x.pyth", tmp_path / "back")
    assert "trained   12 steps on folder\n" in summary
    assert f"written   {tmp_path}/back/12, a checkpoint of molo_jax\n" in summary
    assert summary.splitlines()[-1] == (
        "next      python -m molo_jax.main --mode=eval --config=configs/folder.py"
        " --config.data.num_frames=3 --config.data.prepared='my data/prepared'"
        f" --config.model.backbone=resnet18 --config.init_from={tmp_path}/back"
    )
    weights = load_weights(tmp_path / "back")
    assert weights.step == 12
    expected = meta | {"source": "x.pyth", "epoch": 0, "official_cfg": ""}
    assert dict(weights.meta) == expected
    # The file itself is as good a source.
    weights = load_weights(tmp_path / "x.pyth")
    assert (weights.step, weights.settings.to_json()) == (12, meta["architecture"])
    again = convert(tmp_path / "back", tmp_path / "again.pyth")
    assert "trained   12 steps on folder\n" in again
    assert (
        torch_files.read(tmp_path / "again.pyth").cfg == torch_files.read(tmp_path / "x.pyth").cfg
    )


RECORD = {
    "step": 1,
    "config": {"dataset": {}, "model": {}, "data": {}, "eval": {}},
    "architecture": {"method": "molo"},
}


def test_a_record_of_ours_is_read_from_its_text():
    assert torch_meta.from_cfg(json.dumps({"molo_jax": RECORD})) == RECORD


@pytest.mark.parametrize(
    "cfg",
    [
        *("", "NUM_GPUS: 4", "[1]", "3", '{"molo_jax": 1}', '{"molo_jax": {"step": -1}}'),
        '{"molo_jax": {"step": 1, "config": {"dataset": 3}, "architecture": {}}}',
        "[" * 100_000,
        *(
            json.dumps({"molo_jax": record})
            for record in (
                RECORD | {"architecture": {"method": ["x"]}},
                RECORD | {"config": RECORD["config"] | {"loss": 5}},
                RECORD | {"config": RECORD["config"] | {"method": "molo"}},
            )
        ),
    ],
)
def test_a_text_that_is_no_record_of_ours_is_none(cfg):
    assert torch_meta.from_cfg(cfg) == {}


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_infinite_weights_are_refused_in_one_line(tmp_path, value, dtype):
    tensors = official_tensors()
    tensors["outc.conv.bias"] = np.asarray([1, value, 2], dtype)
    torch_files.write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(MoloError, match=r"not finite .*: outc\.conv\.bias \(1 values\)$"):
        convert(tmp_path / "x.safetensors", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_classifier_of_a_billion_classes_is_one_line(tmp_path):
    import torch

    named = {name: torch.from_numpy(value) for name, value in official_tensors().items()}
    for name in ("weight", "bias"):
        shape = (10**9, *named[f"classification_layer.{name}"].shape[1:])
        named[f"classification_layer.{name}"] = torch.zeros(()).expand(shape)
    torch.save(named, tmp_path / "x.pth")
    with pytest.raises(MoloError, match=r"x\.pth: its tensors show [\d,]+ bytes of") as error:
        convert(tmp_path / "x.pth", tmp_path / "out")
    assert "\n" not in str(error.value)
    del named["classification_layer.weight"]
    named["classification_layer.bias"] = torch.zeros(()).expand(10**8)
    torch.save(named, tmp_path / "x.pth")
    with pytest.raises(MoloError, match=r"missing in the file: classification_layer\.weight"):
        convert(tmp_path / "x.pth", tmp_path / "out")


def test_a_pipe_as_source_is_called_by_its_name_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(MoloError, match=r"x\.pth is a named pipe \(FIFO\), not a PyTorch file$"):
        convert(tmp_path / "x.pth", tmp_path / "out")
    os.mkfifo(tmp_path / "run")
    with pytest.raises(MoloError, match=r"run is a named pipe \(FIFO\), no folder of checkpoints$"):
        convert(tmp_path / "run", tmp_path / "y.pth")
    with pytest.raises(MoloError, match=r"cannot be made: .*run is a named pipe \(FIFO\), no fol"):
        convert(tmp_path / "x.safetensors", tmp_path / "run" / "out")


@pytest.mark.parametrize(("source", "target"), [("a.pth", "b.pyth"), ("a", "b")])
def test_two_of_a_kind_are_refused_before_anything_is_read(tmp_path, source, target):
    with pytest.raises(UsageError, match=r"PyTorch file \(\.pth, \.pyth or \.safetensors\)"):
        convert(tmp_path / source, tmp_path / target)


def test_the_command_prints_the_summary_and_ends_with_0(converted, tmp_path):
    folder, _ = converted
    command = [sys.executable, "-m", "molo_jax.convert", str(folder / "0"), "x.safetensors"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"source    {folder}/0, a checkpoint of molo_jax, step 0" in result.stdout
    assert "written   x.safetensors, bare names, 171 tensors" in result.stdout
    header = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + length])["__metadata__"] == {"format": "pt"}


def test_the_command_says_in_one_line_that_a_file_is_damaged(official, tmp_path):
    path = tmp_path / "x.pyth"
    path.write_bytes(Path(official).read_bytes()[:100_000])
    command = [sys.executable, "-m", "molo_jax.convert", "x.pyth", "out", "--overwrite"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    message = "error: x.pyth is cut off, damaged, holds code, or was not written by torch.save\n"
    assert result.stderr == message
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_of_a_running_training_are_read_but_not_replaced(converted, official, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(converted[0], run / "checkpoints")
    before = sorted(run.rglob("*"))
    with work_folder(run, for_training=True):
        for name in ("checkpoints", "best"):
            message = rf"a training is at work in {run} \(process {os.getpid()}\); .* another DST$"
            with pytest.raises(MoloError, match=message):
                convert(official, run / name, overwrite=True)
        convert(run, tmp_path / "x.pth")
    assert sorted(run.rglob("*")) == before
    convert(official, run / "checkpoints", overwrite=True)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints"]


def test_a_file_whose_tensors_fit_several_methods_is_of_the_named_one(tmp_path):
    settings = HyRSMSettings(num_classes=3, backbone="resnet18")
    flat = {}
    for state in abstract_network(settings)[1:]:
        for path, leaf in nnx.to_flat_state(state):
            flat[path] = np.zeros(leaf.shape, leaf.dtype)
    tensors = torch_map.export_tensors(flat, fixed_buffers(settings))
    torch_files.write(tmp_path / "x.pth", tensors, layout="bare")
    assert "method    HyRSM\n" in convert(tmp_path / "x.pth", tmp_path / "one")
    summary = convert(tmp_path / "x.pth", tmp_path / "two", method="hyrsm_pp")
    assert "method    HyRSM++\n" in summary
    assert "--config=configs/ssv2_5shot.py:hyrsm_pp " in summary
    assert load_weights(tmp_path / "two").settings == HyRSMPlusPlusSettings(3, "resnet18")
    with pytest.raises(UsageError, match=r"--method=otam is for .* is of hyrsm$"):
        convert(tmp_path / "x.pth", tmp_path / "three", method="otam")
    back = convert(tmp_path / "two", tmp_path / "back.pth")
    assert 'make_network("hyrsm_pp", num_classes=3, backbone="resnet18")' in back
    for folder in ("one", "two"):
        shutil.rmtree(tmp_path / folder)
