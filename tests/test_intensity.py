"""Intensity: one range for many images, by hand; where brightness is the class; keys as before."""

from __future__ import annotations

import io
import json
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from sklearn.exceptions import NotFittedError

from codes import ImageList, Preprocessing, load_images
from codes.augmentation import AugmentedPreprocessing
from codes.data.images import digest_images
from codes.decoding.colors import to_rgb
from codes.decoding.decode import Decoding, UnreadableImageError, decode, read_wide
from codes.decoding.intensity import parse_intensity
from pipelines import CodesTransformer, ExtractionOptions, FineTuned
from pipelines.diagnostics.intensity_by_class import check_intensity, choose_images, compare_ranges
from pipelines.extraction.extract import extract
from pipelines.extraction.intensity import find_range
from pipelines.fitted.files import load
from pipelines.progress import Silent
from tests.conftest import Run, draw_image

RNG = np.random.default_rng(0)
GRAY = RNG.integers(200, 4000, (30, 40))
COLOR = RNG.integers(200, 4000, (30, 40, 3))
QUICK = ["--backbone", "bundled", "--layers", "conv2.relu", "--Cs", "1e-3,1e-1", "--cv", "3",
         "--jobs", "1"]  # fmt: skip


def _tiff(values: NDArray[Any], **options: Any) -> bytes:
    kept = io.BytesIO()
    tifffile.imwrite(kept, values, metadata=None, **options)
    return kept.getvalue()


def _seen(content: bytes, intensity: str) -> NDArray[np.int_]:
    decoding = Decoding(intensity=intensity)
    return decode(lambda: io.BytesIO(content), decoding=decoding).astype(int)


def _by_hand(values: NDArray[Any], low: float, high: float) -> NDArray[np.int_]:
    levels = [
        round(255 * (min(max(float(v), low), high) - low) / (high - low)) for v in values.flat
    ]
    found = np.array(levels).reshape(values.shape)
    return found if found.ndim == 3 else np.repeat(found[..., None], 3, 2)


@pytest.mark.parametrize("values", [GRAY, COLOR])
@pytest.mark.parametrize("kind", ["u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("window", ["0:4095", "500:1500", "-1000:3000.5"])
def test_a_window_is_the_same_for_every_image(values: NDArray[Any], kind: str, window: str) -> None:
    photometric = "rgb" if values is COLOR else "minisblack"
    found = _seen(_tiff(values.astype(kind), photometric=photometric), window)
    low, high = map(float, window.split(":"))
    np.testing.assert_array_equal(found, _by_hand(values, low, high))


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("u2", 0, 65535), ("i2", -32768, 32767), ("u4", 0, 2**32 - 1)]
)
def test_integers_have_the_limits_of_their_type(kind: str, low: int, high: int) -> None:
    values = RNG.integers(low, high, (20, 30), endpoint=True).astype(kind)
    np.testing.assert_array_equal(_seen(_tiff(values), "dtype"), _by_hand(values, low, high))


def test_integers_of_12_bits_have_the_limits_of_12_bits() -> None:
    """Packed by hand, as some cameras write them."""
    bits = GRAY[..., None] >> np.arange(12)[::-1] & 1
    data = np.packbits(bits.astype(np.uint8).reshape(30, -1), axis=1).tobytes()
    tags = [(256, 40), (257, 30), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 30),
            (279, len(data))]  # fmt: skip
    content = b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + struct.pack(">H", len(tags))
    content += b"".join(struct.pack(">HHII", number, 4, 1, value) for number, value in tags)
    np.testing.assert_array_equal(_seen(content + bytes(4), "dtype"), _by_hand(GRAY, 0, 4095))


def test_floats_are_from_0_to_1_by_type() -> None:
    values = RNG.random((20, 30)).astype(np.float32)
    np.testing.assert_array_equal(_seen(_tiff(values), "dtype"), _by_hand(values, 0, 1))
    values[3, 4] = 1.5
    with pytest.raises(UnreadableImageError, match=r"to 1\.5.*LOW:HIGH or dataset"):
        _seen(_tiff(values), "dtype")
    values[3, 4] = np.nan
    for intensity in ("dtype", "0:1"):
        with pytest.raises(UnreadableImageError, match="NaN"):
            _seen(_tiff(values), intensity)
    far = np.array([[-1.7e308, 0.5], [0.25, 1.7e308]])
    np.testing.assert_array_equal(_seen(_tiff(far), "0:1"), _by_hand(far, 0, 1))


