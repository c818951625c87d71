"""The measures of hashing as Markdown."""

from __future__ import annotations

from statistics import mean, stdev

from benchmarks.kept import Found
from benchmarks.lsh import accuracy, wall, wide
from benchmarks.lsh.choosers import CHOOSERS
from benchmarks.lsh.products import HIDDEN, Way
from benchmarks.lsh.training import MASKED
from benchmarks.writing import markdown

Units = dict[str, Found]
SHARES = tuple(sorted(accuracy.SHARES, reverse=True))
KINDS = ("own", "shared")


def table(found: dict[str, Units]) -> str:
    """Return the results of all parts."""
    lines = [
        "# Hashing inside a world",
        "",
        "Made by `make bench-lsh`. Active neurons are those that hash tables name, as many at"
        " random, those of the highest activations (which takes all products), or what dropout"
        " leaves. A row's own buckets are always among them.",
        "",
        "## Accuracy by share of active neurons, %",
        "",
        f"Images: two hidden layers of {accuracy.WIDTH:,}, mean and standard deviation of"
        f" {len(accuracy.SEEDS)} seeds; asked by tables where trained by tables. Texts: bucket"
        f" accuracy, mean of {accuracy.WORLDS} worlds, and P@1 of their ensemble; one seed. omw's"
        f" hash tables from {MASKED:g} on, and what they are compared with from 0.05 on, are"
        " trained by products of whole matrices, where those of buckets that are not active are"
        " left out: the same network, sooner.",
        "",
        *_accuracies(found),
        "",
        "## Within one point",
        "",
        "The fewest multiplications at which hash tables keep the accuracy of all neurons to within"
        " one point; where none do, the share of neurons that comes nearest.",
        "",
        *_verdicts(found),
        "",
        "## Operations of training with hash tables, % of all neurons computed",
        "",
        "Counted in the kernels: multiplications (divisions and roots among them), additions and"
        " comparisons, bytes; hashing, tables and the optimiser included. Where whole matrices were"
        " multiplied, what those kernels would have done.",
        "",
        *_operations(found),
        "",
        f"## {wide.BUCKETS:,} buckets",
        "",
        "After one epoch of a generated product search.",
        "",
        *_wide(found["wide"]),
        "",
        "## A step on one core, ms",
        "",
        f"h = {HIDDEN}, batches of 1,024; in brackets, how many times faster than all buckets"
        " computed by the dense kernels. `own`: each row has its own buckets; `shared`: a batch has"
        " one set of them.",
        "",
        *_walls(found["wall"]),
        "",
        *_crossings(found["wall"]),
        "",
        "## Savings by width",
        "",
        "Operations (multiplications, additions and comparisons) of all buckets computed, over"
        " those with hash tables, in the same steps.",
        "",
        *_savings(found["wall"]),
    ]
    return "\n".join(lines) + "\n"


def accuracies(units: Units, system: str, share: float, key: str = "accuracy") -> list[float]:
    """Return what was reached, by seed, in %."""
    names = (accuracy.Unit(system, share, seed).name for seed in accuracy.SEEDS)
    return [100 * units[name][key] for name in names if name in units]


