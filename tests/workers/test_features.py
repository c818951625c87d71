from __future__ import annotations

import math
import re
import unicodedata
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.batch import Batch
from workers.config import DataConfig, FeaturesConfig
from workers.features import Featurizer, fold, label_lists, text_ngrams
from workers.hashing import derive_seed, mix64

MASK = 2**64 - 1
PRIME = 0x100000001B3
BEGIN, END = 0x110001, 0x110002
SEED_WORD, SEED_CHAR = 0xCBF29CE484222325, 0x84222325CBF29CE4
WORD = re.compile("[a-z0-9_\xaa\xb5\xba\xc0-\u1fff\u2070-\u2fff\u3040-\U0010ffff]+")
RUN = re.compile("[^\x00-\x20\x7f-\xa0\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000]+")

Row = dict[int, float]

ascii_texts = st.text("aAbBzZ_09 -.\t\0", max_size=12)
all_texts = st.text(
    st.sampled_from("aAbzZ_09 -.éÉßİΣﬁ①ªµº½×\u2003\u3000、漢字e\u0301🙂")
    | st.characters(exclude_categories=("Cs", "Cn")),
    max_size=12,
)
# Text that is ASCII throughout takes a way of its own.
columns = st.lists(ascii_texts, max_size=8) | st.lists(all_texts | ascii_texts, max_size=8)


def normal(text: str) -> str:
    lowered = [
        # The only character whose lower case has two code points; Unicode's simple mapping is i.
        "i" if character == "İ" else character.lower()
        for character in unicodedata.normalize("NFKC", text)
    ]
    return "".join(lowered)


def fnv(seed: int, points: list[int]) -> int:
    for point in points:
        seed = (seed ^ point) * PRIME & MASK
    return mix64(seed)


def word_ngrams(words: list[str], longest: int) -> list[int]:
    hashes = [fnv(SEED_WORD, list(map(ord, word))) for word in words]
    grams = []
    for size in range(1, longest + 1):
        for begin in range(len(words) - size + 1):
            gram = hashes[begin]
            for following in hashes[begin + 1 : begin + size]:
                gram = mix64(gram * PRIME & MASK ^ following)
            grams.append(gram)
    return grams


def char_ngrams(run: str, size: int) -> list[int]:
    points = [BEGIN, *map(ord, run), END]
    return [
        fnv(SEED_CHAR + size, points[begin : begin + size])
        for begin in range(len(points) - size + 1)
    ]


def reference_ngrams(text: str, words: int, chars: tuple[int, int]) -> list[int]:
    grams = word_ngrams(WORD.findall(normal(text)), words)
    if chars[1]:
        for run in RUN.findall(normal(text)):
            for size in range(chars[0], chars[1] + 1):
                grams += char_ngrams(run, size)
    return grams


def reference_fold(hashes: list[int], values: list[float] | None, key: int, d: int) -> Row:
    row: Row = {}
    for position, hashed in enumerate(hashes):
        feature = (mix64(hashed ^ key) & 0xFFFFFFFF) * d >> 32
        row[feature] = row.get(feature, 0.0) + (1.0 if values is None else values[position])
    if values is None:
        row = {feature: 1.0 + math.log(count) for feature, count in row.items()}
    norm = sum(value * value for value in row.values()) ** 0.5
    return {feature: value / norm if norm else value for feature, value in row.items()}


def rows_of(batch: Batch) -> list[list[tuple[int, float]]]:
    pairs = list(zip(batch.feature_ids.tolist(), batch.feature_values.tolist(), strict=True))
    ends = batch.feature_offsets.tolist()
    return [pairs[begin:end] for begin, end in pairwise(ends)]


def assert_row(found: list[tuple[int, float]], wanted: Row) -> None:
    assert sorted(feature for feature, _ in found) == sorted(wanted)
    for feature, value in found:
        assert value == pytest.approx(wanted[feature], rel=1e-5, abs=1e-6)


def hashes_of(
    column: pa.Array | pa.ChunkedArray, words: int, chars: tuple[int, int]
) -> list[list[int]]:
    offsets, hashes = text_ngrams(column, words=words, chars=chars)
    return [hashes[begin:end].tolist() for begin, end in pairwise(offsets)]


