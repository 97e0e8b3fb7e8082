"""The page of figures: what it says, that it is stable, and that it leaves alone what people wrote."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from bench import plots, report
from bench.errors import CannotMeasure
from bench.figures import Compared, Figure
from tests.bench.outcomes import OUTCOME

if TYPE_CHECKING:
    from pathlib import Path

OTHER = dataclasses.replace(OUTCOME, peer="floor")


def test_the_page(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    written = report.write([OUTCOME, OTHER], page)
    assert [str(path.relative_to(page.parent)) for path in written] == [
        "benchmarks.md",
        "benchmarks/oci-small-distribution.svg",
        "benchmarks/oci-small-floor.svg",
    ]
    text = page.read_text()
    assert text.startswith("# Benchmarks\n")
    row = "| CPU per GET /v2/ | us | 20.0 (19.5 to 21.0) | 100 (90.0 to 110) | 0.200 | 5.0 times less |"
    assert (
        f"| figure | unit | enseada | distribution | ratio | so ours is |\n|---|---|---|---|---|---|\n{row}\n" in text
    )
    assert "| memory at the peak | MiB | 33.3 (33.3 to 33.3) | - | - | - |\n" in text
    assert "![oci-small, enseada and floor](benchmarks/oci-small-floor.svg)\n" in text
    assert (
        "- machine: two cores\n- versions: enseada 1; distribution 2\n"
        "- again: `python -m bench run oci-small --rounds 5`\n- enseada: the load itself took 1 s\n"
    ) in text


def test_two_ways_of_one_scenario_are_told_apart(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    report.write([OUTCOME, dataclasses.replace(OUTCOME, variant="2 cores")], page)
    text = page.read_text()
    assert "## oci-small, beside distribution\n" in text
    assert "## oci-small, beside distribution, 2 cores\n" in text
    assert (tmp_path / "benchmarks" / "oci-small-distribution-2-cores.svg").exists()


def test_it_is_stable(tmp_path: Path) -> None:
    pages = [tmp_path / name / "benchmarks.md" for name in ("one", "two")]
    first, second = ([path.read_bytes() for path in report.write([OUTCOME, OTHER], page)] for page in pages)
    assert first == second
    again = [path.read_bytes() for path in report.write([OUTCOME, OTHER], pages[0])]
    assert again == first


def test_prose_is_left_alone_and_old_plots_go(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    report.write([OUTCOME, OTHER], page)
    page.write_text(f"Before.\n{page.read_text()}## Where the time goes\nIn the kernel.\n")
    (tmp_path / "benchmarks" / "profile.svg").write_text("somebody's own")
    report.write([OTHER], page)
    text = page.read_text()
    assert text.startswith("Before.\n# Benchmarks\n")
    assert text.endswith(f"{report.END}\n## Where the time goes\nIn the kernel.\n")
    assert "beside distribution" not in text
    assert {path.name for path in (tmp_path / "benchmarks").iterdir()} == {"oci-small-floor.svg", "profile.svg"}


def test_what_cannot_be_reported(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    with pytest.raises(CannotMeasure, match="nothing to report"):
        report.write([], page)
    with pytest.raises(CannotMeasure, match="there twice"):
        report.write([OUTCOME, OUTCOME], page)
    page.write_text("# A page of somebody's own\n")
    plot = tmp_path / "benchmarks" / "profile.svg"
    plot.parent.mkdir()
    plot.write_text("somebody's own")
    with pytest.raises(CannotMeasure, match="no place for the figures"):
        report.write([OUTCOME], page)
    assert list(plot.parent.iterdir()) == [plot]
    assert page.read_text() == "# A page of somebody's own\n"


def test_a_plot_shows_every_figure_that_was_measured() -> None:
    unmeasured = Compared(Figure("wall of nothing", "s"), (), (1.0,))
    root = ET.fromstring(plots.draw(dataclasses.replace(OUTCOME, figures=(*OUTCOME.figures, unmeasured))))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"CPU per GET /v2/", "20.0 us", "100 us", "12,172 1/s", "33.3 MiB", "enseada", "distribution"} <= {*texts}
    assert "wall of nothing" not in texts
