"""The training node's card, and the training log as a table."""

from __future__ import annotations

import csv
import io

from ddpm_kedro.files import Receipt
from ddpm_kedro.pipelines.training import nodes
from ddpm_kedro.pipelines.training.nodes import tabulate_log
from ddpm_kedro.training.train import TrainingReceipts

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


def test_a_training_found_again_has_the_card_it_had(tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(b"weights")
    cards = []
    for status in ("new", "done"):
        facts = {"fingerprint": "f00d", "status": status, "images_seen": 64}
        receipts = TrainingReceipts(*(Receipt(tmp_path / "model", facts) for _ in range(3)))
        monkeypatch.setattr("ddpm_kedro.training.train.train", lambda *_, made=receipts: made)
        monkeypatch.setattr(nodes, "content_hash", lambda path: path.name)
        cards.append(nodes.train_model(None, None, None, None)[-1])
    assert cards[0] == cards[1] == {"model": "model", "fingerprint": "f00d", "images_seen": 64}