@given(columns, st.integers(0, 4), st.sampled_from([(0, 0), (1, 2), (4, 4)]))
def test_text_ngrams_are_the_plain_definition(
    rows: list[str], words: int, chars: tuple[int, int]
) -> None:
    found = hashes_of(pa.array(rows, pa.string()), words, chars)
    wanted = [reference_ngrams(text, words, chars) for text in rows]
    assert [sorted(row) for row in found] == [sorted(row) for row in wanted]


@pytest.mark.parametrize("chars", [(1, 8), (3, 5), (8, 8)])
def test_every_size_of_character_ngrams(chars: tuple[int, int]) -> None:
    rows = ["a bc def ghij klmno pqrstu vwxyz01 23456789", "Ünï çödé"]
    wanted = [sorted(reference_ngrams(text, 0, chars)) for text in rows]
    assert [sorted(row) for row in hashes_of(pa.array(rows), 0, chars)] == wanted


@given(columns, st.data())
def test_slices_chunks_and_large_strings_are_the_same_text(
    rows: list[str], data: st.DataObject
) -> None:
    begin = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(begin, len(rows)))
    cut = data.draw(st.integers(begin, end))
    wanted = hashes_of(pa.array(rows, pa.string()), 2, (3, 4))[begin:end]
    whole = pa.array(rows, pa.string())
    for column in (
        whole.slice(begin, end - begin),
        whole.cast(pa.large_string()).slice(begin, end - begin),
        pa.chunked_array([whole[begin:cut], whole[cut:end]], pa.string()),
    ):
        assert hashes_of(column, 2, (3, 4)) == wanted


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    plain, accented = "Plain ASCII Text", "Ärger ﬁne ①"
    together = hashes_of(pa.array([plain, accented]), 2, (4, 4))
    assert together == [
        *hashes_of(pa.array([plain]), 2, (4, 4)),
        *hashes_of(pa.array([accented]), 2, (4, 4)),
    ]


def test_writings_of_the_same_word_are_one_feature() -> None:
    rows = ["CAFÉ", "café", "cafe\u0301"]
    assert len({tuple(row) for row in hashes_of(pa.array(rows), 2, (3, 3))}) == 1


def test_punctuation_ends_words_and_is_seen_by_character_ngrams() -> None:
    rows = pa.array(["c", "c++", "c#", "(c)"])
    assert len({tuple(row) for row in hashes_of(rows, 2, (0, 0))}) == 1
    assert len({tuple(row) for row in hashes_of(rows, 0, (3, 3))}) == 4


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, MASK), st.floats(-100, 100, width=32)), max_size=12),
        max_size=5,
    ),
    st.booleans(),
    st.integers(0, MASK),
    st.sampled_from([2, 3, 7, 1000, 2**20]),
)
def test_fold_is_the_plain_definition(
    rows: list[list[tuple[int, float]]], weighted: bool, key: int, d: int
) -> None:
    flat = [pair for row in rows for pair in row]
    offsets, ids, values = fold(
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        np.array([hashed for hashed, _ in flat], np.uint64),
        np.array([value for _, value in flat] if weighted else [], np.float32),
        np.uint64(key),
        d,
    )
    assert ids.dtype == np.int32 and values.dtype == np.float32 and len(offsets) == len(rows) + 1
    for row, begin, end in zip(rows, offsets, offsets[1:], strict=False):
        given_values = [value for _, value in row] if weighted else None
        wanted = reference_fold([hashed for hashed, _ in row], given_values, key, d)
        norm = float(np.linalg.norm(values[begin:end].astype(np.float64)))
        assert sorted(ids[begin:end].tolist()) == sorted(wanted)
        if norm > 0.5:
            assert norm == pytest.approx(1.0, abs=1e-5)
        # Sums that nearly cancel leave rounding errors; the reference has none.
        if sum(abs(value) for _, value in row) < 1e4 * abs(sum(value for _, value in row)):
            found = zip(ids[begin:end].tolist(), values[begin:end].tolist(), strict=True)
            assert_row(list(found), wanted)


