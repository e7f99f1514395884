"""Plots: every stored result has its picture, and the docs show each."""

from pathlib import Path

from benchmarks import plots


def test_the_same_results_make_the_same_pictures(tmp_path: Path) -> None:
    first = plots.draw(tmp_path / "first")
    again = plots.draw(tmp_path / "again")
    assert [file.name for file in first] == [f"{name}.svg" for name in plots.PLOTS]
    for one, other in zip(first, again, strict=True):
        assert "<svg" in one.read_text()
        assert one.read_bytes() == other.read_bytes()


def test_the_docs_show_every_picture() -> None:
    house = plots.PICTURES.parent.parent
    pages = [house / "README.md", *(house / "docs").rglob("*.md")]
    text = "".join(page.read_text() for page in pages)
    for name in plots.PLOTS:
        assert (plots.PICTURES / f"{name}.svg").is_file()
        assert f"pictures/{name}.svg" in text
