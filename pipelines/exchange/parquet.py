"""Parquet files: a table with a row for each image, and a column of vectors for each layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from codes.data.readers.csv_files import COLUMNS, refuse_misspelt
from pipelines.exchange.arrays import Labelled, first_row
from pipelines.reading.readers import cut_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

_KEPT_AS = b"cnn-codes"
"""Key of the descriptions in the table's metadata, as JSON."""


def require_pyarrow() -> None:
    """Raise an error now if pyarrow is not installed.

    Raises
    ------
    ValueError
        With how to install it.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "Parquet files need the package pyarrow: pip install 'cnn-codes[parquet]'."
        ) from error


@dataclass(frozen=True)
class ParquetTable:
    """The columns of a Parquet file: vectors, of lists of numbers, and those that are named.

    Parameters
    ----------
    path : Path
    """

    path: Path
    label: ClassVar[str] = "label"
    order: ClassVar[str] = "in the file's order"

    @property
    def title(self) -> str:
        """What messages call it."""
        return repr(str(self.path))

    def names(self) -> list[str]:
        """List the columns that are read, in the file's order."""
        with self._opened() as file:
            schema = file.schema_arrow
        names = list(schema.names)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(
                f"{self.title}: the column {twice[0]!r} is there {names.count(twice[0])} times. "
                "Keep one, and rename or remove the others."
            )
        return [f.name for f in schema if f.name in COLUMNS or _is_list(f.type)]

    def ignored(self) -> list[str]:
        """List the other columns.

        Raises
        ------
        ValueError
            If one is near to one that is read.
        """
        with self._opened() as file:
            names = list(file.schema_arrow.names)
        read = self.names()
        others = [name for name in names if name not in read]
        absent = [name for name in COLUMNS if name not in names]
        for name in others:
            refuse_misspelt(name, absent, self.title)
        return others

    def descriptions(self) -> dict[str, list[Any]]:
        """Give the descriptions in the table's metadata, which `write_parquet` writes."""
        with self._opened() as file:
            kept = (file.schema_arrow.metadata or {}).get(_KEPT_AS)
        return {} if kept is None else dict(json.loads(kept))

    def read(self, name: str) -> NDArray[Any]:
        """Read a column, some rows at a time.

        Raises
        ------
        ValueError
            If a value is missing, or vectors are not of one length or not of numbers.
        """
        found: NDArray[Any] | None = None
        at = 0
        for block in self.blocks(name):
            if block.ndim == 1:
                return block
            if found is None:
                found = np.empty((self._n_rows(), block.shape[1]), block.dtype)
            found[at : at + len(block)] = block
            at += len(block)
        return np.empty((0, 0), np.float32) if found is None else found

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """Read a column of vectors some rows at a time, any other as one block.

        Raises
        ------
        ValueError
            As `read`.
        """
        with self._opened() as file:
            field = file.schema_arrow.field(name)
            # Names with dots are read as paths, by which longer names come along.
            batches = (batch.column(name) for batch in file.iter_batches(columns=[name]))
            if not _is_list(field.type):
                yield self._values(name, batches)
                return
            at, width = 0, None
            for batch in batches:
                block = self._vectors(name, batch, at, width)
                yield block
                at, width = at + len(block), block.shape[1]

    def _n_rows(self) -> int:
        with self._opened() as file:
            return int(file.metadata.num_rows)

    def _values(self, name: str, batches: Iterator[pa.Array]) -> NDArray[Any]:
        """Read one value for each row, text as str."""
        values: list[Any] = []
        for batch in batches:
            self._require_all(name, batch, len(values))
            values += batch.to_pylist()
        return np.array(values, str if values and isinstance(values[0], str) else None)

    def _vectors(self, name: str, batch: pa.Array, at: int, width: int | None) -> NDArray[Any]:
        """Read one vector for each row; `at` is the row of the first, `width` their length."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self._require_all(name, batch, at)
        if isinstance(batch, pa.ExtensionArray):
            batch = batch.storage
        if pa.types.is_fixed_size_list(batch.type):
            lengths = np.full(len(batch), batch.type.list_size)
        else:
            lengths = pc.list_value_length(batch).to_numpy()
        first = int(lengths[0]) if width is None else width
        ragged = first_row(lengths != first)
        if ragged is not None:
            raise ValueError(
                f"{self.title}, column {name!r}: the vector of row {at + ragged} (from 0) has "
                f"{lengths[ragged]:,} values, and those before it {first:,}. All need the same "
                "length: pool or pad them first."
            )
        values = batch.flatten()
        if values.null_count:
            row = at + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise ValueError(
                f"{self.title}, column {name!r}: a value of the vector of row {row // first} (from "
                "0) is missing. Remove the row, or fill it in."
            )
        if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
            raise ValueError(
                f"{self.title}, column {name!r}: its vectors hold {values.type}; codes are vectors "
                "of floating-point numbers. Convert them, or leave the column out."
            )
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(batch), first)

    def _require_all(self, name: str, batch: pa.Array, at: int) -> None:
        if batch.null_count:
            row = at + int(np.flatnonzero(batch.is_null().to_numpy(zero_copy_only=False))[0])
            raise ValueError(
                f"{self.title}, column {name!r}: row {row} (from 0) has no value. Fill it in, or "
                "remove the row."
            )

    @contextmanager
    def _opened(self) -> Iterator[ParquetFile]:
        require_pyarrow()
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(self.path) as file:
                yield file
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.title} is not a Parquet file, or is damaged: {error}") from (
                error
            )


def _is_list(kind: pa.DataType) -> bool:
    """Tell whether a column holds a list in each row."""
    import pyarrow as pa

    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    of = pa.types
    return bool(of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind))


def write_parquet(file: Path, labelled: Labelled, advance: Callable[[int], None]) -> None:
    """Write a Parquet file, some rows at a time.

    Parameters
    ----------
    file : Path
        Replaced where it is there.
    labelled : Labelled
        Codes become float32, which other programs read: most know no float16.
    advance : callable
        Called with the number of rows that were written, of each layer.
    """
    require_pyarrow()
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    widths = {name: codes.shape[1] for name, codes in labelled.layers.items()}
    fields = [(name, pa.string()) for name in labelled.columns]
    fields += [(name, pa.list_(pa.float32(), width)) for name, width in widths.items()]
    kept = {_KEPT_AS: json.dumps({k: list(v) for k, v in labelled.descriptions.items()})}
    schema = pa.schema(fields, metadata=kept)
    with ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in cut_rows(len(labelled), 4 * sum(widths.values())):
            columns = [pa.array(column[rows].tolist()) for column in labelled.columns.values()]
            for name, codes in labelled.layers.items():
                values = pa.array(codes[rows].astype(np.float32).ravel())
                columns.append(pa.FixedSizeListArray.from_arrays(values, widths[name]))
            writer.write_batch(pa.record_batch(columns, schema=schema))
            advance((rows.stop - rows.start) * len(widths))
