import io
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest

from molo_jax import files
from molo_jax.errors import MoloError
from molo_jax.weights import torch_files

TENSORS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "a.counter": np.array(2**40),
    "c.empty": np.zeros((0, 3), np.float32),
}
STATE_DICT = "Save the weights alone: torch.save(model.state_dict(), FILE)"


def save(path, content, **options):
    import torch

    torch.save(content, path, **options)
    return path


def assert_same(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert mine[name].dtype == value.dtype
        assert mine[name].shape == value.shape
        np.testing.assert_array_equal(mine[name], value)


@pytest.mark.parametrize("name", ["x.pth", "x.pyth", "x.safetensors", "X.PTH"])
@pytest.mark.parametrize("layout", torch_files.LAYOUTS)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, name, layout):
    path = tmp_path / name
    torch_files.write(path, TENSORS, layout=layout, epoch=4, cfg="A: 1")
    file = torch_files.read(path)
    if layout == "official" and not name.endswith("safetensors"):
        named = {f"head.{name}": value for name, value in TENSORS.items()}
        assert (file.container, file.epoch, file.cfg) == ("model_state", 4, "A: 1")
        assert file.ignored == ("optimizer_state",)
    else:
        named = TENSORS
        assert (file.container, file.epoch, file.cfg, file.ignored) == ("", None, "", ())
    assert_same(file.tensors, named)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_transposed_view_is_written_by_its_values_not_by_its_memory(tmp_path, name):
    view = np.arange(6, dtype=np.float32).reshape(2, 3).T
    torch_files.write(tmp_path / name, {"a": view}, layout="bare")
    np.testing.assert_array_equal(torch_files.read(tmp_path / name).tensors["a"], view)


