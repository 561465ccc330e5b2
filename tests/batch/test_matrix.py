"""Every cell of the fault matrix, against the table in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_matrix import (
    COLUMNS,
    FAULTS,
    STORE_COLUMNS,
    STORE_FAULTS,
    run_cell,
    run_store_cell,
    table,
)

from prefect_nanobanana.sandbox import FAULTS as SANDBOX_FAULTS
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]
PAGE = (Path(__file__).parents[2] / "docs/credits.md").read_text("utf-8")
TOLD = {
    (row[0], column): cell
    for block in PAGE.split("\n\n")
    if block.startswith("| | ")
    for header, *rows in [[line.strip("| ").split(" | ") for line in block.splitlines()]]
    for row in rows
    for column, cell in zip(header[-len(row) + 1 :], row[1:], strict=True)
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("column", COLUMNS)
def test_the_api(s3: LocalS3, column: str, fault: str) -> None:
    assert run_cell(s3, column, fault) == TOLD[FAULTS[fault], column]


@pytest.mark.parametrize("fault", STORE_FAULTS)
@pytest.mark.parametrize("column", STORE_COLUMNS)
def test_the_store(s3: LocalS3, column: str, fault: str) -> None:
    assert run_store_cell(s3, column, fault) == TOLD[STORE_FAULTS[fault], column]


def test_the_table_is_whole() -> None:
    for columns, rows in ((COLUMNS, FAULTS), (STORE_COLUMNS, STORE_FAULTS)):
        names = {name: name for name in rows}
        assert table(lambda column, fault: TOLD[rows[fault], column], columns, rows) in PAGE, names  # noqa: B023
    # Faults of the same kind as one in the table, which test_client.py tries.
    left_out = {"html", "no_credits_told", "429_html", "503_html", "504"}
    assert set(SANDBOX_FAULTS) - set(FAULTS) == left_out
