"""Names: which are a system's own, and no part of a dataset; and how names are compared."""

from __future__ import annotations

import unicodedata

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation",
               "val": "validation", "valid": "validation", "test": "test",
               "testing": "test"}  # fmt: skip
"""What splits are called → which they are."""

CODES_SCHEMES = ("npz:", "parquet:", "zarr:")
"""What datasets begin with that are codes, not images."""


def refuse_unnamed_codes(dataset: str) -> None:
    """Refuse a file that is codes by its ending, and is not named as such.

    Raises
    ------
    ValueError
    """
    for scheme in CODES_SCHEMES:
        if dataset.endswith(f".{scheme.rstrip(':')}") and ":" not in dataset:
            raise ValueError(
                f"{dataset!r} is a file of codes by its name, not of images. Of codes, `cnn-codes "
                f"compare {scheme}{dataset}` makes a report."
            )


_OF_SYSTEMS = frozenset(
    {
        *("__macosx", "network trash folder"),  # macOS, and servers of its files.
        *("@eadir", "@tmp", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot"),  # QNAP
        *("$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"),  # Windows
        *("lost+found", "~snapshot"),
    }
)
"""In lower case: Windows and macOS do not tell cases apart."""


def is_hidden(name: str) -> bool:
    """Tell by its name whether a file or folder is hidden, or a system or NAS makes it for itself.

    Examples
    --------
    >>> [is_hidden(name) for name in (".@__thumb", "@eaDir", "__MACOSX", "._0.png", "birds")]
    [True, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def hidden_part(place: str) -> str:
    """Cut a relative path with slashes behind its first hidden folder, or file; or give nothing.

    Examples
    --------
    >>> hidden_part("birds/@eaDir/0.jpg/thumb.jpg"), hidden_part("birds/0.jpg")
    ('birds/@eaDir/', '')
    """
    names = place.split("/")
    for n, name in enumerate(names, 1):
        if is_hidden(name):
            return "/".join(names[:n]) + "/" * (n < len(names))
    return ""


def composed(name: str) -> str:
    r"""Write a name in Unicode's form NFC, in which names are compared.

    Examples
    --------
    >>> composed("Ba\u0308r") == "B\u00e4r"  # As macOS writes it, and Windows.
    True
    """
    return unicodedata.normalize("NFC", name)