def test_white_is_zero_and_no_data_is_black() -> None:
    values = GRAY.astype(np.uint16)
    values[:, :3] = 65535
    tags = [(42113, "s", 0, "65535", True)]
    for photometric, white in (("minisblack", False), ("miniswhite", True)):
        found = _seen(_tiff(values, photometric=photometric, extratags=tags), "0:4095")
        expected = _by_hand(GRAY, 0, 4095)
        expected = 255 - expected if white else expected
        assert (found[:, :3] == 0).all()
        assert np.abs(found[:, 3:] - expected[:, 3:]).max() <= white


def test_pngs_of_16_bits_and_pillows_modes_too() -> None:
    kept = io.BytesIO()
    Image.fromarray(GRAY.astype(np.uint16)).save(kept, "PNG")
    np.testing.assert_array_equal(_seen(kept.getvalue(), "dtype"), _by_hand(GRAY, 0, 65535))
    for image in (Image.fromarray(GRAY.astype(np.int32)), Image.fromarray(GRAY.astype("f4"))):
        np.testing.assert_array_equal(np.asarray(to_rgb(image, "0:4095")), _by_hand(GRAY, 0, 4095))


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "gif", "webp"])
def test_images_of_8_bits_stay_as_they_are(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"image.{ending}"
    draw_image(0).save(file)
    content = file.read_bytes()
    plain = _seen(content, "image")
    for intensity in ("dtype", "0:4095"):
        np.testing.assert_array_equal(_seen(content, intensity), plain)
    assert read_wide(lambda: io.BytesIO(content)) is None


def test_the_store_shows_the_range(tmp_path: Path, run_cli: Run) -> None:
    images = load_images(_microscope(tmp_path / "data")).take(np.arange(2))
    for intensity in ("image", "0:20000"):
        options = ExtractionOptions(backbone="bundled", layers="conv2.relu", intensity=intensity)
        extract(images, options)
    listed = run_cli("cache", "list").stdout
    assert "intensity 0:20000" in listed
    assert "intensity image" in listed


@pytest.mark.parametrize(
    "text", ["5:1", "3:3", "a:b", "1:2:3", "nan:1", "0:inf", "-1.7e308:1.7e308", "", ":", "auto"]
)
def test_what_is_no_range_is_refused(text: str, run_cli: Run) -> None:
    for make in (parse_intensity, lambda t: Preprocessing(intensity=t),
                 lambda t: ExtractionOptions(backbone="bundled", intensity=t)):  # fmt: skip
        with pytest.raises(ValueError, match="Allowed: image, dataset, dtype, or LOW:HIGH"):
            make(text)
    done = run_cli("extract", "nowhere", "--backbone", "bundled", f"--intensity={text}")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "LOW:HIGH" in done.stderr


def test_keys_hold_the_range_where_it_is_not_the_usual_one() -> None:
    default = Preprocessing()
    assert "intensity" not in default.fields()
    assert "intensity" not in AugmentedPreprocessing.of(default, (), 0).fields()
    ranged = replace(default, intensity="0.0:4095")
    assert ranged.fields() == {**default.fields(), "intensity": "0:4095"}
    assert AugmentedPreprocessing.of(ranged, (), 0).decoding.intensity == "0:4095"
    with pytest.raises(ValueError, match="still to be found"):
        replace(default, intensity="dataset")


def _camera(seed: int, brightness: float) -> NDArray[np.uint16]:
    """One image of a 16-bit camera: a smooth pattern, and how bright it is."""
    rng = np.random.default_rng(seed)
    pattern = Image.fromarray(rng.random((5, 6)).astype(np.float32)).resize((48, 40))
    values = np.asarray(pattern)
    values = (values - values.min()) / (values.max() - values.min())
    return np.rint(brightness * (1000 + 3000 * values)).astype(np.uint16)


def _microscope(folder: Path, *, differ: bool = True, splits: bool = True) -> Path:
    """Two classes, alike but for how bright they are, if that differs."""
    for split, n in (("train", 24), ("test", 16)) if splits else (("", 24),):
        for label, name in enumerate(("bright", "dim")):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                seed = 1000 * (split == "test") + 100 * label + i
                spread = np.random.default_rng(seed).uniform(0.9, 1.1)
                values = _camera(seed, spread * (4 if differ and label == 0 else 1))
                tifffile.imwrite(folder / split / name / f"{i}.tif", values, metadata=None)
    return folder


def _percentiles_by_hand(images: ImageList) -> tuple[float, float]:
    every = [tifffile.imread(name).ravel() for name in images.source.names]
    low, high = np.percentile(np.concatenate(every), [0.1, 99.9])
    return float(low), float(high)


def test_brightness_that_is_the_class_is_kept_by_one_range(tmp_path: Path, run_cli: Run) -> None:
    data, reports = _microscope(tmp_path / "data"), {}
    for intensity in ("image", "dataset"):
        done = run_cli("compare", data, *QUICK, "--intensity", intensity, "--out", intensity,
                       "--controls", "pixels")  # fmt: skip
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / intensity / "report.json").read_text())
        reports[intensity] = report
        warned = "brightness differs by class"
        pages = [(tmp_path / intensity / f"report.{kind}").read_text() for kind in ("html", "md")]
        for text in (done.stderr, *pages):
            assert (warned in text) == (intensity == "image")
            assert "--intensity dataset" in text
    by_image, by_dataset = reports["image"], reports["dataset"]
    assert by_image["best"]["ci_low"] <= 0.5
    assert by_image["controls"][0]["score"] < 0.8
    assert by_dataset["best"]["score"] == by_dataset["controls"][0]["score"] == 1
    assert by_image["intensity_check"]["p_value"] < 1e-6
    found = by_dataset["backbone"]["intensity"]
    assert by_dataset["backbone"]["preprocessing"]["intensity"] == found
    assert "intensity" not in by_image["backbone"]["preprocessing"]
    images = load_images(data)
    train = images.take(np.flatnonzero(~np.asarray(images.test)))
    low, high = _percentiles_by_hand(train)
    assert np.allclose(list(map(float, found.split(":"))), (low, high), rtol=0.02)
    assert f"{found} is used" in by_dataset["backbone"]["intensity_found"]
    named = extract(images, ExtractionOptions(backbone="bundled", layers="conv2.relu",
                                              intensity=found))  # fmt: skip
    assert named.n_reused == 80