def _told(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def _accuracies(found: dict[str, Units]) -> list[str]:
    rows = []
    for name in accuracy.SETS:
        keys = ("accuracy", "merged P@1") if name in accuracy.TEXTS else ("accuracy",)
        for key in keys:
            title = name if key == "accuracy" else f"{name}, {key}"
            dense = _told(accuracies(found[name], "dense", 1.0, key))
            for system in CHOOSERS:
                at = (_told(accuracies(found[name], system, share, key)) for share in SHARES)
                rows.append((title, system, dense, *at))
    return markdown(("set", "chosen by", "1", *map(str, SHARES)), rows)


def shares_of_dense(units: Units, share: float) -> Found | None:
    """Return each kind of operation a step as a share of the dense network's."""
    dense = units.get(accuracy.Unit("dense", 1.0, 0).name)
    hashed = units.get(accuracy.Unit("hashing", share, 0).name)
    if not dense or not hashed:
        return None
    one, other = dense["operations"], hashed["operations"]
    return {
        kind: other[kind] / other["steps"] * one["steps"] / one[kind]
        for kind in ("multiplications", "additions", "bytes")
    }


def _verdicts(found: dict[str, Units]) -> list[str]:
    rows = []
    for name in accuracy.SETS:
        dense, tried = accuracies(found[name], "dense", 1.0), []
        for share in SHARES:
            mine, told = (
                accuracies(found[name], "hashing", share),
                shares_of_dense(found[name], share),
            )
            if dense and mine and told:
                tried.append((mean(dense) - mean(mine), 100 * told["multiplications"], share))
        if tried:
            near = [one for one in tried if one[0] <= 1]
            lost, done, share = min(near, key=lambda one: one[1]) if near else min(tried)
            rows.append((name, share, f"{lost:+.2f}", f"{done:.1f}"))
    return markdown(("set", "active", "points lost", "multiplications, %"), rows)


def _operations(found: dict[str, Units]) -> list[str]:
    rows = []
    for name in accuracy.SETS:
        for share in SHARES:
            if told := shares_of_dense(found[name], share):
                kinds = (f"{100 * told[kind]:.1f}" for kind in told)
                rows.append((name, share, *kinds))
    return markdown(("set", "active", "multiplications", "additions", "bytes"), rows)


def _wide(units: Units) -> list[str]:
    rows = [
        (way.name, f"{100 * units[way.name]['accuracy']:.1f}")
        for way in wide.WAYS
        if way.name in units
    ]
    return markdown(("buckets computed", "bucket accuracy, %"), rows)


def ratio(units: Units, buckets: int, way: Way) -> float | None:
    """Return how many times faster a step is than one that computes all buckets."""
    one, other = units.get(f"{buckets} {Way(1.0).name}"), units.get(f"{buckets} {way.name}")
    return one["seconds"] / other["seconds"] if one and other else None


def _walls(units: Units) -> list[str]:
    rows = []
    for buckets in wall.BUCKETS:
        if dense := units.get(f"{buckets} {Way(1.0).name}"):
            for kind in KINDS:
                cells = []
                for share in wall.SHARES:
                    way = Way(share, kind == "shared")
                    faster, mine = ratio(units, buckets, way), units.get(f"{buckets} {way.name}")
                    cells.append(
                        f"{1000 * mine['seconds']:,.0f} ({faster:.1f})" if faster and mine else "–"
                    )
                rows.append((f"{buckets:,}", kind, f"{1000 * dense['seconds']:,.0f}", *cells))
    return markdown(("B", "active sets", "all", *map(str, wall.SHARES)), rows)


def _crossings(units: Units) -> list[str]:
    """Return from how many buckets on hashing is faster, for all sizes measured beyond too."""
    rows = []
    for kind in KINDS:
        cells = []
        for share in wall.SHARES:
            way = Way(share, kind == "shared")
            ratios = {b: r for b in wall.BUCKETS if (r := ratio(units, b, way)) is not None}
            slower = [b for b, faster in ratios.items() if faster < 1]
            above = [b for b in ratios if b > max(slower, default=0)]
            cells.append(f"{min(above):,}" if above else "none")
        rows.append((kind, *cells))
    return markdown(("active sets", *(f"faster from B, {share}" for share in wall.SHARES)), rows)


def savings(units: Units, buckets: int, way: Way) -> float | None:
    """Return how many times fewer operations a step takes."""
    one, other = units.get(f"{buckets} {Way(1.0).name}"), units.get(f"{buckets} {way.name}")
    if not one or not other:
        return None
    all_of, some = ((of["multiplications"] + of["additions"]) / of["steps"] for of in (one, other))
    return float(all_of / some)


def _savings(units: Units) -> list[str]:
    rows = []
    for kind in KINDS:
        for share in wall.SHARES:
            way = Way(share, kind == "shared")
            found = (savings(units, buckets, way) for buckets in wall.BUCKETS)
            rows.append((kind, share, *("–" if one is None else f"{one:.1f}" for one in found)))
    return markdown(("active sets", "active", *(f"B = {b:,}" for b in wall.BUCKETS)), rows)
