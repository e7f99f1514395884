"""Plots: pictures of the stored results, for the docs.

Reads benchmarks/results/NAME.json, measures nothing, writes docs/pictures/NAME.svg. What has no
result is left out. The same results make the same files.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"

# What is compared with keeps one grey everywhere, headrace its own blue.
OURS, OURS_LIGHT, OTHER, BARE = "#1f6feb", "#86b6f5", "#c2571a", "#9aa0a6"
LINES = {"control": BARE, "identity": OURS_LIGHT, "iris": OURS, "mlp": "#7a3ea8"}

Result = dict[str, Any]


def overhead(result: Result) -> None:
    """CPU of a request and requests per second, by requests in flight."""
    cpu, rate = _panels(2)
    for server, color in LINES.items():
        figures = [figure for figure in result["figures"] if figure["server"] == server]
        if not figures:
            continue
        at = [figure["in_flight"] for figure in figures]
        style: dict[str, Any] = {"color": color, "marker": "o", "label": server}
        cpu.plot(at, [figure["cpu_s_per_1000"] * 1e3 for figure in figures], **style)
        rate.plot(at, [figure["requests_per_s"] for figure in figures], **style)
    _by_load(cpu, "CPU of all its processes per request, µs")
    cpu.set_yscale("log")
    cpu.yaxis.set_major_formatter(FuncFormatter(_number))
    _by_load(rate, "requests per second, one core")
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter(FuncFormatter(_number))
    cpu.legend(frameon=False)


def growth(result: Result) -> None:
    """Requests per second of one ONNX model with others loaded, and of many asked at once."""
    (axes,) = _panels(1, width=6.4)
    kinds = {
        (0, 1): ("bare transport", BARE, "-"),
        (1, 1): ("1 model", OURS_LIGHT, "-"),
        (100, 1): ("100 models loaded, 1 asked", OURS, "-"),
        (100, 100): ("100 models, all asked", OTHER, "-"),
    }
    for (loaded, asked), (label, color, line) in kinds.items():
        figures = [
            figure
            for figure in result["figures"]
            if (figure["loaded"], figure["asked"]) == (loaded, asked)
        ]
        axes.plot(
            [figure["in_flight"] for figure in figures],
            [figure["requests_per_s"] for figure in figures],
            line,
            color=color,
            marker="o",
            label=label,
        )
    _by_load(axes, "requests per second, one core")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_number))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def flavors(result: Result) -> None:
    """CPU of one row: MLflow's pyfunc, our adapter, and a row served in batches of 128."""
    (axes,) = _panels(1, width=7, height=4.6)
    rows = sorted(result["cpu_us_per_row"].items(), key=lambda item: item[1]["ratio"])
    _grouped_bars(
        axes,
        [name for name, _ in rows],
        {
            "pyfunc.predict, one row": ([row["pyfunc_us"] for _, row in rows], BARE),
            "headrace's adapter, one row": ([row["adapter_us"] for _, row in rows], OURS_LIGHT),
            "served, 128 in flight": ([row["served_128_us"] for _, row in rows], OURS),
        },
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    axes.set_xlabel("CPU per row, µs")
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)


def client(result: Result) -> None:
    """CPU of a call in the process that makes it, beside a bare stub's and tritonclient's."""
    panels = _panels(len(result["figures"]), width=2.4, height=2.8)
    names = {"bare": "bare stub", "headrace": "headrace", "tritonclient": "tritonclient"}
    colors = {"bare": BARE, "headrace": OURS, "tritonclient": OTHER}
    for axes, figure in zip(panels, result["figures"], strict=True):
        callers = [name for name in names if name in figure]
        bars = axes.bar(
            [names[name] for name in callers],
            [figure[name] for name in callers],
            color=[colors[name] for name in callers],
        )
        axes.bar_label(bars, fmt=lambda value: _number(value, 0), fontsize=8)
        axes.set_title(figure["what"], fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_yticks([])
    panels[0].set_ylabel("CPU, µs")


def cnn(result: Result) -> None:
    """Rows per second of a network called directly, by batch size, and served."""
    (axes,) = _panels(1)
    direct = result["direct_rows_per_s"]
    sizes = [int(size) for size in direct]
    axes.plot(sizes, list(direct.values()), color=BARE, marker="o", label="called in a loop")
    served = result["medians"]["server_rows_per_s"]
    axes.axhline(
        served, color=OURS, label=f"served, {result['in_flight']} requests of one row in flight"
    )
    _by_load(axes, "rows per second, one core", "rows of a batch")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_number))
    axes.legend(frameon=False, fontsize=8, loc="lower right")


PLOTS: dict[str, Callable[[Result], None]] = {
    plot.__name__: plot for plot in (overhead, growth, flavors, client, cnn)
}


def main() -> None:
    """Draw what there is."""
    draw(PICTURES)


def draw(folder: Path) -> list[Path]:
    """Write a picture of each stored result into *folder*; the files, in the plots' order."""
    # Without these, each run would have names and a date of its own.
    mpl.rcParams["svg.hashsalt"] = "headrace"
    mpl.rcParams["axes.spines.top"] = mpl.rcParams["axes.spines.right"] = False
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, plot in PLOTS.items():
        source = RESULTS / f"{name}.json"
        if not source.exists():
            continue
        plot(json.loads(source.read_text()))
        file = folder / f"{name}.svg"
        plt.savefig(file, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
        plt.close()
        # Matplotlib leaves spaces at the ends of lines.
        lines = file.read_text().splitlines()
        file.write_text("\n".join(line.rstrip() for line in lines) + "\n")
        written.append(file)
    return written


def _panels(count: int, *, width: float = 4.4, height: float = 3.2) -> list[Axes]:
    figure, axes = plt.subplots(
        1, count, figsize=(width * count + 0.8, height), squeeze=False, layout="constrained"
    )
    figure.set_facecolor("white")
    return list(axes[0])


def _by_load(axes: Axes, ylabel: str, xlabel: str = "requests in flight") -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color="#e6e6e6")


def _grouped_bars(axes: Axes, names: list[str], series: dict[str, tuple[list[float], str]]) -> None:
    """Horizontal bars, the first series at the top of each group."""
    thick = 0.8 / len(series)
    for number, (label, (values, color)) in enumerate(series.items()):
        offset = (len(series) / 2 - number - 0.5) * thick
        bars = axes.barh(
            [place + offset for place in range(len(names))],
            values,
            thick,
            color=color,
            label=label,
        )
        axes.bar_label(bars, fmt=lambda value: _number(value, 0), fontsize=6, padding=2)
    axes.set_yticks(range(len(names)), names, fontsize=8)


def _number(value: float, _: object) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


if __name__ == "__main__":
    main()
