"""The features of a bank as one file for others: `.npz` for NumPy, `.parquet` for tables.

Both have a row for each clip: the data set, the split, the class and its number in the list, the
video, the number of the draw of its frames, and the arrays that the method keeps of the clip.
Both are written in blocks, so that memory does not grow with the number of clips.
"""

import dataclasses
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int

from molo_jax.bank.store import FeatureBank
from molo_jax.data.lists.splits import Split
from molo_jax.errors import MoloError
from molo_jax.files import replacing, written
from molo_jax.prediction.trees import describe

_BLOCK_BYTES = 16 * 2**20
_FEATURES = "features"
# The date of the members of an archive: the same bytes for the same features.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class ExportedClips:
    """The clips of a bank that are exported.

    Attributes:
        bank: the features.
        dataset: name of the data set.
        split: its list.
        rows: of the clips in the bank.
    """

    bank: FeatureBank
    dataset: str
    split: Split
    rows: Int[np.ndarray, "r"]

    @classmethod
    def of(cls, bank: FeatureBank, dataset: str, split: Split, draws: int) -> "ExportedClips":
        """Returns those of the first draws that have features.

        Raises:
            MoloError: there are none.
        """
        rows = np.flatnonzero(bank.present(draws))
        if not len(rows):
            raise MoloError(f"{bank.folder} has no features that could be exported")
        return cls(bank, dataset, split, rows)

    @property
    def arrays(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Name of each array of the features -> its type and its shape of one clip."""
        layout = self.bank.layout
        kinds = [(np.dtype(kind), shape) for kind, shape in layout.leaves]
        return dict(zip(array_names(layout.structure), kinds, strict=True))

    @property
    def description(self) -> dict[str, Any]:
        """What the features are of."""
        return {"about": self.bank.about, "key": self.bank.key}

    def columns(self, rows: Int[np.ndarray, "r"]) -> dict[str, Sequence[Any]]:
        """Returns what is said of the clips of rows beside their features."""
        classes, videos, draws = self.bank.places(rows)
        names = self.split.class_names
        listed = [self.split.videos[c][v] for c, v in zip(classes, videos, strict=True)]
        return {
            "class": [plain(names[c]) for c in classes],
            "class_id": np.array([self.split.classes[c] for c in classes], np.int32),
            "video": [plain(video.name) for video in listed],
            "draw": draws.astype(np.int32),
        }

    def blocks(self) -> Iterator[tuple[Int[np.ndarray, "r"], list[np.ndarray]]]:
        """Yields rows that lie behind one another, with their arrays."""
        size = max(1, _BLOCK_BYTES // max(1, self.bank.layout.bytes_of_a_clip))
        for start in range(0, len(self.rows), size):
            rows = self.rows[start : start + size]
            yield rows, describe(self.bank.take(rows))[1]


def array_names(structure: Any) -> list[str]:
    """Names the arrays of features: `features`, or by their parts such as `features_motion`."""

    def named(part: Any, name: str) -> Iterator[str]:
        if part is None:
            return
        if isinstance(part, str):
            yield name
            return
        _, parts = part
        members = parts.items() if isinstance(parts, dict) else enumerate(parts)
        for key, value in members:
            yield from named(value, f"{name}_{key}")

    return list(named(structure, _FEATURES))


def plain(name: str) -> str:
    """Returns a name as a text that every program can read: bytes that are none are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def export_npz(path: Path, clips: ExportedClips) -> None:
    """Writes `.npz`, which `numpy.load` reads without pickle.

    It holds `dataset`, `split` and `description` (JSON) as one text each; `class`, `class_id`,
    `video` and `draw` with one entry for each clip; and the arrays of the features with the clips
    as their leading axis.

    Raises:
        MoloError: it cannot be written, or the bank is damaged.
    """
    texts = {"dataset": clips.dataset, "split": clips.split.name}
    texts["description"] = json.dumps(clips.description)
    with (
        written(path),
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, value in {**texts, **clips.columns(clips.rows)}.items():
            with _member(archive, name) as file:
                np.lib.format.write_array(file, np.array(value), allow_pickle=False)
        for number, (name, (dtype, shape)) in enumerate(clips.arrays.items()):
            with _member(archive, name) as file:
                _write_header(file, dtype, (len(clips.rows), *shape))
                for _, leaves in clips.blocks():
                    file.write(leaves[number].reshape(-1).view(np.uint8).data)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True)


def _write_header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    header: Mapping[str, Any] = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, dict(header))


def export_parquet(path: Path, clips: ExportedClips) -> None:
    """Writes `.parquet`.

    The arrays of a clip are flattened into one list each, of which the metadata of the column
    (`shape`) tells the shape; `description` in the metadata of the file is JSON.

    It needs pyarrow.

    Raises:
        MoloError: it cannot be written, or the bank is damaged.
    """
    # An extra, and slow to import.
    from pyarrow.parquet import ParquetWriter

    schema = _schema(clips)
    with written(path), replacing(path) as temporary, ParquetWriter(temporary, schema) as writer:
        for rows, leaves in clips.blocks():
            writer.write_table(_table(clips, rows, leaves, schema))


def _schema(clips: ExportedClips) -> Any:
    import pyarrow

    text, number = pyarrow.string(), pyarrow.int32()
    kinds = {"dataset": text, "split": text, "class": text, "class_id": number, "video": text}
    fields = [pyarrow.field(name, kind) for name, kind in {**kinds, "draw": number}.items()]
    for name, (dtype, shape) in clips.arrays.items():
        kind = pyarrow.from_numpy_dtype(dtype)
        # Of a fixed length, so that readers see a matrix.
        kind = pyarrow.list_(kind, math.prod(shape)) if shape else kind
        fields.append(pyarrow.field(name, kind, metadata={"shape": json.dumps(list(shape))}))
    return pyarrow.schema(fields, metadata={"description": json.dumps(clips.description)})


def _table(
    clips: ExportedClips, rows: np.ndarray, leaves: Sequence[np.ndarray], schema: Any
) -> Any:
    import pyarrow

    same = {"dataset": clips.dataset, "split": clips.split.name}
    columns = {name: [plain(text)] * len(rows) for name, text in same.items()}
    columns |= clips.columns(rows)
    arrays = [pyarrow.array(columns[name], schema.field(name).type) for name in columns]
    for name, leaf in zip(clips.arrays, leaves, strict=True):
        values, kind = pyarrow.array(leaf.reshape(-1)), schema.field(name).type
        single = leaf.ndim == 1
        arrays.append(
            values if single else pyarrow.FixedSizeListArray.from_arrays(values, type=kind)
        )
    return pyarrow.Table.from_arrays(arrays, schema=schema)
