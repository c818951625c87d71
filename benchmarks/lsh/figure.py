"""The measures of hashing as one figure."""

from __future__ import annotations

from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.lsh import accuracy, wall
from benchmarks.lsh.choosers import CHOOSERS
from benchmarks.lsh.products import Way
from benchmarks.lsh.report import SHARES, Units, accuracies, ratio, savings
from benchmarks.writing import QUICK, RESULTS

COLOURS = {"hashing": "#0b6e99", "random": "#b0b0b0", "winners": "#d9822b", "dropout": "#7a5195"}


def draw(found: dict[str, Units]) -> None:
    """Write lsh.png: accuracy by share for each set, time and operations by width."""
    figure, axes = plt.subplots(2, 4, figsize=(16, 7.5), layout="constrained")
    places = axes.ravel()
    for axis, name in zip(places, accuracy.SETS, strict=False):
        _draw_accuracy(axis, name, found[name])
    _draw_by_width(places[5], found["wall"], shared=False)
    _draw_by_width(places[6], found["wall"], shared=True)
    _draw_savings(places[7], found["wall"])
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    if not QUICK:
        figure.savefig(RESULTS / "lsh.png", dpi=110)
    plt.close(figure)


def _draw_accuracy(axis: Any, name: str, units: Units) -> None:
    dense = accuracies(units, "dense", 1.0)
    if dense:
        axis.axhspan(mean(dense) - 1, mean(dense), color="#0b6e99", alpha=0.1, lw=0)
        axis.axhline(mean(dense), color="black", lw=1, label="all neurons (band: 1 point below)")
    for system in CHOOSERS:
        points = [(s, mean(a)) for s in SHARES if (a := accuracies(units, system, s))]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", color=COLOURS[system], label=system)
    _label(axis, name, "share of active neurons", "accuracy, %")
    axis.set_xticks(SHARES, [f"{100 * share:g} %" for share in SHARES])
    axis.set_xticks([], minor=True)


def _draw_by_width(axis: Any, units: Units, *, shared: bool) -> None:
    for share in wall.SHARES:
        ratios = [(b, ratio(units, b, Way(share, shared))) for b in wall.BUCKETS]
        points = [(b, value) for b, value in ratios if value]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", label=f"{100 * share:g} %")
    axis.axhline(1, color="black", lw=1)
    title = "one set a batch" if shared else "a set a row"
    _label(axis, f"time of a step, {title}", "B", "times faster than dense")
    _by_width(axis)
    axis.legend(title="active", frameon=False, fontsize=8)


def _draw_savings(axis: Any, units: Units) -> None:
    for share in wall.SHARES:
        found = [(b, savings(units, b, Way(share))) for b in wall.BUCKETS]
        points = [(b, value) for b, value in found if value]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", label=f"{100 * share:g} %")
    _label(axis, "operations saved, a set a row", "B", "times fewer than dense")
    _by_width(axis)
    axis.legend(title="active", frameon=False, fontsize=8)


def _label(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_xscale("log")
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.spines[["top", "right"]].set_visible(False)


def _by_width(axis: Any) -> None:
    """Let numbers of a figure by width stand on logarithmic axes as people write them."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(StrMethodFormatter("{x:,g}"))
        one.set_minor_formatter(NullFormatter())