@pytest.mark.parametrize("size", [1e-30, 1e-5, 1e25])
def test_fold_scales_very_large_and_very_small_values(size: float) -> None:
    values = np.array([3 * size, 4 * size], np.float32)
    hashes = np.array([1, 2], np.uint64)
    _, _, scaled = fold(np.array([0, 2]), hashes, values, np.uint64(5), 1 << 20)
    assert scaled == pytest.approx([0.6, 0.8])


def test_features_that_collide_in_one_world_are_apart_in_the_next() -> None:
    d, features = 64, 200
    data = DataConfig(train="-", classes=2, indices="ids")
    table = pa.table({"ids": [[feature] for feature in range(features)]})
    config = FeaturesConfig(dimension=d)
    colliding = []
    for world in range(2):
        ids = Featurizer(data, config, 7, world).batch(table, labels=False).feature_ids
        pairs = combinations(range(features), 2)
        colliding.append({(a, b) for a, b in pairs if ids[a] == ids[b]})
    # 19,900 pairs: 311 expected to collide in each world, 5 in both.
    assert all(200 < len(pairs) < 430 for pairs in colliding)
    assert len(colliding[0] & colliding[1]) < 25


MIXED = pa.table(
    {
        "title": ["red shoes", "", "Élan vital", "x"],
        "body": ["size 42", "red", "red shoes", ""],
        "ids": pa.array([[5, -7, 5], [], [2**40], [0]], pa.list_(pa.int64())),
        "values": pa.array([[0.5, 2.0, 0.25], [], [-3.0], [0.0]], pa.list_(pa.float64())),
        "vector": pa.array([[1, 2], [0, 0], [3, -4], [0, 1]], pa.list_(pa.float32(), 2)),
        "labels": pa.array([[1, 2], [3], [0], [9, 9]], pa.list_(pa.int32())),
        "weight": pa.array([1, 2, 0, 4], pa.int64()),
    }
)
EVERYTHING = DataConfig(
    train="-",
    classes=10,
    text=("title", "body"),
    indices="ids",
    values="values",
    dense="vector",
    weight="weight",
)


def test_every_column_is_folded_with_its_own_key_to_the_norm_one() -> None:
    config = FeaturesConfig(dimension=1 << 20, word_ngrams=2, char_ngrams=(3, 3))
    batch = Featurizer(EVERYTHING, config, 3, 5).batch(MIXED, labels=True)
    keys = [derive_seed(3, 5, "features", position) for position in range(4)]
    for found, given_row in zip(rows_of(batch), MIXED.to_pylist(), strict=True):
        wanted: Row = {}
        for key, name in zip(keys, ("title", "body"), strict=False):
            wanted |= reference_fold(
                reference_ngrams(given_row[name], 2, (3, 3)), None, key, 1 << 20
            )
        ids = [feature & MASK for feature in given_row["ids"]]
        wanted |= reference_fold(ids, given_row["values"], keys[2], 1 << 20)
        wanted |= reference_fold([0, 1], given_row["vector"], keys[3], 1 << 20)
        assert_row(found, wanted)
    assert batch.labels.tolist() == [1, 2, 3, 0, 9, 9]
    assert batch.label_offsets.tolist() == [0, 2, 3, 4, 6]
    assert batch.weights is not None
    assert batch.weights.tolist() == [1, 2, 0, 4]


