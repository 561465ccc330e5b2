"""Keep a DuckDB database up to date with the batches of a bucket: tables `prompts` and `images`.

    python flows/to_duckdb.py pictures.duckdb --bucket nanobanana            # load what is new, once
    python flows/to_duckdb.py pictures.duckdb --bucket nanobanana --serve    # and after each run

`--bucket` names the S3 Bucket block. With `--serve` it is a deployment, `to_duckdb/warehouse`, which the
event of a finished run starts; this process does the work until Ctrl-C. It needs duckdb and pyarrow:
`pip install duckdb 'prefect-nanobanana[parquet]'`. docs/manifest.md has the same for other databases.
"""

# No `from __future__ import annotations` here, as in every module that serves flows.

import argparse
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import duckdb
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger
from prefect_aws import S3Bucket

from prefect_nanobanana.manifest import BatchTables, changed_batches


@flow
def to_duckdb(bucket: S3Bucket, database: str) -> list[str]:
    """Load the batches that are new or have changed since the last time.

    Each batch is replaced in one transaction, together with what is noted of it: whatever dies when, no
    batch is there twice or in part, and the next run goes on.

    Args:
        bucket: The S3 Bucket block in which the batches are.
        database: The path of the database, which is made if it is not there.

    Returns:
        The names of the batches that were loaded.
    """
    loaded, failed = list[str](), list[str]()
    with duckdb.connect(database) as connection:
        connection.execute("create table if not exists loaded (batch text primary key, tag text)")
        known = dict(connection.execute("select batch, tag from loaded").fetchall())
        for tables in changed_batches(bucket, known):
            try:
                load(connection, tables)
                loaded.append(tables.batch)
            except duckdb.Error as error:  # which holds up no other batch
                failed.append(f"{tables.batch!r}: {error}")
    get_run_logger().info("%d batches were new or had changed", len(loaded))
    if failed:
        raise RuntimeError(f"{len(failed)} batches could not be loaded; first {failed[0]}")
    return loaded


def load(connection: duckdb.DuckDBPyConnection, tables: BatchTables) -> None:
    """Put a batch in the place of what the database has of it."""
    connection.begin()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in tables.parquet().items():
                path = Path(folder, name)
                path.write_bytes(content)
                replace(connection, name, path, tables.batch)
        connection.execute("insert or replace into loaded values (?, ?)", [tables.batch, tables.tag])
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def replace(connection: duckdb.DuckDBPyConnection, table: str, path: Path, batch: str) -> None:
    """Replace the rows of a batch in a table by those of a file."""
    rows, file = "select * from read_parquet(?)", [str(path)]
    connection.execute(f"create table if not exists {table} as {rows} limit 0", file)
    there = columns(connection, f"describe {table}", [])
    for name, kind in columns(connection, f"describe {rows}", file).items():
        if name not in there:  # a later version of the package has made it
            connection.execute(f"alter table {table} add column {name} {kind}")
        elif there[name] != kind:  # it has more fields than it had
            connection.execute(f"alter table {table} alter column {name} set data type {kind}")
    connection.execute(f"delete from {table} where batch = ?", [batch])
    connection.execute(f"insert into {table} by name {rows}", file)


def columns(connection: duckdb.DuckDBPyConnection, query: str, values: list[str]) -> dict[str, str]:
    """Names and types of a table's columns."""
    return {row[0]: row[1] for row in connection.execute(query, values).fetchall()}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Keep a DuckDB database up to date with a bucket.")
    parser.add_argument("database", help="the path of the database")
    parser.add_argument("--bucket", default="nanobanana", help="name of the S3 Bucket block")
    parser.add_argument("--serve", action="store_true", help="load after each run from now on")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Load what is new, once or whenever a run has finished."""
    options = parse(argv)
    database = str(Path(options.database).resolve())
    if not options.serve:
        bucket = S3Bucket.load(options.bucket)
        assert isinstance(bucket, S3Bucket)
        to_duckdb(bucket, database)
        return 0
    finished = DeploymentEventTrigger(
        name="Nano Banana: a run has finished",
        expect={"nanobanana.run.finished", "nanobanana.batch.published"},
        match={"prefect.resource.id": "nanobanana.batch.*"},
        threshold=1,
        within=timedelta(0),
    )
    to_duckdb.serve(
        name="warehouse",
        description="Loads what is new in the bucket into a DuckDB database, after each run.",
        parameters={
            "bucket": {"$ref": {"block_document_slug": f"s3-bucket/{options.bucket}"}},
            "database": database,
        },
        triggers=[finished],
        # DuckDB lets one process write; a load that waits finds what came in the meantime.
        global_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
        ),
        tags=["nanobanana"],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
