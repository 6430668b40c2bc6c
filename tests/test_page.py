"""The page in a browser: nothing fetched, nothing wrong, everything there, on a phone too."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from pipelines.cli.app import main
from pipelines.report.answer import cautions, roles, sentence, size_sentence
from pipelines.report.figures.svg import NARROW, WIDE, power
from pipelines.report.networks import side_by_side
from pipelines.report.page import render, render_markdown
from tests.conftest import draw_image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
    "--enable-logging=stderr", "--v=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small report, computed once."""
    folder = tmp_path_factory.mktemp("small")
    for label, name in enumerate(("blue", "green", "red")):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(6):
            draw_image(9 * label + i, hue=2 - label).save(folder / "images" / name / f"{i}.png")
    arguments = (
        folder / "images", "--backbone", "bundled", "--layers", "conv[345].relu,fc..relu",
        "--cv", "3", "--Cs", "1e-6:1e-1:6", "--train-sizes", "3,all", "--repeats", "1", "--jobs",
        "1", "--controls", "majority,pixels", "--store", folder / "store", "--out", folder / "out",
    )  # fmt: skip
    assert main(["compare", *map(str, arguments)]) == 0
    found: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text())
    return found


@pytest.fixture
def report_folder(report: dict[str, Any], tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "report.html").write_text(render([report]))
    return folder


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.headings: list[str] = []
        self.unnamed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        loads = ["src", "srcset", "data", "poster"] + ["href"] * (tag in ("link", "image", "use"))
        self.loaded += [value for name in loads if (value := given.get(name))]
        if tag in ("img", "svg") and not (given.get("alt") or given.get("aria-label")):
            self.unnamed.append(tag)
        if tag in ("h1", "h2"):
            self.headings.append(tag)


def test_the_page_holds_all_that_it_shows(report_folder: Path) -> None:
    page = (report_folder / "report.html").read_text()
    links = _Links()
    links.feed(page)
    # SVG glyphs and clips are in the page itself.
    assert [u for u in links.loaded if not u.startswith(("data:", "#"))] == []
    assert links.unnamed == []
    assert links.headings[0] == "h1"
    for heading in ("Score against depth", "Score by depth and training size", "What to do",
                    "How similar", "Controls", "Every depth", "C against score", "What is confused",
                    "How it was computed"):  # fmt: skip
        assert heading in page


