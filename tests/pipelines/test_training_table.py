"""The training log as a table."""

from __future__ import annotations

import csv
import io

from ddpm_kedro.pipelines.training.nodes import tabulate_log

LOG = [
    {"images_seen": 32, "loss": 0.1 + 0.2, "elapsed_seconds": 1.5, "note": 'a "b", c'},
    {"images_seen": 64, "loss": None, "held_out_loss": 1e-05, "images_per_second": 9.0},
]


def test_a_row_a_record_and_a_column_a_value_but_no_times():
    columns, *rows = csv.reader(io.StringIO(tabulate_log(LOG)))
    assert columns == ["images_seen", "loss", "note", "held_out_loss"]
    assert [float(row[0]) for row in rows] == [32, 64]
    assert float(rows[0][1]) == 0.1 + 0.2
    assert rows[0][2:] == ['a "b", c', "nan"]  # DVC draws an empty cell as 0
    assert rows[1][1:] == ["nan", "nan", "1e-05"]


def test_times_alone_change_nothing():
    slower = [{**record, "elapsed_seconds": 7.0} for record in LOG]
    assert tabulate_log(slower) == tabulate_log(LOG)


def test_no_log_is_an_empty_table():
    assert tabulate_log([]) == "\n"
