from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from examples.product_search import Catalogue, draw, write


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(10_000, seed=3)


@pytest.fixture(scope="module")
def rows(catalogue: Catalogue) -> pa.Table:
    return draw(catalogue, 20_000, (0, 0, 0))


def described(catalogue: Catalogue, product: int) -> list[str]:
    ids = np.array([product])
    return [
        catalogue.spelt(slot, catalogue.words(slot, ids))[0].as_py()
        for slot in range(len(catalogue.slots))
    ]


def test_every_query_has_words_and_every_label_is_a_product(rows: pa.Table) -> None:
    lengths = pc.count_substring(rows["query"], " ").to_numpy() + 1
    assert lengths.min() == 1
    assert lengths.max() == 5
    assert pc.min(pc.binary_length(rows["query"])).as_py() > 3
    labels = rows["labels"].to_numpy()
    assert labels.min() >= 0
    assert labels.max() < 10_000


def test_most_words_of_a_query_are_of_the_product_that_was_clicked(
    catalogue: Catalogue, rows: pa.Table
) -> None:
    sample = rows.slice(0, 300).to_pylist()
    hits = words = 0
    for row in sample:
        said = row["query"].split()
        words += len(said)
        hits += len(set(said) & set(described(catalogue, row["labels"])))
    assert 0.85 < hits / words < 0.97


def test_clicks_fall_off_by_rank(catalogue: Catalogue, rows: pa.Table) -> None:
    counts = np.sort(np.bincount(rows["labels"].to_numpy(), minlength=10_000))[::-1]
    # The share of the ten first ranks: log(20 / 10) / log(10,010 / 10).
    assert counts[:10].sum() / counts.sum() == pytest.approx(0.1, abs=0.01)
    assert (counts > 0).sum() > 2_000


def test_words_of_different_slots_and_numbers_differ(catalogue: Catalogue) -> None:
    words = [
        word
        for number, slot in enumerate(catalogue.slots)
        for word in catalogue.spelt(number, np.arange(slot.words)).to_pylist()
    ]
    assert len(words) == len(set(words))


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    def written(name: str, seed: int) -> dict[str, bytes]:
        write(tmp_path / name, Catalogue(1000, seed), train=300, test=50)
        files = sorted((tmp_path / name).rglob("*.parquet"))
        return {str(file.relative_to(tmp_path / name)): file.read_bytes() for file in files}

    first = written("a", 0)
    assert list(first) == ["test/part-00000.parquet", "train/part-00000.parquet"]
    assert written("b", 0) == first
    other = written("c", 1)
    assert all(first[name] != other[name] for name in first)


def test_training_and_test_rows_are_drawn_apart(tmp_path: Path) -> None:
    write(tmp_path, Catalogue(1000), train=500, test=500)
    train, test = (pq.read_table(tmp_path / part) for part in ("train", "test"))
    assert train.num_rows == test.num_rows == 500
    assert train != test


def test_a_catalogue_of_a_hundred_million_products_is_made_at_once() -> None:
    catalogue = Catalogue(10**8)
    products = catalogue.clicked(np.linspace(0, 1, 1000, endpoint=False))
    assert len(np.unique(products)) > 900
    assert products.max() < 10**8
