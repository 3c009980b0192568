"""The HTML page: complete in itself, safe with anybody's names, and looked at in a real browser."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_browser import needs_chromium, open_page, picture
from report_records import fleet, made_up

from harness.report import page
from harness.results import store
from harness.results.record import Mismatch, Result

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def records() -> list[Result]:
    made = fleet(32)
    return [*made[:15], *made[24:]]


@pytest.fixture(scope="module")
def html() -> str:
    """The page of every kind of result: two networks, two clocks, some measured twice."""
    return page.render(page.build(store.frame(records())), now=NOON)


class _Reader(HTMLParser):
    """Collects ids, links, tags and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.svgs = 0
        self.titles = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [str(values["id"])] if "id" in values else []
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.svgs += tag == "svg"
        self.titles += tag == "desc"


def test_the_page_needs_nothing_beside_itself(html: str) -> None:
    links = _Reader(html).links
    assert links
    assert [link for link in links if not link.startswith(("#", "data:,"))] == []
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_ids_are_unique_and_every_reference_is_met(html: str) -> None:
    reader = _Reader(html)
    assert len(set(reader.ids)) == len(reader.ids)
    wanted = {link[1:] for link in reader.links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted <= set(reader.ids)


def test_every_chart_is_told_in_words(html: str) -> None:
    reader = _Reader(html)
    assert reader.svgs == reader.titles > 8
    assert "Bar chart of lenet5, instructions per inference. " in html
    assert "Scatter plot of" in html and "Not beaten: " in html


def test_the_same_results_give_the_same_bytes() -> None:
    first, second = (page.render(page.build(store.frame([made_up(), made_up(host=True)])), now=NOON) for _ in range(2))
    assert first == second


def test_colours_come_from_the_page_alone(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    colors = {color for drawing in drawings for color in re.findall(r"#[0-9a-f]{6}\b", drawing)}
    assert colors == set()
    for variable in set(re.findall(r"var\((--[\w-]+)\)", html)):
        assert html.count(f"{variable}: #") == 2, f"{variable} needs a light and a dark value"


def test_nothing_in_a_name_is_html(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>"&amp;'
    record = made_up().model_copy(update={"board": evil, "variant": "<b>", "model": "</svg><img src=x>"})
    text = page.render(page.build(store.frame([record])), now=NOON)
    assert evil not in text and "<b>" not in text and "<img" not in text
    assert text.count("<script>") == 1


def test_no_results_are_a_page_too() -> None:
    text = page.render(page.build(store.frame([])), now=NOON)
    assert "There are no results yet" in text and "<svg" not in text


def test_damaged_records_and_mismatches_are_on_top() -> None:
    good = made_up()
    wrong = made_up(variant="deep")
    layers = (wrong.layers[0].model_copy(update={"crc_device": "ffffffff"}), *wrong.layers[1:])
    mismatch = Mismatch(first_layer="conv1", expected="00000000", got="ffffffff")
    wrong = wrong.model_copy(update={"layers": layers, "bit_exact": mismatch})
    frame = store.frame([good, wrong])
    frame.attrs["damaged"] = {"x.json": "it is not JSON"}
    text = page.render(page.build(frame), now=NOON)
    assert text.count('role="alert"') == 2
    assert "x.json: it is not JSON" in text and "differs in conv1" in text


@pytest.mark.slow
def test_two_hundred_results_are_small_and_quick() -> None:
    frame = store.frame(fleet(200))
    start = time.process_time()
    text = page.render(page.build(frame))
    assert time.process_time() - start < 5
    assert len(text.encode()) < 1_500_000


@needs_chromium
class TestBrowser:
    def test_it_is_rendered_without_a_complaint(self, html: str, tmp_path: Path) -> None:
        (tmp_path / "report.html").write_text(html)
        done = open_page(tmp_path / "report.html", tmp_path / "profile")
        assert done.console == ()
        assert done.dom.count("<svg") == html.count("<svg")
        # The script ran: it says how many rows are shown.
        assert "23 of 23" in done.dom

    def test_a_click_sorts_by_number_and_the_filter_hides(self, html: str, tmp_path: Path) -> None:
        script = """
        const table = document.querySelector("main table");
        const titles = Array.from(table.querySelectorAll("th"), (head) => head.textContent);
        const column = titles.indexOf("network B");
        const cells = () => Array.from(table.tBodies[0].rows, (row) => row.cells[column].textContent);
        const button = table.querySelectorAll("th button")[column];
        button.click(); document.body.dataset.up = cells().join(";");
        button.click(); document.body.dataset.down = cells().join(";");
        const input = document.getElementById("filter");
        input.value = "lenet5 deep"; input.dispatchEvent(new Event("input"));
        """
        (tmp_path / "report.html").write_text(html.replace("</body>", f"<script>{script}</script></body>"))
        done = open_page(tmp_path / "report.html", tmp_path / "profile")
        assert done.console == ()
        for name, descending in (("up", False), ("down", True)):
            found = re.search(rf'data-{name}="([^"]*)"', done.dom)
            assert found is not None
            figures = [int(text.replace(",", "")) for text in found[1].split(";") if text != "-"]
            assert figures == sorted(figures, reverse=descending) and len(figures) > 2
            assert not re.search(r"-;\d", found[1]), "rows without a figure come last"
        shown = re.search(r"<output[^>]*>(\d+) of 23", done.dom)
        assert shown is not None and 0 < int(shown[1]) < 10

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "width", "dark"), [("desktop", 1280, False), ("phone", 390, False), ("dark", 1280, True)]
    )
    def test_a_screenshot_is_kept(self, html: str, tmp_path: Path, name: str, width: int, dark: bool) -> None:
        from PIL import Image

        (tmp_path / "report.html").write_text(html)
        kept = Path(os.environ.get("HARNESS_SCREENSHOTS", tmp_path)) / f"report-{name}.png"
        kept.parent.mkdir(parents=True, exist_ok=True)
        assert picture(tmp_path / "report.html", kept, tmp_path / "profile", width=width, dark=dark) == ()
        with Image.open(kept) as image:
            assert image.size == (width, 900)
            red, green, blue = image.convert("RGB").getpixel((2, 2))
        assert (red + green + blue < 150) == dark

    @pytest.mark.parametrize("width", [390, 1280])
    def test_nothing_is_wider_than_the_screen(self, html: str, tmp_path: Path, width: int) -> None:
        script = "document.body.dataset.wide = document.documentElement.scrollWidth - innerWidth;"
        (tmp_path / "report.html").write_text(html.replace("</body>", f"<script>{script}</script></body>"))
        done = open_page(tmp_path / "report.html", tmp_path / "profile", width=width)
        assert 'data-wide="0"' in done.dom
