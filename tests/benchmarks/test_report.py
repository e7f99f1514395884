"""Report: claims as they are stored and printed, and which runs are stored."""

import argparse

import pytest

from benchmarks.report import at_least, at_most, is_whole, print_claims, print_figures, print_turns


def test_a_claim_is_judged_before_it_is_rounded() -> None:
    assert at_most("x", 1.0004, 1.0) == {
        "what": "x",
        "figure": 1.0,
        "wanted_max": 1.0,
        "is_met": False,
    }
    assert at_least("x", 4.996, 5.0, digits=2) == {
        "what": "x",
        "figure": 5.0,
        "wanted_min": 5.0,
        "is_met": False,
    }
    assert at_most("x", 1.0, 1.0)["is_met"]
    assert at_least("x", 1.0, 1.0)["is_met"]


def test_a_claim_that_is_not_met_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    print_claims([at_most("us [a call]", 3, 2), at_least("rows/s", 3, 2)])

    assert capsys.readouterr().out.splitlines() == [
        "us [a call]: 3; wanted: at most 2; NOT MET",
        "rows/s: 3; wanted: at least 2; met",
    ]


def test_a_run_is_whole_where_only_free_arguments_differ() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--in-flight", type=int, nargs="*", default=[1, 8])

    assert is_whole(parser, parser.parse_args(["--in-flight", "1", "8"]))
    assert not is_whole(parser, parser.parse_args(["--in-flight", "1"]), "pairs")
    assert not is_whole(parser, parser.parse_args(["--pairs", "1"]))
    assert is_whole(parser, parser.parse_args(["--pairs", "1"]), "pairs")


def test_a_table_has_a_row_per_figure_and_sections(capsys: pytest.CaptureFixture[str]) -> None:
    figures = [
        {"server": "control", "requests_per_s": 12345.6, "in_flight": 1},
        {"server": "iris", "requests_per_s": 0.5, "in_flight": 1},
        {"server": "control", "requests_per_s": 1.0, "in_flight": 8},
    ]

    print_figures(
        "title",
        {"server": "server", "in_flight": "in flight", "requests_per_s": "requests/s"},
        figures,
        text=("server",),
        is_first=lambda figure: figure["server"] == "control",
    )

    said = capsys.readouterr().out
    assert [said.count(one) for one in ("title", "12,346", "iris", "control", "├")] == [
        1,
        1,
        1,
        2,
        1,
    ]


def test_a_table_of_turns_shows_what_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    print_turns(
        "title", {"busy": ("GPU busy", ".2f")}, {"run 1": {"busy": None}, "median": {"busy": 1}}
    )

    said = capsys.readouterr().out
    assert "run 1" in said
    assert [word.strip() for word in said.splitlines()[-2].strip("│").split("│")] == [
        "GPU busy",
        "-",
        "1.00",
    ]
