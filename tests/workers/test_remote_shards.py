"""Shards on a server that throttles, cuts connections or is gone: no outage is a bad shard."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.workers.builders import queries, world_config, write_shard
from tests.workers.faults import DENIED, SLOW_DOWN, FakeTime, always, first
from tests.workers.object_store import Fault, Proxy, Request
from workers.errors import BadShardError, StorageUnreachable
from workers.shards import ShardSet, tables_in_order

ROWS = 400


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def uri(s3: Proxy, tmp_path: Path) -> str:
    """Two shards with two row groups each."""
    folder = s3.folder / tmp_path.name
    folder.mkdir()
    for seed in range(2):
        write_shard(folder / f"{seed}.parquet", queries(ROWS // 2, seed), rows=ROWS // 4)
    return s3.uri(tmp_path.name)


def rows_of(shards: ShardSet) -> pa.Table:
    return pa.concat_tables(tables_in_order(shards, world_config(shards.uri).data, rows=50))


def of_shards(request: Request) -> bool:
    return ".parquet" in request.path


@pytest.mark.parametrize("fault", [SLOW_DOWN, "cut response", "lose response"])
def test_passing_troubles_change_nothing(s3: Proxy, time: FakeTime, uri: str, fault: Fault) -> None:
    wanted = rows_of(ShardSet(str(s3.folder / uri.rpartition("/")[2])))
    s3.judge = first(2, fault)
    shards = ShardSet(uri, retries=time.retries())
    s3.judge = first(3, fault, of_shards)
    assert rows_of(shards).equals(wanted)
    assert time.sleeps


def test_a_server_that_is_gone_for_twenty_seconds_is_waited_for(
    s3: Proxy, time: FakeTime, uri: str
) -> None:
    shards = ShardSet(uri, retries=time.retries())
    s3.close()
    time.events.append((20.0, s3.reopen))
    assert rows_of(shards).num_rows == ROWS


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("fault", [SLOW_DOWN, DENIED])
def test_a_server_that_does_not_answer_says_nothing_of_its_shards(
    s3: Proxy, time: FakeTime, uri: str, fault: Fault, lenient: bool
) -> None:
    shards = ShardSet(uri, lenient=lenient, retries=time.retries())
    s3.judge = always(fault, of_shards)
    with pytest.raises(StorageUnreachable, match=r"\.parquet: expected storage that can be read"):
        rows_of(shards)
    with pytest.raises(StorageUnreachable):
        ShardSet(uri, lenient=lenient, retries=time.retries())
    s3.judge = always(fault)
    with pytest.raises(StorageUnreachable):
        ShardSet(uri, lenient=lenient, retries=time.retries())


@pytest.mark.parametrize("size", [0, 10_000])
def test_a_shard_that_is_lost_or_replaced_while_it_is_read_is_a_bad_one(
    s3: Proxy, time: FakeTime, uri: str, size: int
) -> None:
    shards = ShardSet(uri, retries=time.retries())
    config = world_config(uri).data
    tables = tables_in_order(shards, config, rows=50)
    next(tables)
    for file in (s3.folder / uri.rpartition("/")[2]).iterdir():
        file.unlink()
        if size:
            file.write_bytes(bytes(size))
    with pytest.raises(BadShardError):
        list(tables)
