"""The page in a browser: nothing fetched, nothing wrong, everything there, on a phone too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.answer import cautions, roles, sentence, size_sentence
from pipelines.page import render, render_markdown

Run = Callable[..., subprocess.CompletedProcess[str]]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
    "--enable-logging=stderr", "--v=0",
)  # fmt: skip


@pytest.fixture
def report_folder(image_folder: Path, tmp_path: Path, run_cli: Run) -> Path:
    done = run_cli(
        "compare", image_folder, "--backbone", "bundled", "--cv", "3", "--Cs", "1e-3:1e-1:3",
        "--train-sizes", "3,all", "--repeats", "1", "--jobs", "1", "--out", tmp_path / "report",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return tmp_path / "report"


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


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_asking_anybody(
    report_folder: Path, tmp_path: Path, width: int
) -> None:
    frame = tmp_path / "frame.html"  # A window cannot be made as narrow as a phone; a frame can.
    frame.write_text(
        f"""<body style="margin:0"><iframe id="f" src="{(report_folder / "report.html").as_uri()}"
        style="width:{width}px;height:900px;border:0"></iframe><script>
        window.onload = () => {{
          const page = document.getElementById("f").contentDocument;
          document.title = JSON.stringify({{
            wide: page.documentElement.scrollWidth,
            figures: page.querySelectorAll("figure svg").length,
            broken: [...page.images].filter(i => !i.naturalWidth).length,
            asked: document.getElementById("f").contentWindow.performance
              .getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length}});
        }};</script>"""
    )
    arguments = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"]
    shot = tmp_path / "page.png"
    shown = subprocess.run(
        [*arguments, "--window-size=1300,950", "--allow-file-access-from-files",
         f"--screenshot={shot}", frame.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in shown.stderr, shown.stderr
    dumped = subprocess.run(
        [*arguments, "--window-size=1300,950", "--allow-file-access-from-files", "--dump-dom",
         frame.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    found = re.search(r"<title>(\{.*?\})</title>", dumped)
    assert found is not None, dumped[:500]
    seen = json.loads(found[1].replace("&quot;", '"'))
    assert seen["wide"] <= width
    assert seen["figures"] >= 4
    assert (seen["broken"], seen["asked"]) == (0, 0)
    assert len(np.unique(np.asarray(Image.open(shot).convert("L")))) > 20  # Something is drawn.


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
    assert "cheaper ones score lower" in tie(layers[:-1], layers[-1])
    tie([], layers[-1])
    best["better"] = [[layers[0], classifier]]
    assert "every other depth is worse" not in sentence(report)
    assert any(f"{layers[0]} is clearly better" in said for said in cautions(report))
    best["better"] = report["controls"] = []
    assert cautions(report) == []
    report["controls"] = [
        {"name": "pixels", "score": best["score"]}, {"name": "concatenated", "score": 1.1},
    ]  # fmt: skip
    said = " ".join(cautions(report))
    for words in ("Raw pixels score", "All depths side by side"):
        assert words in said
    best["recommended"] = None
    assert "better than guessing" in sentence(report)
    report["by_size"] = [{**best, "train_size": 3, "layer": layers[0], "tied": []}, best]
    assert f"with 3 training images a class {layers[0]} is better" in size_sentence(report)
    report["by_size"][0]["tied"] = [layers[-1]]
    assert "At no size can another depth" in size_sentence(report)