def test_files_are_what_pytorch_itself_reads(tmp_path):
    import safetensors.torch
    import torch

    torch_files.write(tmp_path / "x.pth", TENSORS, epoch=3)
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    assert list(content) == ["epoch", "model_state", "optimizer_state", "cfg"]
    assert (content["epoch"], content["optimizer_state"], content["cfg"]) == (3, {}, "")
    assert list(content["model_state"]) == [f"head.{name}" for name in TENSORS]
    torch_files.write(tmp_path / "x.safetensors", TENSORS)
    for read in (content["model_state"], safetensors.torch.load_file(tmp_path / "x.safetensors")):
        counter = next(value for name, value in read.items() if name.endswith("a.counter"))
        assert (counter.dtype, counter.shape, counter.item()) == (torch.int64, (), 2**40)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_half_precision_is_read_as_it_is(tmp_path, name):
    import safetensors.torch
    import torch

    tensors = {"f": torch.tensor([[0.1], [2.0]]).half(), "b": torch.tensor([0.1, 3.0]).bfloat16()}
    write = safetensors.torch.save_file if "safe" in name else torch.save
    write(tensors, tmp_path / name)
    read = torch_files.read(tmp_path / name).tensors
    assert {name: value.dtype for name, value in read.items()} == {
        "f": np.float16,
        "b": ml_dtypes.bfloat16,
    }
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(read[key].astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize("key", ["model_state", "state_dict", "model_state_dict", "model"])
def test_weights_are_found_under_the_usual_keys(tmp_path, key):
    import torch

    content = {key: {"a": torch.ones(2)}, "lr": 0.1, "epoch": 7, "scheduler": {"x": 1}}
    file = torch_files.read(save(tmp_path / "x.pth", content))
    assert (file.container, file.epoch, file.ignored) == (key, 7, ("lr", "scheduler"))
    np.testing.assert_array_equal(file.tensors["a"], [1, 1])


def test_a_legacy_file_and_a_parameter_are_read(tmp_path):
    import torch

    content = {"a": torch.nn.Parameter(torch.arange(3.0))}
    path = save(tmp_path / "x.pth", content, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(torch_files.read(path).tensors["a"], [0, 1, 2])


class Malicious:
    """Creates a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def whole(path):
    import torch

    return {"a": torch.ones(1)} | {"b": Malicious(path)}


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle", "plain old pickle"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, kind):
    trace, path = tmp_path / "trace", tmp_path / "x.pth"
    content = whole(trace)
    if "pickle" in kind:
        path.write_bytes(pickle.dumps(content["b"], protocol=2 if "old" in kind else 4))
    else:
        save(path, content, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(MoloError) as error:
        torch_files.read(path)
    assert not trace.exists()
    assert "\n" not in str(error.value)
    if kind == "plain pickle":
        assert (
            str(error.value)
            == f"{path} is cut off, damaged, holds code, or was not written by torch.save"
        )
    else:
        assert "open, which is code and no tensor; nothing of the file was run" in str(error.value)
    # The same file does its work where it is unpickled without care.
    if kind == "plain pickle":
        pickle.loads(path.read_bytes()).close()
        assert trace.exists()


def test_a_whole_module_is_refused_with_the_way_to_save_its_weights(tmp_path):
    import torch

    path = save(tmp_path / "x.pth", {"model": torch.nn.Linear(2, 2)})
    with pytest.raises(MoloError, match=r"x\.pth holds torch\.nn\.modules.*Linear, which") as error:
        torch_files.read(path)
    assert str(error.value).endswith(STATE_DICT)


def written(tmp_path, **options):
    import torch

    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1000)}, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [3, 100, 2000, -1])
def test_a_file_that_is_cut_off_is_named(tmp_path, legacy, kept):
    path = tmp_path / "x.pth"
    path.write_bytes(written(tmp_path, _use_new_zipfile_serialization=not legacy)[:kept])
    with pytest.raises(
        MoloError, match=r"x\.pth is cut off, damaged, holds code, or was not written by tor"
    ):
        torch_files.read(path)


@pytest.mark.parametrize("kept", [4, 60, -1])
def test_a_safetensors_file_that_is_cut_off_is_named(tmp_path, kept):
    path = tmp_path / "x.safetensors"
    torch_files.write(path, TENSORS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(MoloError, match=r"x\.safetensors is cut off, damaged, or no \.safet"):
        torch_files.read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pth", b"", "x.pth is empty$"),
        ("x.safetensors", b"", "x.safetensors is empty$"),
        ("x.pth", b"version https://git-lfs", r"x.pth is no PyTorch file; it begins .*b'version h"),
        ("x.pyth", b"<html>not found</html>", r"x.pyth is no PyTorch file; it begins .*b'<html>no"),
        (
            "x.safetensors",
            b"version https://git",
            r"no \.safetensors file \(header too large",
        ),
    ],
)
def test_a_file_of_another_kind_is_named_with_how_it_begins(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MoloError, match=message):
        torch_files.read(tmp_path / name)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_an_absent_file_and_a_folder_are_told_apart(tmp_path, name):
    with pytest.raises(MoloError, match=f"{name} does not exist$"):
        torch_files.read(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(MoloError, match=f"{name} is a folder, not a PyTorch file$"):
        torch_files.read(tmp_path / name)


def test_what_is_no_plain_tensor_is_named_with_what_it_is(tmp_path):
    import torch

    junk = {"a": torch.ones(1), "b": {"x": 1}, "c": "text", 7: torch.ones(1)}
    path = save(tmp_path / "x.pth", {"model_state": junk, "epoch": 1})
    message = r"model_state holds .*: b \(dict\), c \(str\), 7 \(no text as its name\)$"
    with pytest.raises(MoloError, match=message):
        torch_files.read(path)
    junk = {
        "sparse": torch.ones(2, 2).to_sparse(),
        "meta": torch.ones(2, device="meta"),
        "float8": torch.zeros(2, dtype=torch.float8_e4m3fn),
    }
    message = r"the file holds .*: sparse \(sparse_coo .*, meta \(.*meta.*, float8 \(float8"
    with pytest.raises(MoloError, match=message):
        torch_files.read(save(tmp_path / "x.pth", junk))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, no dictionary of tensors"),
        ({}, "the file holds no tensors"),
        ({"model_state": {}}, "model_state holds no tensors"),
        ({"epoch": 3}, r"the file holds what is no plain tensor: epoch \(int\)"),
        ({"model": {}, "state_dict": {}}, "weights in several places: state_dict, model; keep one"),
    ],
)
def test_a_file_without_weights_is_named(tmp_path, content, message):
    with pytest.raises(MoloError, match=message):
        torch_files.read(save(tmp_path / "x.pth", content))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        torch_files.write(path, TENSORS)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.pth", "old")]


@pytest.mark.parametrize(
    ("name", "library"), [("x.pth", "torch"), ("x.safetensors", "safetensors")]
)
def test_a_library_that_is_not_installed_is_named_with_the_command(
    tmp_path, monkeypatch, name, library
):
    path = tmp_path / name
    torch_files.write(path, TENSORS)
    monkeypatch.setitem(sys.modules, library, None)
    calls = [torch_files.check_installed, lambda path: torch_files.write(path, TENSORS)]
    # A file of torch.save is read without PyTorch.
    calls += [torch_files.read] if library == "safetensors" else []
    for call in calls:
        with pytest.raises(MoloError, match=r"install it with: pip install 'molo-jax\[torch\]'"):
            call(path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_reading_needs_no_pytorch(tmp_path, monkeypatch, name):
    path = tmp_path / name
    torch_files.write(path, TENSORS, layout="bare")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_same(torch_files.read(path).tensors, TENSORS)
