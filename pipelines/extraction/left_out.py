"""What is left out of a dataset: files that are not images, and images that cannot be read."""

from __future__ import annotations

from codes import ImageList
from codes.decoding.decode import ChangedReason
from codes.wording import counted
from pipelines.progress import Progress


class UnreadableImagesError(ValueError):
    """Some images of a dataset cannot be decoded; the message lists every one.

    Or the archive that they are in was changed while it was read.
    """


def say_ignored(images: ImageList, progress: Progress) -> None:
    """Say what was ignored when the images were listed, if anything was."""
    if images.ignored:
        ignored = ", ".join(f"{what} ({n})" for what, n in images.ignored.items())
        progress.info(f"Ignored: {ignored}.")


def say_skipped(
    unreadable: dict[str, str], n_images: int, progress: Progress, *, skip: bool, stored: bool
) -> None:
    """Say which images cannot be decoded, by name with the reason, if they may be skipped.

    ``stored`` says whether the codes of the others are in the store by now.

    Raises
    ------
    UnreadableImagesError
        If they may not be skipped, or an archive was changed meanwhile: its images can be read, and
        are never skipped.
    """
    changed = [name for name, why in unreadable.items() if isinstance(why, ChangedReason)]
    if changed:
        raise UnreadableImagesError(
            f"{len(changed):,} of {counted(n_images, 'image')} "
            f"{'was' if len(changed) == 1 else 'were'} not read, the first {changed[0]!r}: the "
            "archive was changed or removed meanwhile. The codes of the others are stored. Restore "
            "the archive and run it again."
        )
    lines = "".join(f"\n  {name}: {why}" for name, why in unreadable.items())
    if unreadable and not skip:
        others = "; the codes of the others are stored" if stored else ""
        raise UnreadableImagesError(
            f"{len(unreadable):,} of {counted(n_images, 'image')} cannot be read{others}.{lines}\n"
            "Repair or remove them, or go on without them: --skip-unreadable, in Python "
            "skip_unreadable=True."
        )
    if unreadable:
        progress.info(f"Skipped, as they cannot be read:{lines}")