def test_the_range_is_that_of_training_images_in_any_order(tmp_path: Path) -> None:
    data = _microscope(tmp_path / "data")
    images = load_images(data)
    train = images.take(np.flatnonzero(~np.asarray(images.test)))
    found, _ = find_range(train, Silent())
    backwards, _ = find_range(train.take(np.arange(len(train))[::-1]), Silent())
    assert backwards == found
    options = ExtractionOptions(backbone="bundled", layers="conv2.relu", intensity="dataset")
    for file in (data / "test").rglob("*.tif"):  # Of these, nothing is known.
        tifffile.imwrite(file, 60_000 - tifffile.imread(file), metadata=None)
    assert extract(load_images(data), options).options.intensity == found


@pytest.mark.parametrize(
    ("values", "said"),
    [([np.full((9, 9), 7, np.uint16)] * 2, "the value 7"),
     ([GRAY.astype(np.uint16), GRAY.astype(np.float32)], "1 hold floats")],
)  # fmt: skip
def test_where_there_is_no_range_that_is_said(
    values: list[NDArray[Any]], said: str, tmp_path: Path
) -> None:
    for i, name in enumerate("ab"):
        (tmp_path / "d" / name).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "d" / name / "0.tif", values[i], metadata=None)
    options = ExtractionOptions(backbone="bundled", layers="fc7.relu", intensity="dataset")
    with pytest.raises(ValueError, match=said):
        extract(load_images(tmp_path / "d"), options)


def test_nearly_all_background_is_ranged_by_its_extremes(tmp_path: Path) -> None:
    dark = np.zeros((64, 64), np.uint16)
    dark[5, 7] = 900  # One pixel of 4,096, below the percentile.
    for name in "ab":
        (tmp_path / "d" / name).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "d" / name / f"{name}.tif", dark, metadata=None)
        dark[0, 0] = 1
    found, said = find_range(load_images(tmp_path / "d"), Silent())
    assert found == "0:900"
    assert "least and largest" in said


@pytest.mark.parametrize("intensity", ["dataset", "0:4095", "dtype"])
def test_where_all_have_8_bits_nothing_changes(
    intensity: str, image_folder: Path, run_cli: Run
) -> None:
    plain = run_cli("extract", image_folder, *QUICK[:4])
    done = run_cli("extract", image_folder, *QUICK[:4], "--intensity", intensity)
    assert plain.returncode == done.returncode == 0
    [said] = [line for line in done.stderr.splitlines() if "--intensity" in line]
    assert "changes nothing: no image has more than 8 bits" in said
    assert "Nothing to extract" in done.stderr
    images = load_images(image_folder)
    assert check_intensity(images, digest_images(images), "image") is None


