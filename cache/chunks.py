"""Chunks: some rows of codes as one file, written and read without Zarr's machinery.

They are what Zarr's own codecs (zstd, then CRC-32C) make and take. Going through Zarr costs three
copies of the codes on the way and some milliseconds a chunk, twice to five times as long as this.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import compress, decompress
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.chunk_key_encodings import ChunkKeyEncodingParams

KEYS: ChunkKeyEncodingParams = {"name": "default", "separator": "."}
"""All chunks of an array in one folder: with slashes each would have a folder of its own."""
LEVEL = -1
"""Of zstd: level 1 made codes a tenth smaller and took one and a half to six times as long to
read; shuffling bytes or bits first makes codes after a ReLU larger."""
CODECS = (ZstdCodec(level=LEVEL), Crc32cCodec())
"""Zarr's names for what `encode` does."""
CHUNK_BYTES = 2**19
"""Small enough that a hundred rows here and there are read at once."""
MIN_ROWS, MAX_ROWS = 1, 1024


def chunk_rows(n_features: int, itemsize: int) -> int:
    """Choose how many rows stand in one chunk.

    Parameters
    ----------
    n_features : int
    itemsize : int
        Bytes of one value.

    Returns
    -------
    rows : int
        The power of two nearest to 512 KiB, from 1 to a segment of 1,024.

    Examples
    --------
    >>> chunk_rows(512, 2), chunk_rows(86_528, 4)
    (512, 2)
    """
    wanted = max(1.0, CHUNK_BYTES / (n_features * itemsize))
    return min(int(2 ** round(np.log2(wanted))), MAX_ROWS)


def chunk_path(part: str, array: str, chunk: int) -> str:
    """Name the file of a chunk of whole rows, as Zarr does."""
    return f"{part}/{array}/c.{chunk}.0"


def encode(rows: NDArray[Any]) -> tuple[bytes, str]:
    """Compress the rows of a chunk.

    Parameters
    ----------
    rows : ndarray of shape (chunk_rows, n_features), float16 or float32
        Contiguous.

    Returns
    -------
    data : bytes
    checksum : str
        CRC-32C of the data before it, which ends it: 8 hexadecimal digits.
    """
    data: bytes = compress(rows.astype(rows.dtype.newbyteorder("<"), copy=False), LEVEL)
    end = google_crc32c.value(data).to_bytes(4, "little")
    return data + end, end.hex()


def decode(data: bytes | memoryview, checksum: str, rows: NDArray[Any]) -> None:
    """Decompress a chunk.

    Parameters
    ----------
    data : bytes or memoryview
    checksum : str
        What the data should end with.
    rows : ndarray of shape (chunk_rows, n_features)
        Contiguous; filled.

    Raises
    ------
    ValueError
        If the data are not those that were written.
    """
    end = bytes(data[-4:])
    found = google_crc32c.value(np.frombuffer(data, np.uint8)[:-4]) if len(data) > 4 else None
    if found is None or found.to_bytes(4, "little") != end:
        raise ValueError("its checksum does not fit its content")
    if end.hex() != checksum:
        raise ValueError("it does not end with the checksum that was written")
    try:
        decompress(memoryview(data)[:-4], rows)
    except RuntimeError as error:
        raise ValueError(f"it cannot be decompressed ({error})") from error
