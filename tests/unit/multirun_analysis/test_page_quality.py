"""The pages under axe-core (contrast, names, roles) and html-validate (nesting, attributes), both from npm."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis import write_report
from multirun_analysis.messages import messages_in
from multirun_analysis.report.page import render_waiting
from tests.report_page import body
from tests.unit.multirun_analysis.conftest import heard

pytestmark = pytest.mark.slow

FOLDERS = (os.environ.get("KIMI_AUDIO_FT_NODE_MODULES"), f"{sys.prefix}/node_modules", "/usr/lib/node_modules")
# Each language, colour scheme and width, in half of their combinations: every pair of two occurs.
FRAMES = (("en", "light", 1400), ("zh", "dark", 1400), ("en", "dark", 390), ("zh", "light", 390))
RUN = """
const told = [];
for (const frame of document.querySelectorAll("iframe")) {
  const inner = frame.contentDocument;
  const script = inner.createElement("script");
  script.textContent = AXE; // in its own window: the page's policy lets no other file in
  inner.head.append(script);
  for (const one of inner.querySelectorAll("details")) one.open = true;
  const dark = frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const found = await frame.contentWindow.axe.run(inner, { resultTypes: ["violations"] });
  const bad = found.violations.map((one) => [one.id, one.nodes.length, one.nodes[0].html]);
  told.push([inner.documentElement.lang.slice(0, 2), dark, frame.contentWindow.innerWidth, bad, found.passes.length]);
}
document.body.dataset.told = JSON.stringify(told);
"""


def package(name: str) -> Path:
    """Folder of an npm package; without it the test is skipped."""
    for folder in filter(None, FOLDERS):
        if (path := Path(folder) / name).is_dir():
            return path
    pytest.skip(f"no npm package {name}: install it with `make page-tools`, or name its folder's parent in {VARIABLE}")


VARIABLE = "KIMI_AUDIO_FT_NODE_MODULES"


@pytest.fixture
def pages(sweep: Any, tmp_path: Path) -> dict[str, Path]:
    """A report with as many kinds of sections as a small one can have, in each language."""
    terms = {"5G": heard(4, 3, 2), "LPL": heard(2, 2, 2)}
    for number, rank in enumerate((2, 8, 32)):
        sweep.trial(number, rank=rank, rate=1e-3 * (1 + number % 2), cer=0.1 + number / 20, terms=terms)
    sweep.fail(3)
    return {language: write_report(sweep.folder, tmp_path / language, language).html for language in ("en", "zh")}


def test_no_page_has_violations_of_accessibility(
    pages: dict[str, Path], tmp_path: Path, chromium: Callable[..., str]
) -> None:
    axe = (package("axe-core") / "axe.min.js").read_text(encoding="utf-8").replace("</script", "<\\/script")
    frames = "".join(
        f'<iframe src="{language}/report.html" style="width:{width}px;height:900px;border:0;color-scheme:{scheme}">'
        "</iframe>"
        for language, scheme, width in FRAMES
    )
    outer = tmp_path / "frames.html"
    script = f"const AXE = {json.dumps(axe)};\nsetTimeout(async () => {{{RUN}}}, 4000);"
    outer.write_text(f'<meta charset="utf-8">{frames}<script>{script}</script>', encoding="utf-8")
    found = re.search(r'data-told="([^"]*)"', chromium(outer, "--allow-file-access-from-files", "--dump-dom"))
    assert found, "the frames did not answer"
    told = json.loads(html.unescape(found[1]))
    assert [tuple(frame[:3]) for frame in told] == list(FRAMES)
    assert [violation for *frame, bad, _ in told for violation in bad] == []
    assert all(passes > 20 for *_, passes in told)


def test_the_pages_are_valid_html(pages: dict[str, Path], tmp_path: Path) -> None:
    folder, node = package("html-validate"), shutil.which("node")
    if node is None:
        pytest.skip("no node on PATH")
    files = [tmp_path / "waiting.html", *(tmp_path / f"{language}.html" for language in pages)]
    files[0].write_text(render_waiting("sweep", "why", messages_in("zh"), 5), encoding="utf-8")
    for file, page in zip(files[1:], pages.values(), strict=True):
        file.write_text(body(page.read_text(encoding="utf-8")), encoding="utf-8")  # without the libraries of charts
    (tmp_path / ".htmlvalidate.json").write_text(json.dumps({"root": True, "extends": ["html-validate:standard"]}))
    command = [node, folder / "bin" / "html-validate.mjs", "--formatter", "text", *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout[-4000:] + done.stderr[-2000:]