def test_indices_without_values_count_by_the_logarithm_of_their_number() -> None:
    data = DataConfig(train="-", classes=10, indices="ids")
    table = pa.table({"ids": [[5, 9, 5, 5], [], [7, 7]]})
    batch = Featurizer(data, FeaturesConfig(), 0, 0).batch(table, labels=False)
    first, second, third = rows_of(batch)
    thrice = 1 + math.log(3)
    assert [value for _, value in first] == pytest.approx(
        [thrice / math.hypot(thrice, 1), 1 / math.hypot(thrice, 1)]
    )
    assert second == []
    assert [value for _, value in third] == [1.0]


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.uint32(), 2), pa.large_list(pa.int16()), pa.list_(pa.uint64())],
    ids=str,
)
def test_any_list_of_integers_serves_as_indices_and_labels(kind: pa.DataType) -> None:
    data = DataConfig(train="-", classes=10, indices="ids")
    lists = [[1, 2], [3, 4], [5, 6]]
    plain = pa.table({"ids": lists, "labels": lists}).slice(1)
    other = pa.table({"ids": pa.array(lists, kind), "labels": pa.array(lists, kind)}).slice(1)
    featurizer = Featurizer(data, FeaturesConfig(), 0, 0)
    found, wanted = (featurizer.batch(table, labels=True) for table in (other, plain))
    assert rows_of(found) == rows_of(wanted)
    assert found.labels.tolist() == wanted.labels.tolist() == [3, 4, 5, 6]
    assert found.label_offsets.tolist() == [0, 2, 4]


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64())], ids=str)
def test_label_lists_of_a_slice(kind: pa.DataType) -> None:
    offsets, labels = label_lists(pa.array([[1], [2, 3], [4], [5]], kind).slice(1, 2))
    assert offsets.tolist() == [0, 2, 3]
    assert labels.tolist() == [2, 3, 4]


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_slices_and_chunks_of_every_column(begin: int, cut: int, end: int) -> None:
    begin, cut, end = sorted((begin, cut, end))
    featurizer = Featurizer(EVERYTHING, FeaturesConfig(dimension=4096), 0, 1)
    whole = featurizer.batch(MIXED, labels=True)
    parts = pa.concat_tables([MIXED.slice(begin, cut - begin), MIXED.slice(cut, end - cut)])
    for table in (MIXED.slice(begin, end - begin), parts):
        batch = featurizer.batch(table, labels=True)
        first, last = whole.label_offsets[begin], whole.label_offsets[end]
        assert rows_of(batch) == rows_of(whole)[begin:end]
        assert batch.labels.tolist() == whole.labels[first:last].tolist()
        assert len(batch) == end - begin


def test_labels_may_be_single_integers() -> None:
    data = DataConfig(train="-", classes=10, text=("title",))
    table = pa.table({"title": ["a", "b", "c"], "labels": pa.array([7, 8, 9], pa.int16())})
    batch = Featurizer(data, FeaturesConfig(), 0, 0).batch(table.slice(1), labels=True)
    assert batch.labels.tolist() == [8, 9]
    assert batch.label_offsets.tolist() == [0, 1, 2]
    assert batch.weights is None


def test_hashes_never_change() -> None:
    # A trained model is worth nothing once these move.
    found = hashes_of(pa.array(["a", "Red shoes", "Ärger 漢字"]), 2, (4, 4))
    assert [sorted(row) for row in found] == [
        [198367012849983736],
        [
            1681295044286590081,
            2887517576815527155,
            3225082659113826922,
            7151093600521274152,
            7977448157372583140,
            13352475536644321943,
            13534022786443685247,
            13840398714095908814,
            14641715386135452096,
        ],
        [
            758645042880203013,
            4677135544441037891,
            6388549963170852525,
            8932537398651890341,
            11837992772354960592,
            14318586162970387573,
            16340656490275839297,
            17255705515397562615,
        ],
    ]


def test_folds_never_change() -> None:
    batch = Featurizer(EVERYTHING, FeaturesConfig(dimension=131_072), 1, 2).batch(
        MIXED, labels=False
    )
    assert [sorted(feature for feature, _ in row) for row in rows_of(batch)] == [
        [
            3585,
            14710,
            18085,
            25700,
            32297,
            41513,
            52926,
            53565,
            54351,
            66608,
            79628,
            82446,
            85514,
            99174,
            99197,
            110583,
            115160,
            120704,
            121286,
            126678,
        ],
        [35720, 45583, 53565, 70171, 85514],
        [
            4500,
            13643,
            24084,
            24452,
            31326,
            35720,
            35834,
            45583,
            48220,
            49604,
            53565,
            68503,
            70171,
            72932,
            76503,
            85514,
            85956,
            102469,
            118307,
            126357,
            129295,
            130530,
        ],
        [53565, 75716, 85514, 118877],
    ]
