"""Files of torch.save as PyTorch reads them, and files that want to fill the memory."""

import collections
import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from molo_jax.errors import MoloError
from molo_jax.weights import torch_files
from molo_jax.weights.torch_archive import MAX_PICKLE

MAGIC = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


def saved_tensors():
    import torch

    numbers = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5) / 7
    return collections.OrderedDict(
        whole=numbers,
        turned=numbers.permute(2, 0, 1),
        part=numbers[1:, ::2, 3],
        repeated=numbers[0, 0, :1].expand(6, 1),
        single=torch.tensor(2**40),
        nothing=torch.zeros(0, 3),
        half=numbers.half(),
        brain=numbers.bfloat16(),
        double=numbers.double() / 3,
        truth=numbers > 3,
        small=(numbers * 3).to(torch.int8),
        unsigned=(numbers * 3).to(torch.uint16),
        complex=torch.complex(numbers, -numbers),
        learnt=torch.nn.Parameter(numbers),
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_every_kind_of_tensor_is_read_as_pytorch_reads_it(tmp_path, legacy):
    import torch

    path = tmp_path / "x.pth"
    saved = saved_tensors()
    if legacy:
        # PyTorch writes it, and cannot read it.
        del saved["unsigned"]
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    mine, theirs = torch_files.read(path).tensors, torch.load(path, weights_only=True)
    assert list(mine) == list(theirs)
    for name, tensor in theirs.items():
        expected = tensor.detach()
        expected = expected.float() if tensor.dtype == torch.bfloat16 else expected
        found = mine[name].astype(np.float32) if tensor.dtype == torch.bfloat16 else mine[name]
        assert (found.dtype, found.shape) == (expected.numpy().dtype, expected.shape)
        assert found.tobytes() == expected.numpy().tobytes()
    assert str(mine["brain"].dtype) == "bfloat16"


@pytest.mark.parametrize("legacy", [False, True])
def test_what_pytorch_keeps_beside_the_weights_is_passed_over(tmp_path, legacy):
    import torch

    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    others = {"bytes": b"x", "set": {1}, "device": torch.device("cpu"), "size": torch.Size([2, 3])}
    others |= {"dtype": torch.float16, "array": bytearray(9), "count": collections.Counter("aab")}
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rest": others}
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    file = torch_files.read(path)
    assert (file.container, file.ignored) == ("model", ("optimizer", "rest"))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(file.tensors[name], value)


def test_the_numbers_of_an_optimizer_are_never_read(tmp_path):
    import torch

    path, weights = tmp_path / "x.pth", np.float32([1, 2]).tobytes()
    state = {"model_state": {"a": torch.tensor([1.0, 2.0])}, "optimizer_state": torch.ones(7)}
    torch.save(state, path)
    content = path.read_bytes()
    ones = np.ones(7, np.float32).tobytes()
    assert content.count(ones) == content.count(weights) == 1
    path.write_bytes(content.replace(ones, b"\xff" * 28))
    np.testing.assert_array_equal(torch_files.read(path).tensors["a"], [1, 2])
    # Damage in what is read is found.
    path.write_bytes(content.replace(weights, b"\xff" * 8))
    with pytest.raises(MoloError, match=r"x\.pth is cut off, damaged, holds code, or was not"):
        torch_files.read(path)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Stored:
    """Pickles as the name of float32 numbers in the file."""

    def __init__(self, count):
        self.count = count


class Writer(pickle.Pickler):
    def persistent_id(self, value):
        import torch

        if isinstance(value, Stored):
            return ("storage", torch.FloatStorage, "0", "cpu", value.count)
        return None


def pickled(content):
    buffer = io.BytesIO()
    Writer(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def tensor(shape, strides, *, offset=0, count=4):
    import torch

    arguments = Stored(count), offset, shape, strides, False, collections.OrderedDict()
    return Call(torch._utils._rebuild_tensor_v2, *arguments)


def archive(path, content, numbers=bytes(16), kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as parts:
        parts.writestr("x/data.pkl", content if isinstance(content, bytes) else pickled(content))
        parts.writestr("x/data/0", numbers)
        # PyTorch reads no archive without it.
        parts.writestr("x/version", b"3\n")


def legacy(path, *contents):
    path.write_bytes(b"".join(pickled(content) for content in (*MAGIC, *contents)))


def sparse(path, size, start=b""):
    path.write_bytes(start)
    os.truncate(path, size)


def many_parts(path):
    with zipfile.ZipFile(path, "w") as parts:
        for number in range(30_000):
            parts.writestr(f"x/data/{number:020}", b"")


HUGE = {
    "compressed numbers": (
        lambda path: archive(
            path, {"a": tensor((4,), (1,))}, bytes(2**28), kind=zipfile.ZIP_DEFLATED
        ),
        r"its part 'x/data\.pkl' is compressed, \d+ bytes that become \d+, and torch\.save does",
    ),
    "a tensor that shows one number": (
        lambda path: archive(path, {"a": tensor((10**8, 512), (0, 0))}),
        r"show 204,800,000,000 bytes of 16 stored ones \(a, of shape \(100000000, 512\), has"
        r" 204,800,000,000\), and those of a network have at most 1,073,741,824$",
    ),
    "a shape without end": (
        lambda path: archive(path, {"a": tensor((2**61, 2**61, 2**61), (0, 0, 0))}),
        r"its tensors show 4\d*(,\d+)+ bytes of 16 stored ones",
    ),
    "more numbers than there are": (
        lambda path: archive(path, {"a": tensor((4,), (1,), count=10**12)}),
        r"its tensors show 16 bytes of 4,000,000,000,000 stored ones",
    ),
    "a place far away": (
        lambda path: archive(path, {"a": tensor((2,), (1,), offset=10**15)}),
        r"reach beyond what is stored: a \(bytes up to 4,000,000,000,000,008 of 16\)$",
    ),
    "strides beyond the end": (
        lambda path: archive(path, {"a": tensor((2, 2), (3, 1))}),
        r"reach beyond what is stored: a \(bytes up to 20 of 16\)$",
    ),
    "numbers of a legacy file": (
        lambda path: legacy(path, {"a": tensor((10**8,), (0,), count=10**12)}, ["0"]),
        r"its tensors show 400,000,000 bytes of 4,000,000,000,000 stored ones",
    ),
    "text of a legacy file": (
        lambda path: legacy(path, {"a": "x" * (3 * 2**20)}, []),
        r"the list of its tensors has 3,\d+,\d+ bytes, and that of a network at most 2,097,152$",
    ),
    "text of an archive": (
        lambda path: archive(path, {"a": "x" * (3 * 2**20)}),
        r"'x/data\.pkl', the list of its tensors, has 3,\d+,\d+ bytes, and that of a netw",
    ),
    "parts": (many_parts, r"the table of contents of the zip archive has 2,\d+,\d+ bytes"),
    "bytes": (
        lambda path: sparse(path, 2**40, b"PK"),
        r"has 1,099,511,627,776 bytes, and the file of a network with its optimizer at most 3,22",
    ),
}


@pytest.mark.parametrize("case", HUGE)
def test_what_no_network_has_is_refused_by_its_size(tmp_path, case):
    write, message = HUGE[case]
    write(tmp_path / "x.pth")
    with pytest.raises(MoloError, match=message) as error:
        torch_files.read(tmp_path / "x.pth")
    assert "\n" not in str(error.value)
    assert len(str(error.value).replace(str(tmp_path), "")) < 400


def test_a_safetensors_file_is_bounded_too(tmp_path):
    path = tmp_path / "x.safetensors"
    sparse(path, 2**31, (2**21 + 1).to_bytes(8, "little"))
    with pytest.raises(MoloError, match=r"2,147,483,648 bytes, and the file of a network at most"):
        torch_files.read(path)
    sparse(path, 2**22, (2**21 + 1).to_bytes(8, "little"))
    message = (
        r"the list of its tensors has 2,097,153 bytes, and that of a network at most 2,097,152"
    )
    with pytest.raises(MoloError, match=message):
        torch_files.read(path)


PAIRS = [(str(number), number) for number in range(10_000)]
GREEDY = {
    "an array of a length": lambda path: archive(
        path, {"model": {"a": tensor((4,), (1,))}, "x": Call(bytearray, 10**11)}
    ),
    "an optimizer of a size": lambda path: archive(
        path, {"model": {"a": tensor((4,), (1,))}, "x": tensor((10**12,), (0,))}
    ),
    "a list that is copied again and again": lambda path: archive(
        path,
        {
            "model": {"a": tensor((4,), (1,))},
            "x": [Call(collections.OrderedDict, PAIRS) for _ in range(1000)],
        },
    ),
    "a memory of a length": lambda path: archive(
        path,
        pickled({"model": {"a": tensor((4,), (1,))}, "x": 1}).replace(
            b"K\x01u", b"K\x01r\xff\xff\xff\xffu"
        ),
    ),
}


@pytest.mark.parametrize("case", GREEDY)
def test_what_stands_beside_the_weights_takes_no_memory(tmp_path, case):
    path = tmp_path / "x.pth"
    GREEDY[case](path)
    file = torch_files.read(path)
    assert file.ignored == ("x",)
    np.testing.assert_array_equal(file.tensors["a"], np.zeros(4))


PROGRAM = """
import json, resource, sys
from own_memory import peak_bytes
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
from molo_jax.weights import torch_files
from molo_jax.errors import MoloError
before = peak_bytes()
said = []
for path in sys.argv[1:]:
    try:
        torch_files.read(torch_files.Path(path))
        said.append("")
    except MoloError as error:
        said.append(str(error))
print(json.dumps([(peak_bytes() - before) // 2**20, said]))
"""


def test_all_of_them_together_take_less_than_64_mib(tmp_path):
    cases = {**HUGE, **{case: (write, "^$") for case, write in GREEDY.items()}}
    paths = [tmp_path / f"{number}.pth" for number in range(len(cases))]
    for path, (write, _) in zip(paths, cases.values(), strict=True):
        write(path)
    command = [sys.executable, "-c", PROGRAM, *map(str, paths)]
    search = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": search}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    mebibytes, said = json.loads(result.stdout)
    for message, (_, expected) in zip(said, cases.values(), strict=True):
        assert re.search(expected, message)
    assert mebibytes < 64


def fifo(path):
    os.mkfifo(path)


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


KINDS = {
    "pipe": (fifo, "is a named pipe (FIFO), not a PyTorch file"),
    "socket": (unix_socket, "is a socket, not a PyTorch file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a PyTorch file"),
    "folder": (lambda path: path.mkdir(), "is a folder, not a PyTorch file"),
    "link": (
        lambda path: path.symlink_to("nowhere"),
        "is a link to nowhere, which does not exist",
    ),
    "nothing": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_called_by_its_name_and_never_opened(tmp_path, monkeypatch, kind, name):
    # Paths of sockets must be short.
    monkeypatch.chdir(tmp_path)
    path = torch_files.Path(name)
    make, message = KINDS[kind]
    make(path)
    with pytest.raises(MoloError) as error:
        torch_files.read(path)
    assert str(error.value) == f"{name} {message}"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02.",
        b"\x80\x02}u.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02" + b"]" + b"\x85" * 100_000 + b".",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02}K\x01h\x07s.",
        b"\x80\x02ctorch\nSize\nctorch\nSize\nQ.",
    ],
)
def test_a_pickle_of_nonsense_is_one_message(tmp_path, content):
    archive(tmp_path / "x.pth", content)
    with pytest.raises(MoloError, match=r"x\.pth (is cut off, damaged|holds a )"):
        torch_files.read(tmp_path / "x.pth")


def test_a_pickle_that_was_cut_anywhere_is_one_message(tmp_path):
    whole = pickled({"model_state": {"a": tensor((2, 2), (2, 1))}, "epoch": 3, "cfg": "x"})
    archive(tmp_path / "x.pth", whole)
    np.testing.assert_array_equal(
        torch_files.read(tmp_path / "x.pth").tensors["a"], np.zeros((2, 2))
    )
    for end in range(len(whole)):
        archive(tmp_path / "x.pth", whole[:end])
        with pytest.raises(MoloError, match=r"x\.pth is cut off, damaged"):
            torch_files.read(tmp_path / "x.pth")


def test_the_limits_leave_room_for_the_largest_network():
    import jax

    from molo_jax.methods.settings import MoLoSettings
    from molo_jax.weights.networks import abstract_network

    states = abstract_network(MoLoSettings(num_classes=10_000, backbone="resnet50"))[1:]
    leaves = jax.tree.leaves(states)
    assert 8 * sum(leaf.size for leaf in leaves) < torch_files.MAX_WEIGHTS
    # Names and shapes of the weights and of three optimizer values of each.
    assert 4 * 250 * len(leaves) < MAX_PICKLE / 4
