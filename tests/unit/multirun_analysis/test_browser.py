from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from multirun_analysis import load_sweep, write_report
from tests.report_page import body
from tests.unit.multirun_analysis.conftest import heard

pytestmark = pytest.mark.slow

FRAME = """<iframe src="PAGE" style="width:380px;height:500px;border:0"></iframe><script>
setTimeout(() => {
  const inner = document.querySelector("iframe").contentDocument;
  const charts = inner.querySelectorAll(".canvas.vega-embed svg").length;
  const cer = [...inner.querySelectorAll("#board .score")].map((cell) => cell.getBoundingClientRect().right);
  const table = inner.querySelector("#board .scroll");
  table.scrollTop = 150;
  const [top, heading] = [table, table.querySelector("th")].map((one) => Math.round(one.getBoundingClientRect().top));
  const told = [inner.documentElement.scrollWidth, charts, Math.ceil(Math.max(...cer)), table.scrollTop, heading - top];
  document.body.dataset.told = told.join(" ");
}, 5000);</script>"""


def drawn(chromium: Any, page: Path) -> str:
    """The page's elements after its scripts ran, without the messages that it holds ready."""
    return re.sub(r"<body[^>]*>", "", body(chromium(page, "--dump-dom")))


def driven(chromium: Any, page: Path, program: str) -> str:
    """The page after ``program`` ran in it (once the charts are drawn); its text is what ``told`` got."""
    script = "setTimeout(async () => {" + program + "; document.body.dataset.told = String(told);}, 3000)"
    copy = page.with_name("driven.html")
    start, _, end = page.read_text(encoding="utf-8").rpartition("</body>")
    copy.write_text(f"{start}<script>{script}</script></body>{end}", encoding="utf-8")
    found = re.search(r'data-told="([^"]*)"', chromium(copy, "--dump-dom"))
    assert found, "the program in the page did not end"
    return found.group(1)