def _renamed(report: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Give layers other names, wherever a report speaks of them."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    renamed: dict[str, Any] = walk(report)
    return renamed


@pytest.fixture
def full(report: dict[str, Any]) -> dict[str, Any]:
    """A report with much of everything: long names, 25 classes, copies, skipped images."""
    report = copy.deepcopy(report)
    layers = {row["layer"]: f"_features_{'stage.' * 9}{row['layer']}" for row in report["layers"]}
    report = _renamed(report, layers)
    classes = [f"class {i} of the many, not otherwise specified" for i in range(25)]
    report["classes"] = classes
    report["confusion"] = (np.eye(25, dtype=int) * 120 + 1).tolist()
    report["dataset"]["classes"] = dict.fromkeys(classes, 12)
    report["leaks"] = [
        {"kind": "under two labels", "images": [f"a/{i}.png", f"b/{i}.png"]} for i in range(40)
    ]
    report["skipped"] = [{"path": f"a/{i}.png", "reason": "not an image"} for i in range(40)]
    thumbnail = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk"
    thumbnail += "YAAAAAYAAjCB0C8AAAAASUVORK5CYII="
    report["confused"] = [
        {"label": classes[0], "predicted": classes[1], "n": 2,
         "examples": [{"path": "a/0.png", "thumbnail": thumbnail}]}
    ]  # fmt: skip
    report["notes"] = [f"fit {i} stopped short" for i in range(20)]
    return report


MEASURE = """
const view = document.getElementById("f").contentWindow, page = view.document;
const shown = e => e.getClientRects().length > 0;
const box = e => e.getBoundingClientRect(), over = e => e.scrollWidth > e.clientWidth + 1;
const inside = e => box(e).left >= 0 && box(e).right <= WIDTH;
const style = e => view.getComputedStyle(e);
const svgs = [...page.querySelectorAll("figure svg")].filter(shown);
document.title = JSON.stringify({
  wide: page.documentElement.scrollWidth,
  figures: svgs.length,
  broken: [...page.images].filter(i => !i.naturalWidth).length,
  asked: view.performance.getEntriesByType("resource")
    .filter(e => !e.name.startsWith("data:")).length,
  type: [...new Set(svgs.flatMap(svg => [...svg.querySelectorAll("text")].map(t =>
    (parseFloat(style(t).fontSize) * box(svg).width
      / svg.viewBox.baseVal.width).toFixed(1))))],
  rows: page.querySelectorAll(".depths tbody tr").length,
  hidden: [...page.querySelectorAll(
    ".depths tbody th, .depths .role, .depths tbody td, .cards tbody td, .cards tbody th")]
    .filter(e => e.textContent && !(shown(e) && inside(e) && !over(e)))
    .map(e => e.textContent),
  unsigned: [...page.querySelectorAll("*")].filter(e => shown(e) && over(e)
    && style(e).overflowX != "visible" && !e.matches("thead, thead *")
    && !(style(e).backgroundImage.includes("gradient")
         && (WIDTH > 752 || e.previousElementSibling?.matches(".sign")))).length,
  gap: Math.min(...[...page.querySelectorAll(".thumbs")].map(e => {
    const range = page.createRange(); range.selectNodeContents(e.parentElement);
    range.setEndBefore(e);
    return box(e).top - box(range).bottom; })),
});
"""


def _seen(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """Show a page in a browser, and measure it there."""
    frame = folder / "frame.html"  # A window cannot be made as narrow as a phone; a frame can.
    frame.write_text(
        f"""<body style="margin:0"><iframe id="f" src="{page.as_uri()}"
        style="width:{width}px;height:900px;border:0"></iframe><script>
        const WIDTH = {width}; window.onload = () => {{ {MEASURE} }};</script>"""
    )
    done = subprocess.run(
        [str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder / 'profile'}",
         "--window-size=1300,950", "--allow-file-access-from-files", "--dump-dom",
         frame.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert found is not None, done.stdout[:500]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 800, 390])
def test_a_browser_shows_everything_without_asking_anybody(
    report: dict[str, Any], full: dict[str, Any], tmp_path: Path, width: int
) -> None:
    page = tmp_path / "report.html"
    both = [report, full]
    page.write_text(render(both, side_by_side(both, [None, None])))
    seen = _seen(page, tmp_path, width)
    assert seen["wide"] <= width
    assert seen["figures"] >= 8
    assert (seen["broken"], seen["asked"]) == (0, 0)
    # Nothing that decides is hidden; what scrolls says so; figures have one size of type.
    assert seen["rows"] == 2 * sum(row["train_size"] == "all" for row in report["layers"])
    assert seen["hidden"] == []
    assert seen["unsigned"] == 0
    assert seen["type"] == ["13.3"]
    assert seen["gap"] >= 8  # Between a caption and its thumbnails, in pixels.


class _Texts(HTMLParser):
    """What a reader reads, and what is in figures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.drawn: list[str] = []
        self._in = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag

    def handle_data(self, data: str) -> None:
        if self._in not in ("style", "script"):
            (self.drawn if self._in in ("text", "tspan") else self.said).append(data)


@pytest.mark.parametrize("Cs", [[1e-6 * 10**i for i in range(6)], [0.1, 0.15, 0.2, 0.3, 0.4, 0.5]])
def test_no_page_shows_tex(report: dict[str, Any], Cs: list[float]) -> None:
    report = copy.deepcopy(report)
    report["protocol"]["Cs"] = Cs
    used = [row["layer"] for row in report["layers"]]
    names = [r"$\frac{x$", "a^2_$b_1$", r"\alpha_{$", "_c$", "d"]
    report = _renamed(report, dict(zip(dict.fromkeys(used), names, strict=True)))
    report["classes"] = [r"$x$", "costs $5 or $10_a", r"$\mathrm{a}$"]
    report["controls"][0]["name"] = "$y$"
    # Whatever is set for other figures of the same process.
    with matplotlib.rc_context({"text.usetex": True, "axes.formatter.use_mathtext": True}):
        found = _Texts(render([report]))
    text = " ".join(found.drawn)
    for name in (*names, *report["classes"], "$y$"):
        assert name in found.drawn
        text = text.replace(name, "")
    assert "$" not in text
    assert "\\" not in text
    assert "mathdefault" not in text
    for C in Cs:
        assert power(C) in found.drawn
    assert found.drawn == _Texts(render([report])).drawn


def test_names_that_start_with_an_underscore_are_in_the_legends(report: dict[str, Any]) -> None:
    report = copy.deepcopy(report)
    layers = list(dict.fromkeys(row["layer"] for row in report["layers"]))
    report = _renamed(report, {layer: f"_{layer}" for layer in layers} | {"svm": "_svm"})
    report["classes"] = ["_a", "_b", "_c"]
    report["backbone"]["name"] = "_net"
    drawn = _Texts(render([report])).drawn
    for layer in layers:  # In both widths: above the depths, in the map, in the legend of C.
        assert drawn.count(f"_{layer}") + drawn.count(f"_{layer} (edge)") == 6
    assert {"_svm", "_a", "_b", "_c"} <= set(drawn)
    other = copy.deepcopy(report)
    other["backbone"]["weights"] = "_other"
    both = [report, other]
    drawn = _Texts(render(both, side_by_side(both, [None, None]))).drawn
    assert {"_net (bundled), _svm", "_net (_other), _svm"} <= set(drawn)


def test_figures_have_the_width_and_the_type_that_the_page_shows(full: dict[str, Any]) -> None:
    page = render([full])
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        sizes = set(re.findall(r"font(?:-size)?: (?:[a-z0-9]+ )*?([\d.]+)px", svg))
        assert sizes == {"10"}
    for form, width in (("wide", WIDE), ("narrow", NARROW)):
        shown = re.findall(rf'<div class="{form}">(.*?)<svg [^>]*? width="([\d.]+)pt"', page)
        assert len(shown) >= 4
        for before, points in shown:
            fits = float(points) <= 72 * width + 0.1
            assert fits == ("scroll" not in before)
            assert fits or form == "wide" or "scrolls sideways" in before


def test_networks_of_many_layers_stay_legible(report: dict[str, Any]) -> None:
    report = copy.deepcopy(report)
    first = report["layers"][0]
    report["layers"] += [
        first | {"layer": f"block{i}.relu", "train_size": size, "depth": i / 121}
        for i in range(120)
        for size in (3, "all")
    ]
    drawn = _Texts(render([report])).drawn
    assert drawn.count("119 other depths") == 2
    report["given"] = {"has_depths": False, "file": "npz:codes.npz", "order": "as in the file"}
    given = _Texts(render([report])).drawn
    assert (given.count("119 other layers"), given.count("119 other depths")) == (2, 0)
    assert report["best"]["layer"] in drawn


def test_long_lists_are_one_line_that_unfolds(report: dict[str, Any], full: dict[str, Any]) -> None:
    page = render([full])
    folded = re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>", page, re.DOTALL)
    assert next(said for said, _ in folded if "copies" in said).endswith("40")
    inside = " ".join(items for _, items in folded)
    for name in ("a/39.png", "not an image", full["classes"][24], "fit 19 stopped short"):
        assert name in inside
    unfolded = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "a/39.png" not in unfolded
    few = report | {"skipped": full["skipped"][:2]}
    assert "<details open>" in render([few])


def test_names_cannot_break_the_page(report_folder: Path) -> None:
    report = json.loads((report_folder / "report.json").read_text())
    evil = "<script>alert(1)</script>"
    report["classes"][0] = report["dataset"]["name"] = evil
    report["skipped"] = [{"path": evil, "reason": evil}]
    assert evil not in render([report])
    report["classes"][:2] = [r"$\frac{x$", "costs $5 or $10_a"]
    page = render([report])
    assert "costs $5 or $10_a" in page
    text = json.dumps(report).replace(report["best"]["layer"], "a|b<c>")
    report = json.loads(text)
    assert r"a\|b\<c\>" in render_markdown(report)


def test_the_sentence_follows_what_was_found(report_folder: Path) -> None:
    report = json.loads((report_folder / "report.json").read_text())
    layers = list(dict.fromkeys(row["layer"] for row in report["layers"]))
    best = report["best"]
    classifier = best["classifier"]

    def tie(names: list[str], cheapest: str) -> str:
        pairs = [[name, classifier] for name in names]
        best.update(tied=names, tied_classifiers=pairs, recommended=cheapest)
        return sentence(report)

    best |= {"layer": layers[-1], "recommended_classifier": classifier, "train_size": "all"}
    alone = tie([], layers[-1])
    assert f"take the codes of {layers[-1]}" in alone
    assert "every other depth is worse" in alone
    some = tie(layers[1:-1], layers[1])
    assert f"take the codes of {layers[1]} " in some
    assert "cheaper" in some
    assert roles(best, layers[1], classifier) == ["tied", "recommended"]
    assert roles(best, layers[1], "another") == []
    assert "lower by more than one standard error" in tie(layers[:-1], layers[-1])
    tie([], layers[-1])
    best["better"] = [[layers[0], classifier]]
    assert "every other depth is worse" not in sentence(report)
    assert any(f"{layers[0]} is clearly better" in said for said in cautions(report))
    best["better"] = report["controls"] = []
    assert cautions(report) == []
    report["controls"] = [
        {"name": "pixels", "score": best["score"], "finding": "no network is needed"},
        {"name": "concatenated", "score": 1.1, "finding": "", "score_without_leaks": None},
    ]
    assert any("All depths side by side" in said for said in cautions(report))
    report["controls"][1]["score_without_leaks"] = 0.0
    assert not any("All depths side by side" in said for said in cautions(report))
    assert "no network is needed" in sentence(report)
    best["recommended"] = None
    assert "better than guessing" in sentence(report)
    report["by_size"] = [{**best, "train_size": 3, "layer": layers[0], "tied": []}, best]
    assert f"with 3 training images a class {layers[0]} is better" in size_sentence(report)
    report["by_size"][0]["tied"] = [layers[-1]]
    assert "At no size can another depth" in size_sentence(report)
