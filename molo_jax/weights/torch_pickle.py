"""What a file of torch.save says of its tensors, found out without PyTorch and without running it.

A pickle is a program for a small stack machine. The machine here knows the instructions that
torch.save writes, builds dictionaries, lists, tuples, text and numbers, and notes tensors by dtype,
place and shape. It calls nothing, and takes memory for nothing but what is in the file: PyTorch's
own reader, also with `weights_only=True`, makes arrays of the sizes that a file names.
"""

import dataclasses
import math
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

# What NumPy can hold of PyTorch's dtypes.
DTYPES = {
    **{name: np.dtype(name) for name in ("float64", "float32", "float16", "complex64")},
    **{name: np.dtype(name) for name in ("int64", "int32", "int16", "int8", "complex128")},
    **{name: np.dtype(name) for name in ("uint64", "uint32", "uint16", "uint8", "bool")},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    # Its numbers are counted in bytes.
    "torch.storage.UntypedStorage": "uint8",
    "torch.QInt8Storage": "qint8",
    "torch.QInt32Storage": "qint32",
    "torch.QUInt8Storage": "quint8",
    "torch.QUInt4x2Storage": "quint4x2",
    "torch.QUInt2x4Storage": "quint2x4",
}
# What may stand beside weights: it is noted by its name, and nothing is made of it.
_HARMLESS = {
    "_codecs.encode": "bytes",
    "__builtin__.bytearray": "bytearray",
    "__builtin__.set": "set",
    "__builtin__.complex": "complex",
    "collections.Counter": "Counter",
    "torch.device": "device",
    "torch.nn.parameter.Parameter": "Parameter",
    "torch._tensor._rebuild_from_type_v2": "tensor of a class of its own",
    "torch._utils._rebuild_nested_tensor": "nested tensor",
    "torch._utils._rebuild_qtensor": "quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta tensor, without values",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "tensor of a device",
    "torch._utils._rebuild_device_tensor_from_numpy": "tensor of a device",
    "torch._utils._rebuild_wrapper_subclass": "tensor of a class of its own",
    "torch.per_tensor_affine": "quantization",
    "torch.per_tensor_symmetric": "quantization",
    "torch.per_channel_affine": "quantization",
    "torch.per_channel_symmetric": "quantization",
    "torch.per_channel_affine_float_qparams": "quantization",
}
# Greatest number of dimensions and largest size, offset or stride that a tensor may have.
_MAX_DIMENSIONS, _MAX_INDEX = 16, 2**62
_LONGEST_LAYOUT = 40


class PickleError(ValueError):
    """The bytes are no pickle of torch.save."""


class CodeError(ValueError):
    """A pickle names a function or class that is neither a tensor's nor a plain value's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """Consecutive numbers in a file, which tensors show.

    Attributes:
        key: its name in the file.
        dtype: PyTorch's name of the type of its numbers.
        count: how many there are, as the pickle says.
    """

    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        # Quantized numbers have no dtype in NumPy; all but one kind of them have a byte.
        wide = DTYPES[self.dtype].itemsize if self.dtype in DTYPES else 1
        return self.count * (4 if self.dtype == "qint32" else wide)


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """Where the numbers of a tensor are.

    Attributes:
        storage: the numbers.
        dtype: PyTorch's name of the type that the tensor has.
        offset: position of its first number in the storage.
        shape: its sizes.
        strides: steps in the storage, in numbers, for each dimension.
        lazy: what PyTorch would still do to the numbers, such as `conj`; usually nothing.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    lazy: str = ""

    @property
    def size(self) -> int:
        """How many numbers it has, however few of the file they are."""
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """The position behind the last of its numbers in the storage."""
        if not self.size:
            return self.offset
        steps = zip(self.shape, self.strides, strict=True)
        return self.offset + sum((size - 1) * stride for size, stride in steps) + 1


@dataclasses.dataclass(frozen=True, slots=True)
class Other:
    """Something that is no plain tensor, by the word for it."""

    kind: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Global:
    name: str