@pytest.fixture(scope="session")
def page(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(synthetic_folder, tmp_path_factory.mktemp("page")).html


def test_every_chart_is_drawn(page: Path, chromium: Any) -> None:
    dom = drawn(chromium, page)
    assert "could not be drawn" not in dom
    places = len(re.findall(r"data-chart=", dom))
    assert places == 12
    assert len(re.findall(r'class="canvas vega-embed', dom)) == places
    assert dom.count('<svg xmlns="http://www.w3.org/2000/svg"') >= places
    assert dom.count('aria-roledescription="point"') >= 3 * 8


def test_a_sweep_of_one_trial_without_base(sweep: Any, chromium: Any) -> None:
    dom = drawn(chromium, write_report(sweep.grid((8,), (1e-3,), (0.0,), baseline=False)).html)
    assert "could not be drawn" not in dom
    assert len(re.findall(r'class="canvas vega-embed', dom)) == 2


def test_chinese_charts_are_drawn(sweep: Any, chromium: Any) -> None:
    dom = drawn(chromium, write_report(sweep.grid(), language="zh").html)
    assert "无法绘制此图" not in dom
    assert "学习率" in dom and len(re.findall(r'class="canvas vega-embed', dom)) == 10


def test_the_filter_hides_rows_and_fades_their_lines(page: Path, chromium: Any) -> None:
    told = driven(
        chromium,
        page,
        """
        const rank = document.querySelector("select[name='lora.r']");
        rank.value = "32";
        rank.dispatchEvent(new Event("input", { bubbles: true }));
        await new Promise((done) => setTimeout(done, 500));
        const rows = [...document.querySelectorAll("table.board tbody tr")];
        const lines = [...document.querySelectorAll("[data-chart=parallel] .mark-line path")];
        const told = [
          rows.filter((row) => !row.hidden).length,
          document.querySelector(".filters output").textContent,
          lines.filter((line) => Number(getComputedStyle(line).opacity) > 0.5).length,
          lines.length,
        ].join("; ")
        """,
    )
    # 4 trials of rank 32, the 2 bases, and 2 combinations of these trials; a wide line lies over each.
    assert told == "8; 8 of 12 rows; 4; 16"


def test_the_text_filter_and_the_group(page: Path, chromium: Any) -> None:
    told = driven(
        chromium,
        page,
        """
        const shown = () => [...document.querySelectorAll("table.board tbody tr")].filter((row) => !row.hidden);
        const form = document.querySelector(".filters");
        form.querySelector("input[type=checkbox]").click();
        const alike = shown().every((row) => row.matches(".best, .alike")) && shown().length;
        form.reset();
        await new Promise((done) => setTimeout(done, 100));
        const all = shown().length;
        form.querySelector("input[type=search]").value = "5e-5 reused";
        form.dispatchEvent(new Event("input"));
        const told = [alike > 1, all, shown().length].join("; ")
        """,
    )
    assert told == "true; 12; 2"


def test_the_address_keeps_the_filters_and_the_back_button_undoes_them(page: Path, chromium: Any) -> None:
    told = driven(
        chromium,
        page,
        """
        const seen = [];
        const soon = () => new Promise((done) => setTimeout(done, 200));
        const see = () => {
          const rows = [...document.querySelectorAll("table.board tbody tr")].filter((row) => !row.hidden);
          seen.push(location.hash, rows.length, document.querySelector("[name=words]").value);
        };
        const choose = (name, value) => {
          const field = document.querySelector(`#board [name="${name}"]`);
          field.value = value;
          field.dispatchEvent(new Event("input", { bubbles: true }));
        };
        see();
        choose("lora.r", "32");
        choose("words", "5");
        choose("words", "5e-5"); // one step back, however many letters
        see();
        history.back();
        await soon();
        see();
        location.hash = "#trial-0"; // keeps them, and comes back to them
        await soon();
        see();
        history.go(-2);
        await soon();
        see();
        history.forward();
        await soon();
        see();
        location.hash = "#board?words=reused&lora.r=7&alike=on&nothing=1";
        await soon();
        see();
        document.querySelector("#board [type=reset]").click();
        await soon();
        see();
        const told = seen.join("; ")
        """,
    )
    _, *steps = html.unescape(told).split("#")
    assert [step.split("; ")[:3] for step in steps] == [
        ["board?words=5e-5&lora.r=32", "2", "5e-5"],
        ["board?lora.r=32", "8", ""],
        ["trial-0", "8", ""],
        ["board?lora.r=32", "8", ""],
        ["board?words=reused&lora.r=7&alike=on&nothing=1", "2", "reused"],
        ["board?", "12", ""],
    ]


def test_a_heading_sorts_by_keyboard_and_says_so(page: Path, chromium: Any) -> None:
    told = driven(
        chromium,
        page,
        """
        const heading = document.querySelector("table.board th.score");
        const button = heading.querySelector("button");
        button.focus();
        const focused = document.activeElement === button;
        button.click();
        const first = heading.getAttribute("aria-sort");
        button.click();
        const cells = [...document.querySelectorAll("table.board tbody td.score")];
        const cers = cells.map((cell) => cell.dataset.value);
        const falling = cers.every((cer, place) => !place || Number(cers[place - 1]) >= Number(cer));
        const told = [focused, first, heading.getAttribute("aria-sort"), falling].join("; ")
        """,
    )
    assert told == "true; ascending; descending; true"


def test_any_two_trials_can_be_chosen_for_the_terms(sweep: Any, chromium: Any) -> None:
    """By the keyboard's own controls, and after the table was sorted."""
    for number, found in enumerate((4, 3, 2)):
        terms = {"5G": heard(4, found, found), "LPL": heard(2, 2, 2)}
        terms["5G"] |= {"precision": None} if number == 2 else {}
        sweep.trial(number, rank=8 * 2**number, cer=0.1 + number / 10, baseline=False, terms=terms)
    told = driven(
        chromium,
        write_report(sweep.folder).html,
        """
        const form = document.querySelector("#choose-terms");
        const table = document.querySelector("table.terms");
        const row = () => [...table.tBodies[0].rows].map((one) => one.innerText.replace(/\\s+/g, " ")).join(", ");
        const heading = table.tHead.rows[0].cells[4];
        const before = [form.hidden, row()];
        heading.querySelector("button").click();
        const sorted = row();
        const select = form.querySelectorAll("select")[1];
        select.value = "2";
        select.dispatchEvent(new Event("input", { bubbles: true }));
        const named = heading.querySelector("small").textContent;
        const told = [...before, sorted, row(), named, heading.hasAttribute("aria-sort")].join("; ")
        """,
    )
    assert told.split("; ") == [
        "false",
        "5G 4 100.0 100.0 75.0 100.0, LPL 2 100.0 100.0 100.0 100.0",
        "5G 4 100.0 100.0 75.0 100.0, LPL 2 100.0 100.0 100.0 100.0",
        "5G 4 100.0 100.0 50.0 –, LPL 2 100.0 100.0 100.0 100.0",
        "2: lora.r=32",
        "false",
    ]


def test_one_utterance_under_several_trials(sweep: Any, tmp_path: Path, chromium: Any) -> None:
    """Filters with their counts, marks, any two trials, players, and an address that shows the same again."""
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.random.default_rng(0).normal(0, 0.1, 8_000), 16_000)
    evil = "<img src=x onerror=alert(1)>"
    references = {"u1": "七千万元到账", "u2": "明天开会", "u3": evil, "u4": "谢谢大家"}
    texts = {
        "baseline_utterances.jsonl": (0, ["七十万元", "明天开会", evil, "谢大家"]),
        "utterances.jsonl": (0, ["七千万元到账了", "明天看会", evil, "谢谢大家"]),
        "other": (1, ["七千万元到账", "明天开会", evil + "b", "写写大家"]),
    }
    for number in (0, 1):
        sweep.trial(number, rank=2 + 6 * number, cer=0.1 + number / 10, baseline=not number)
    for name, (number, outputs) in texts.items():
        rows = [
            {"id": key, "reference": reference, "hypothesis": said, "audio": str(wav)}
            for (key, reference), said in zip(references.items(), outputs, strict=True)
        ]
        sweep.heard(sweep.folder / str(number) / name.replace("other", "utterances.jsonl"), rows)
    told = driven(
        chromium,
        write_report(sweep.folder).html,
        """
        const view = document.querySelector("#utterances");
        const form = view.querySelector("form");
        const plain = (one) => [...one.childNodes].map((node) => {
          if (node.nodeName === "SPAN") return "";
          const inside = node.childNodes.length ? plain(node) : node.textContent;
          return node.nodeName === "DEL" ? `-${inside}-` : node.nodeName === "INS" ? `+${inside}+` : inside;
        }).join("");
        const cards = () => [...view.querySelectorAll("li .source")].map((one) => one.textContent.slice(0, 2)).join("");
        const counts = () => [...form.elements.show].map((one) => one.parentElement.textContent.trim()).join(",");
        const say = (name, value) => {
          form.elements[name].value = value;
          form.dispatchEvent(new Event("input"));
        };
        const seen = [form.hidden, counts(), cards()];
        seen.push([...view.querySelectorAll("li:first-of-type dd")].map(plain).join("|"));
        const players = [...document.querySelectorAll("#worst audio, #utterances li:first-child audio")];
        for (let turn = 0; turn < 1000 && players.some((audio) => isNaN(audio.duration)); turn++) {
          await new Promise((done) => setTimeout(done, 1)); // the page's clock does not wait for players
        }
        for (const audio of players) {
          seen.push(audio.duration.toFixed(1)); // the page's own policy lets it, and the browser knows the format
        }
        seen.push(view.querySelector("img") === null);
        seen.push([...view.querySelectorAll(".pair dd")].map((one) => one.textContent).join("|"));
        say("show", "fixed");
        seen.push(cards());
        say("trial", "1");
        seen.push(cards(), location.hash);
        const link = location.hash;
        say("text", "谢谢");
        seen.push(counts());
        location.hash = link + "&show=none&trial=nobody&text=";
        await new Promise((done) => setTimeout(done, 100));
        seen.push(form.elements.trial.value, form.elements.show.value, cards(), form.elements.text.value === "");
        view.querySelector("button[type=reset]").click();
        await new Promise((done) => setTimeout(done, 100));
        seen.push(form.elements.trial.value, counts());
        const told = seen.join("; ")
        """,
    )
    assert html.unescape(told).split("; ") == [
        "false",
        "all 4,changed 3,fixed 1,broken 1,both wrong 1,suspect label 0",
        "u1u2u4",
        "七千万元到账|七-千-+十+万元-到账- errors: 3|七千万元到账+了+ errors: 1",
        *("0.5", "0.5", "0.5", "true"),
        "4.76 against 9.52|−4.76 points|not tested|2 better, 1 worse, 1 equal",
        "u4",
        *("u1", "#utterances?trial=1&with=base-0&show=fixed&sort=difference"),
        "all 1,changed 1,fixed 0,broken 0,both wrong 1,suspect label 0",
        *("1", "fixed", "u1", "true"),
        *("0", "all 4,changed 3,fixed 1,broken 1,both wrong 1,suspect label 0"),
    ]