def test_what_is_fitted_predicts_with_its_range(tmp_path: Path, run_cli: Run) -> None:
    data = _microscope(tmp_path / "data")
    done = run_cli("fit", data, *QUICK, "--intensity", "dataset", "--out", "f.skops")
    assert done.returncode == 0, done.stderr
    fitted = load(tmp_path / "f.skops")
    assert re.fullmatch(r"\d+:\d+", str(fitted.options.intensity))
    assert fitted.preprocessing["intensity"] == fitted.options.intensity
    (tmp_path / "new").mkdir()
    for i in range(6):  # Dim ones alone: their own range would be another.
        values = _camera(5000 + i, 1)
        tifffile.imwrite(tmp_path / "new" / f"{i}.tif", values, metadata=None)
    done = run_cli("predict", "f.skops", "new")
    rows = done.stdout.splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["dim"] * 6
    assert "does not seem to fit" not in done.stderr
    (tmp_path / "bright").mkdir()  # As another camera saves them: nearly all values are clipped.
    (tmp_path / "plain").mkdir()
    for i in range(6):
        values = np.minimum(_camera(5000 + i, 1).astype(np.uint32) * 16 + 30000, 65535)
        tifffile.imwrite(tmp_path / "bright" / f"{i}.tif", values.astype(np.uint16), metadata=None)
        Image.fromarray((values // 257).astype(np.uint8)).save(tmp_path / "plain" / f"{i}.png")
    clipped = run_cli("predict", "f.skops", "bright").stderr
    assert "which the pipeline was fitted, does not seem to fit: it clips" in clipped
    assert "None of 6 images has more than 8 bits" in run_cli("predict", "f.skops", "plain").stderr
    warned = run_cli("fit", data, *QUICK, "--out", "g.skops")
    assert "brightness differs by class" in warned.stderr


def test_a_file_of_before_is_one_of_own_ranges() -> None:
    from pipelines.fitted.pipeline import _preprocessing

    assert _preprocessing(Preprocessing().fields()).intensity == "image"


def test_a_transformer_finds_its_range_when_it_is_fitted(tmp_path: Path) -> None:
    images = load_images(_microscope(tmp_path / "data", splits=False))
    names = np.array(images.source.names)
    dim = names[images.labels == "dim"]
    transformer = CodesTransformer(layer="conv2.relu", intensity="dataset")
    with pytest.raises(NotFittedError):
        transformer.transform(dim)
    codes = transformer.fit(names).transform(dim)
    named = CodesTransformer(layer="conv2.relu", intensity=transformer.intensity_)
    np.testing.assert_array_equal(named.transform(dim), codes)
    assert transformer.intensity_ != transformer.fit(dim).intensity_


def test_fine_tuning_sees_the_range(tmp_path: Path) -> None:
    images = load_images(_microscope(tmp_path / "data", splits=False))
    names = np.array(images.source.names)
    model = FineTuned("bundled", start="fc7", intensity="dataset", epochs=2, views_cached=1, cv=2,
                      lr=1e-3)  # fmt: skip
    model.fit(names, images.labels)
    assert re.fullmatch(r"\d+:\d+", str(model.intensity_))
    assert np.mean(model.predict(names) == images.labels) > 0.9


def test_ranges_that_do_not_depend_on_the_class_are_silent(tmp_path: Path) -> None:
    data = _microscope(tmp_path / "data", differ=False)
    images = load_images(data)
    check = check_intensity(images, digest_images(images), "image")
    assert check is not None
    assert check.text == ""
    assert check.n_images == 48, "of the training images alone"
    ranges = [np.percentile(tifffile.imread(name), [0, 100]) for name in images.source.names
              if "train" in name and "dim" in name]  # fmt: skip
    np.testing.assert_allclose(check.by_class["dim"], np.median(ranges, axis=0))


@pytest.mark.parametrize("counts", [(3, 3), (5, 40), (20,) * 10, (5,) * 40])
def test_chance_is_hardly_ever_warned_of(counts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)).astype(str), counts)
    found = [compare_ranges(rng.lognormal(size=(len(labels), 2)), labels) for _ in range(300)]
    assert np.mean(np.array(found) < 0.001) <= 0.007
    assert 0.005 <= np.mean(np.array(found) < 0.05) <= 0.1 or len(labels) < 10


def test_few_images_of_every_class_and_one_of_each_patient_are_looked_at(tmp_path: Path) -> None:
    images = load_images(_microscope(tmp_path / "data"))
    images = replace(images, groups=np.array([str(i // 4) for i in range(len(images))]))
    places = choose_images(images, digest_images(images))
    assert len(places) == len(np.unique(images.groups[places])) == 12
    assert images.test is not None
    assert not images.test[places].any()


@pytest.mark.parametrize(
    ("intensity", "said"),
    [("0:100", "clips 100 %"), ("0:1000000", "nearly one gray"), ("dtype", "")],
)
def test_a_range_that_does_not_fit_is_warned_of(intensity: str, said: str, tmp_path: Path) -> None:
    images = load_images(_microscope(tmp_path / "data"))
    check = check_intensity(images, digest_images(images), intensity)
    assert check is not None
    assert said in check.text
    assert bool(check.text) == bool(said)