def load(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Reads one pickle, up to its end, and leaves the file behind it.

    Returns:
        Dictionaries, lists, tuples, text and numbers, with `Tensor` and `Other` among them; and all
        storages that are named, by their keys.

    Raises:
        CodeError: naming the function or class that the pickle wants to call.
        PickleError: when these are not the instructions of torch.save.
    """
    machine = _Machine()
    try:
        for instruction, argument, _ in pickletools.genops(file):
            machine.run(instruction.name, argument)
        (result,) = machine.stack
    except CodeError:
        raise
    # Whatever is not where an instruction expects it.
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise PickleError(str(error)) from error
    return result, machine.storages


class _Machine:
    """Runs the instructions of a pickle one after the other."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        else:
            _INSTRUCTIONS[name](self, argument)

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _pop(self, count: int) -> list[Any]:
        # A mark is a floor: what is below it belongs to another instruction.
        if len(self.stack) - (self._marks[-1] if self._marks else 0) < count:
            raise PickleError("values are missing")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def _pop_one(self, _: Any) -> None:
        self._pop(1)

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _append(self, _: Any) -> None:
        self._extend(self._pop(1))

    def _appends(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise PickleError("values for something that is no list")
        self.stack[-1].extend(values)

    def _set_item(self, _: Any) -> None:
        self._update(self._pop(2))

    def _set_items(self, _: Any) -> None:
        self._update(self._pop_to_mark())

    def _update(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            # The attributes of something that is only noted by its name.
            if isinstance(self.stack[-1], Other):
                return
            raise PickleError("values for something that is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.stack[-1][_key(key)] = value

    def _remember(self, number: int) -> None:
        self._memo[number] = self.stack[-1]

    def _recall(self, number: int) -> None:
        self.stack.append(self._memo[number])

    def _build(self, _: Any) -> None:
        # The state of an object, such as the `_metadata` of a state_dict: no values of tensors.
        self._pop(1)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(_known(f"{module}.{name}"))

    def _call(self, _: Any) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise PickleError("a call of something that is no function")
        self.stack.append(_result(function.name, arguments))

    def _storage(self, _: Any) -> None:
        (value,) = self._pop(1)
        # A legacy file has a sixth: the part of a larger storage.
        kind, storage, key, _, count, *view = value
        good = kind == "storage" and isinstance(storage, _Global) and isinstance(key, str)
        if not good or storage.name not in _STORAGES or any(part is not None for part in view):
            raise PickleError("something that is no storage")
        self.storages[key] = Storage(key, _STORAGES[storage.name], _index(count))
        self.stack.append(self.storages[key])


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINSTRING", "BINSTRING"),
)
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "MARK": _Machine._mark,
    "POP": _Machine._pop_one,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine._pop(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine._pop(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine._pop(3))),
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "BINPUT": _Machine._remember,
    "LONG_BINPUT": _Machine._remember,
    "BINGET": _Machine._recall,
    "LONG_BINGET": _Machine._recall,
    "BUILD": _Machine._build,
    "GLOBAL": _Machine._global,
    "REDUCE": _Machine._call,
    "BINPERSID": _Machine._storage,
}


def _known(name: str) -> Any:
    """Returns what a pickle may name: a mark of the name, or the name of a dtype."""
    dtype = name.removeprefix("torch.")
    if name != dtype and (dtype in DTYPES or dtype.startswith(("float8", "float4", "q", "uint"))):
        return Other(dtype)
    if name in _STORAGES or name in _CALLS:
        return _Global(name)
    if name in _HARMLESS:
        # The name of a quantization stands alone; all others are called.
        return Other(_HARMLESS[name]) if name.startswith("torch.per_") else _Global(name)
    raise CodeError(name)


def _result(name: str, arguments: tuple[Any, ...]) -> Any:
    if name in _CALLS:
        return _CALLS[name](*arguments)
    return Other(_HARMLESS[name])


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    made = {_key(key): value for key, value in pairs}
    if pairs:
        # Used up: a pickle might hand the same list over a million times.
        pairs.clear()
    return made


def _size(numbers: Any) -> Any:
    # A tuple as it is: a copy of the same long one could be asked for again and again.
    return numbers if isinstance(numbers, tuple) else Other(type(numbers).__name__)


def _key(key: Any) -> Any:
    # Whatever else there is may be nested too deep to be compared.
    return key if isinstance(key, str | int | float | None) else Other(type(key).__name__)


def _index(number: Any) -> int:
    if type(number) is not int or not 0 <= number <= _MAX_INDEX:
        raise PickleError("a size, offset or stride that is no count")
    return number


def _indices(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or len(numbers) > _MAX_DIMENSIONS:
        raise PickleError("a shape that no tensor has")
    return tuple(_index(number) for number in numbers)


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any, dtype: str = ""
) -> Tensor:
    """Notes a tensor; `rest` is `requires_grad`, hooks and, in newer files, what is still to do."""
    shape, strides = _indices(shape), _indices(strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise PickleError("a tensor without numbers")
    open_work = rest[2] if len(rest) > 2 and isinstance(rest[2], dict) else {}
    lazy = " ".join(name for name in ("conj", "neg") if name in open_work)
    return Tensor(storage, dtype or storage.dtype, _index(offset), shape, strides, lazy)


def _tensor_of_dtype(*arguments: Any) -> Tensor:
    *most, dtype = arguments[:7]
    return _tensor(*most, *arguments[7:], dtype=dtype.kind)


def _sparse(layout: Any, *_: Any) -> Other:
    return Other(f"{layout.kind} tensor")


def _layout(name: str) -> Other:
    if len(name) > _LONGEST_LAYOUT:
        raise PickleError("a layout that no tensor has")
    return Other(name.removeprefix("torch."))


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dictionary,
    "torch.Size": _size,
    "torch.serialization._get_layout": _layout,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
}