def test_a_line_tells_its_trial_and_a_click_shows_its_row(page: Path, synthetic_folder: Path, chromium: Any) -> None:
    """The tooltip anywhere along the line, also a little beside it."""
    told = driven(
        chromium,
        page,
        """
        const chart = document.querySelector("[data-chart=parallel]");
        chart.scrollIntoView();
        const line = chart.querySelector(".mark-line path");
        const at = line.getPointAtLength(line.getTotalLength() * 0.37).matrixTransform(line.getScreenCTM());
        const where = { bubbles: true, clientX: at.x, clientY: at.y + 3, pointerType: "mouse" };
        const beside = document.elementFromPoint(where.clientX, where.clientY);
        beside.dispatchEvent(new PointerEvent("pointermove", where));
        await new Promise((done) => setTimeout(done, 300));
        const tip = document.querySelector("#vg-tooltip-element.visible")?.textContent;
        line.dispatchEvent(new MouseEvent("click", { bubbles: true }));
        const picked = document.querySelectorAll("tr.picked");
        const told = [tip, picked.length, picked[0]?.dataset.name].join("; ")
        """,
    )
    tip, *picked = told.split("; ")
    assert re.fullmatch(r"trial\d: lora.r=\d+ optim.lr=\S+ temperature=\d.\dCER[\d.]+ %", tip)
    worst = max(load_sweep(synthetic_folder).sweep.finished, key=lambda trial: trial.cer)
    assert picked == ["1", worst.name]  # the first line is the worst trial's, under all others


