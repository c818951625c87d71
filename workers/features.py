"""From a row's columns to at most d sparse features.

Text becomes the 64-bit hashes of its word and character n-grams; ids of any
range are used as they are. Then each world folds them into [0, d) with a hash
of its own, so that features that collide in one world are apart in the next
(feature hashing, Weinberger et al. 2009). Each input column counts alike:
its features have the Euclidean norm 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.batch import Batch
from workers.config import DataConfig, FeaturesConfig
from workers.hashing import derive_seed, first_slot, mix64_jit, table_size
from workers.jit import inline, kernel

Words = NDArray[np.uint64]
Offsets = NDArray[np.int64]
Values = NDArray[np.float32]

_BEGIN, _END = np.uint64(0x110001), np.uint64(0x110002)
"""Marks at the ends of a word in its character n-grams: no Unicode code points."""
_SPACE = np.uint64(0x20)
_PRIME = np.uint64(0x100000001B3)
_SEED_WORD, _SEED_CHAR = np.uint64(0xCBF29CE484222325), np.uint64(0x84222325CBF29CE4)


class Featurizer:
    """Turns tables into batches for one world.

    Args:
        data: which columns mean what.
        features: the n-grams and the width d.
        seed: the run's seed.
        world: the world's index; its fold differs from every other world's.
    """

    def __init__(self, data: DataConfig, features: FeaturesConfig, seed: int, world: int) -> None:
        self._data = data
        self._features = features
        self._sources = [*data.text, *[name for name in (data.indices, data.dense) if name]]
        self._keys = {
            name: np.uint64(derive_seed(seed, world, "features", position))
            for position, name in enumerate(self._sources)
        }

    def batch(self, table: pa.Table, *, labels: bool) -> Batch:
        """Return the rows of `table` as a batch.

        Args:
            table: has the columns that the config names, without nulls.
            labels: whether to read labels and weights too.
        """
        offsets, ids, values = concatenate(
            [self._source(name, table.column(name), table) for name in self._sources]
        )
        rows = table.num_rows
        label_offsets, label_ids = np.zeros(rows + 1, np.int64), np.empty(0, np.int64)
        weights = None
        if labels:
            label_offsets, label_ids = label_lists(table.column(self._data.labels))
            if self._data.weight:
                weights = table.column(self._data.weight).to_numpy().astype(np.float32)
        return Batch(
            feature_offsets=offsets,
            feature_ids=ids,
            feature_values=values,
            label_offsets=label_offsets,
            labels=label_ids,
            weights=weights,
        )

    def _source(
        self, name: str, column: pa.ChunkedArray, table: pa.Table
    ) -> tuple[Offsets, NDArray[np.int32], Values]:
        if name in self._data.text:
            offsets, hashes = text_ngrams(
                column, words=self._features.word_ngrams, chars=self._features.char_ngrams
            )
            values = np.empty(0, np.float32)
        elif name == self._data.dense:
            offsets, numbers = _lists(column)
            values = numbers.astype(np.float32, copy=False)
            hashes = np.tile(np.arange(column.type.list_size, dtype=np.uint64), len(column))
        else:
            offsets, ids = _lists(column)
            hashes = ids.astype(np.int64, copy=False).view(np.uint64)
            values = np.empty(0, np.float32)
            if self._data.values:
                values = _lists(table.column(self._data.values))[1].astype(np.float32, copy=False)
        folded: tuple[Offsets, NDArray[np.int32], Values] = fold(
            offsets, hashes, values, self._keys[name], self._features.dimension
        )
        return folded


def text_ngrams(
    column: pa.ChunkedArray | pa.Array, *, words: int, chars: tuple[int, int]
) -> tuple[Offsets, Words]:
    """Return the hashes of every row's n-grams, repeats included.

    Text is normalised to Unicode's NFKC and lower-cased. A word is a run of
    characters other than white space and punctuation. Character n-grams are
    taken within runs of characters other than white space, with marks at both
    ends, so that "c++" and "usb-c" are seen.

    Args:
        column: (n,) string or large_string.
        words: longest word n-gram, 0 for none.
        chars: shortest and longest character n-gram, (0, 0) for none.

    Returns:
        offsets (n + 1,) int64 and hashes (features,) uint64.
    """
    strings = _flat(column)
    if not pa.types.is_large_string(strings.type):
        strings = strings.cast(pa.large_string())
    starts, text = utf8_of(strings)
    # Most text is ASCII, which the kernel lower-cases by itself.
    if text.size and text.max() >= 128:
        strings = pc.utf8_lower(pc.utf8_normalize(strings, form="NFKC"))
        starts, text = utf8_of(strings)
    offsets, hashes = hash_ngrams(text, starts, words, chars[0], chars[1])
    return offsets, hashes


def label_lists(column: pa.ChunkedArray | pa.Array) -> tuple[Offsets, NDArray[np.int64]]:
    """Return integer labels, one or a list for each row, as offsets and int64 ids."""
    flat = _flat(column)
    if pa.types.is_integer(flat.type):
        return np.arange(len(flat) + 1, dtype=np.int64), flat.to_numpy().astype(
            np.int64, copy=False
        )
    offsets, ids = _lists(flat)
    return offsets, ids.astype(np.int64, copy=False)


def concatenate(
    sources: list[tuple[Offsets, NDArray[np.int32], Values]],
) -> tuple[Offsets, NDArray[np.int32], Values]:
    """Join the features of several columns row by row."""
    joined = sources[0]
    for other in sources[1:]:
        joined = interleave(*joined, *other)
    return joined


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _lists(column: pa.ChunkedArray | pa.Array) -> tuple[Offsets, NDArray[np.generic]]:
    lists = _flat(column)
    if pa.types.is_fixed_size_list(lists.type):
        ends = np.arange(len(lists) + 1, dtype=np.int64) * lists.type.list_size
        return ends, lists.flatten().to_numpy()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    # flatten() honours a slice's offset, .values would not; nor do the offsets.
    return offsets - offsets[0], lists.flatten().to_numpy()


def utf8_of(strings: pa.LargeStringArray) -> tuple[Offsets, NDArray[np.uint8]]:
    """Return offsets (n + 1,) from 0, and the bytes of all texts."""
    _, starts, text = strings.buffers()
    if not len(strings) or text is None:
        return np.zeros(len(strings) + 1, np.int64), np.empty(0, np.uint8)
    offsets = np.frombuffer(starts, np.int64)[strings.offset : strings.offset + len(strings) + 1]
    return offsets - offsets[0], np.frombuffer(text, np.uint8)[offsets[0] : offsets[-1]]


@inline
def _separates(point: Any) -> Any:
    if point < np.uint64(128):
        return not (
            (np.uint64(97) <= point <= np.uint64(122))
            or (np.uint64(48) <= point <= np.uint64(57))
            or point == np.uint64(95)
        )
    # Latin-1 signs, general punctuation, CJK punctuation.
    return (
        (np.uint64(0x80) <= point <= np.uint64(0xBF) and point not in (0xAA, 0xB5, 0xBA))
        or np.uint64(0x2000) <= point <= np.uint64(0x206F)
        or np.uint64(0x3000) <= point <= np.uint64(0x303F)
    )


@inline
def _is_space(point: Any) -> Any:
    # Of what `_separates` holds. NFKC has made a plain space of most others.
    return (
        point <= np.uint64(0x20)
        or np.uint64(0x7F) <= point <= np.uint64(0xA0)
        or np.uint64(0x2000) <= point <= np.uint64(0x200F)
        or np.uint64(0x2028) <= point <= np.uint64(0x202F)
        or np.uint64(0x205F) <= point <= np.uint64(0x206F)
        or point == np.uint64(0x3000)
    )


@inline
def _decode(text: NDArray[np.uint8], at: int) -> tuple[Any, int]:
    # Arrow strings are valid UTF-8, so the lead byte tells the length.
    lead = np.uint64(text[at])
    if lead < np.uint64(0x80):
        if np.uint64(65) <= lead <= np.uint64(90):
            lead += np.uint64(32)
        return lead, 1
    low = np.uint64(0x3F)
    second = np.uint64(text[at + 1]) & low
    if lead < np.uint64(0xE0):
        return (lead & np.uint64(0x1F)) << np.uint64(6) | second, 2
    third = np.uint64(text[at + 2]) & low
    if lead < np.uint64(0xF0):
        return (lead & np.uint64(0x0F)) << np.uint64(12) | second << np.uint64(6) | third, 3
    fourth = np.uint64(text[at + 3]) & low
    point = (lead & np.uint64(0x07)) << np.uint64(18) | second << np.uint64(12)
    return point | third << np.uint64(6) | fourth, 4


@kernel
def hash_ngrams(
    text: NDArray[np.uint8], starts: Offsets, words: int, shortest: int, longest: int
) -> tuple[Offsets, Words]:
    """Return the n-gram hashes of rows text[starts[i]:starts[i + 1]]; see `text_ngrams`."""
    rows = starts.shape[0] - 1
    sizes = longest - shortest + 1 if longest > 0 else 0
    # A row of L bytes has at most (L + 1) / 2 words, and L + 2 a word marked points.
    capacity = (text.shape[0] + rows) * (words + 2 * sizes) + 1
    out = np.empty(capacity, np.uint64)
    offsets = np.zeros(rows + 1, np.int64)
    longest_row = 0
    for row in range(rows):
        longest_row = max(longest_row, starts[row + 1] - starts[row])
    points = np.empty(longest_row + 2, np.uint64)
    history = np.zeros(max(words, 1), np.uint64)
    used = 0
    for row in range(rows):
        at, end = starts[row], starts[row + 1]
        seen = 0
        # points[1:length] is the run of characters so far, points[word:length] its last word.
        word = length = 1
        while at <= end:
            point, step = _SPACE, 1
            if at < end:
                point, step = _decode(text, at)
            at += step
            separates = _separates(point)
            if separates:
                if words > 0 and word < length:
                    used = _word_ngrams(points[word:length], words, history, seen, out, used)
                    seen += 1
                word = length + 1
            if not (separates and _is_space(point)):
                points[length] = point
                length += 1
                continue
            if length > 1:
                points[0], points[length] = _BEGIN, _END
                for size in range(shortest, longest + 1):
                    used = _char_ngrams(points, length + 1, size, out, used)
            word = length = 1
        offsets[row + 1] = used
    return offsets, out[:used].copy()


@inline
def _word_ngrams(
    points: Words, words: int, history: Words, seen: int, out: Words, used: int
) -> int:
    word = _SEED_WORD
    for point in points:
        word = (word ^ point) * _PRIME
    word = mix64_jit(word)
    # history[i] is the hash of the n-gram of i + 1 words that ends before this word.
    for size in range(min(seen, words - 1), 0, -1):
        longer = mix64_jit(history[size - 1] * _PRIME ^ word)
        history[size] = longer
        out[used] = longer
        used += 1
    history[0] = word
    out[used] = word
    return used + 1


@inline
def _char_ngrams(points: Words, length: int, size: int, out: Words, used: int) -> int:
    if size < 1:
        return used
    for begin in range(length - size + 1):
        gram = _SEED_CHAR + np.uint64(size)
        for j in range(begin, begin + size):
            gram = (gram ^ points[j]) * _PRIME
        out[used] = mix64_jit(gram)
        used += 1
    return used


@kernel
def fold(
    offsets: Offsets, hashes: Words, values: Values, key: np.uint64, dimension: int
) -> tuple[Offsets, NDArray[np.int32], Values]:
    """Fold 64-bit features into [0, d) and scale every row to the norm 1.

    Features that fall together within a row are added up. Where there are no
    values, a feature that is there c times has the value 1 + ln(c): long texts
    repeat what they are about, and the logarithm keeps "the" from drowning it
    (Manning et al. 2008, Introduction to Information Retrieval, section 6.4.1).

    Args:
        offsets: (n + 1,) int64.
        hashes: (features,) uint64; row i has those between its offsets.
        values: (features,) float32, or empty: features are counted.
        key: the world's 64-bit seed for this column.
        dimension: d.

    Returns:
        offsets (n + 1,) int64, ids (folded,) int32 and values (folded,) float32.
    """
    rows = offsets.shape[0] - 1
    # A row's features are found again in a table of their number, not of d: open addressing,
    # where `owner` says which entries are this row's.
    longest = 1
    for row in range(rows):
        longest = max(longest, offsets[row + 1] - offsets[row])
    size = table_size(longest)
    place = np.empty(size, np.int64)
    owner = np.full(size, -1, np.int64)
    ids = np.empty(hashes.shape[0], np.int32)
    out = np.empty(hashes.shape[0], np.float32)
    folded = np.zeros(rows + 1, np.int64)
    low, half, width = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(dimension)
    used = 0
    for row in range(rows):
        begin = used
        for position in range(offsets[row], offsets[row + 1]):
            mixed = mix64_jit(hashes[position] ^ key)
            feature = np.int32(((mixed & low) * width) >> half)
            value = values[position] if values.shape[0] else np.float32(1.0)
            slot = first_slot(feature, size)
            while owner[slot] == row and ids[place[slot]] != feature:
                slot = (slot + 1) & (size - 1)
            if owner[slot] == row:
                out[place[slot]] += value
                continue
            owner[slot] = row
            place[slot] = used
            ids[used] = feature
            out[used] = value
            used += 1
        if not values.shape[0]:
            for position in range(begin, used):
                if out[position] > 1.0:
                    out[position] = np.float32(1.0 + np.log(np.float64(out[position])))
        # In float64: the squares of large and of small float32 do not fit into float32.
        norm = 0.0
        for position in range(begin, used):
            norm += np.float64(out[position]) * np.float64(out[position])
        if norm > 0.0:
            scale = 1.0 / np.sqrt(norm)
            for position in range(begin, used):
                out[position] = np.float32(out[position] * scale)
        folded[row + 1] = used
    return folded, ids[:used].copy(), out[:used].copy()


@kernel
def interleave(
    offsets: Offsets,
    ids: NDArray[np.int32],
    values: Values,
    more_offsets: Offsets,
    more_ids: NDArray[np.int32],
    more_values: Values,
) -> tuple[Offsets, NDArray[np.int32], Values]:
    """Put each row's features of two columns behind each other."""
    both = offsets + more_offsets
    out_ids = np.empty(both[-1], np.int32)
    out_values = np.empty(both[-1], np.float32)
    for row in range(both.shape[0] - 1):
        at = both[row]
        for position in range(offsets[row], offsets[row + 1]):
            out_ids[at], out_values[at] = ids[position], values[position]
            at += 1
        for position in range(more_offsets[row], more_offsets[row + 1]):
            out_ids[at], out_values[at] = more_ids[position], more_values[position]
            at += 1
    return both, out_ids, out_values
