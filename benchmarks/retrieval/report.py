"""The measures of retrieval as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.retrieval.measures import COMBINERS, FULL, K
from benchmarks.retrieval.trained import LARGEST, TRAIN_ROWS, WORLDS
from benchmarks.writing import markdown


def table(found: dict[str, Any]) -> str:
    """Return the results of all K."""
    lines = [
        "# Retrieval",
        "",
        f"Made by `make bench-retrieval`: ensembles of R = {WORLDS} worlds, trained on"
        f" {TRAIN_ROWS:,} generated clicks (K above {LARGEST:,}: a tenth of them); the {K} best"
        " classes of test queries, one after the other but for the batches of 64. Times are from"
        " bucket scores to classes; buckets come from the stored lookup unless said. `full` is"
        f" timed on {FULL} queries.",
        "",
        *_exact(found),
        "",
        "## Candidates",
        "",
        *_near(found),
        "",
        "## Opening, and bytes",
        "",
        *_sizes(found),
        "",
        "## Precision of the weights",
        "",
        *_precisions(found),
    ]
    return "\n".join(lines) + "\n"


def _exact(found: dict[str, Any]) -> list[str]:
    head = (
        "K",
        "combiner",
        "pruned p50 / p99 ms",
        "full p50 ms",
        "full / pruned",
        "classes looked at, median, %",
        "left to full, %",
        "pruned with computed buckets, p50 ms",
        "full in batches, ms a query",
        "published loop / full",
        "full: share of memory's read rate",
        "queries equal to brute force",
    )
    rows = []
    for classes, one in found.items():
        for name in COMBINERS:
            single, batch = one[name]["single"], one[name]["batch"]
            rows.append(
                (
                    f"{int(classes):,}",
                    name,
                    f"{single['pruned']['p50_ms']:.1f} / {single['pruned']['p99_ms']:.1f}",
                    f"{single['full']['p50_ms']:.1f}",
                    f"{single['full_over_pruned']:.1f}",
                    f"{100 * single['looked_at']['50']:.2f}",
                    f"{100 * single['left_to_full']:.1f}",
                    one[name]["computed"].get("p50_ms", "–"),
                    f"{batch['full_ms_a_query']:.2f}",
                    batch.get("ratio", f"needs {batch['published_bytes'] / 1e9:.0f} GB"),
                    f"{one[name]['full_share_of_read_rate']:.2f}",
                    one[name]["checked"]["queries"],
                )
            )
    return markdown(head, rows)


def _near(found: dict[str, Any]) -> list[str]:
    head = ("K", "combiner", "buckets a world", "% of the exact best", "p50 ms", "p99 ms")
    return markdown(
        head,
        [
            (f"{int(classes):,}", name, m, f"{100 * at['recall']:.1f}", at["p50_ms"], at["p99_ms"])
            for classes, one in found.items()
            for name in COMBINERS
            for m, at in one[name]["candidates"].items()
        ],
    )


def _sizes(found: dict[str, Any]) -> list[str]:
    head = (
        "K",
        "open, cold s",
        "open, warm s",
        "resident MB",
        "of it not mapped files, MB",
        "peak / resident",
        "weights MB",
        "stored lookup MB",
        "published lookups MB",
        "clicks generated and written a second",
    )
    rows = []
    for classes, one in found.items():
        cold, warm, sizes = one["opening"]["cold"], one["opening"]["warm"], one["bytes"]
        rows.append(
            (
                f"{int(classes):,}",
                cold["seconds"],
                warm["seconds"],
                f"{warm['resident_bytes'] / 1e6:,.0f}",
                f"{warm['own_bytes'] / 1e6:,.0f}",
                f"{warm['peak_bytes'] / warm['resident_bytes']:.2f}",
                f"{sizes['weights'] / 1e6:,.0f}",
                f"{sizes['stored_lookup'] / 1e6:,.0f}",
                f"{sizes['published_lookup'] / 1e6:,.0f}",
                f"{one['written_rows_a_second']:,.0f}",
            )
        )
    return markdown(head, rows)


def _precisions(found: dict[str, Any]) -> list[str]:
    scores = "one query's scores, p50 ms"
    head = ("K", "test rows", "weights", "combiner", "P@1", "R@10", "R@100", "MB", scores)
    return markdown(
        head,
        [
            (
                f"{int(classes):,}",
                f"{at['rows']:,}",
                weights,
                name,
                *(f"{at[name][key]:.2f}" for key in ("P@1", "R@10", "R@100")),
                f"{at['bytes'] / 1e6:,.0f}",
                at["scores_p50_ms"],
            )
            for classes, one in found.items()
            for weights, at in one.get("precision", {}).items()
            for name in COMBINERS
        ],
    )