def test_headings_are_repeated_on_the_next_page_of_paper(sweep: Any, tmp_path: Path, chromium: Any) -> None:
    reader = shutil.which("pdftotext")
    if reader is None:
        pytest.skip("no pdftotext on PATH")
    chromium(write_report(sweep.grid()).html, f"--print-to-pdf={tmp_path / 'report.pdf'}")
    text = subprocess.run([reader, tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True).stdout
    pages = text.split("\f")
    begin = next(number for number, page in enumerate(pages) if "S / D / I" in page)
    for page in pages[begin : begin + 2]:  # the board goes on there
        assert "S / D / I" in page and re.search(r"^base$|^1$", page, re.MULTILINE), page


def test_nothing_is_wider_than_a_phone(page: Path, chromium: Any) -> None:
    """In a frame of 380 pixels: headless Chromium's own window cannot be that narrow."""
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("PAGE", page.name), encoding="utf-8")
    dom = chromium(frame, "--allow-file-access-from-files", "--dump-dom")
    found = re.search(r'data-told="(\d+) (\d+) (\d+) (\d+) (-?\d+)"', dom)
    assert found, "the page did not answer"
    assert int(found.group(1)) <= 380 and int(found.group(2)) >= 10
    assert 200 < int(found.group(3)) <= 380  # the column of the CER is in view, whatever stands before it
    assert found.groups()[3:] == ("150", "0")  # and the headings are, however far down
