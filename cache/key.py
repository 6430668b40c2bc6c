"""Keys: everything that a code depends on, as explicit JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


def canonical_json(value: object) -> str:
    """Write a value as the one JSON text that stands for it.

    Parameters
    ----------
    value : object
        Dictionaries with string keys, lists, strings, finite numbers, booleans and None.

    Returns
    -------
    text : str
        Keys sorted, no white space.

    Raises
    ------
    ValueError, TypeError
        If the value holds NaN, infinity or what JSON has no word for.

    Examples
    --------
    >>> canonical_json({"b": (1, 2), "a": 0.5})
    '{"a":0.5,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal.

    Examples
    --------
    >>> sha256(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ExtractionKey:
    """What all codes of one extraction depend on, besides the image and the layer.

    Attributes
    ----------
    architecture : mapping
        Name and arguments of the network.
    weights : str
        SHA-256 of the weights.
    preprocessing : mapping
        Every step from an RGB image to the network's input, its size included.
    precision : str
        What the network computes in.
    extractor : int
        Version of the extractor.
    """

    architecture: Mapping[str, Any]
    weights: str
    preprocessing: Mapping[str, Any]
    precision: str
    extractor: int

    def fields(self) -> dict[str, Any]:
        """Return the key as plain values, in the shape that JSON gives back."""
        fields: dict[str, Any] = json.loads(canonical_json(asdict(self)))
        return fields

    def digest(self) -> str:
        """Return the SHA-256 of the key, 64 hexadecimal digits."""
        return sha256(canonical_json(self.fields()).encode())

    def folder(self) -> str:
        """Return the name of this extraction's group in a store."""
        return f"{_slug(str(self.architecture.get('name', 'network')))}-{self.digest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class CodesKey:
    """What tells one array of codes from another of the same extraction.

    Attributes
    ----------
    layer : str
        The graph node.
    activation : str
        ``"post"`` or ``"pre"``.
    pool : str
        Resolved pooling.
    dtype : str
        What the codes are stored as: ``"float16"`` or ``"float32"``.
    """

    layer: str
    activation: str
    pool: str
    dtype: str

    def fields(self) -> dict[str, Any]:
        """Return the key as plain values."""
        return asdict(self)

    def array(self) -> str:
        """Return the name of the array in a part.

        Examples
        --------
        >>> CodesKey(layer="fc6.relu", activation="post", pool="flatten", dtype="float16").array()
        'fc6.relu-post-flatten-float16-804bcf69'
        """
        fields = self.fields()
        digest = sha256(canonical_json(fields).encode())
        return "-".join([*map(_slug, fields.values()), digest[:8]])


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", text)[:80]
