from __future__ import annotations

import pytest

from art_optim import Art, ArtAblation, EqualWeighting
from benchmarks.methods import canonical, create
from benchmarks.restoration.paper import SLIPS, TABLES

ROWS = [(table, row) for table in TABLES.values() for row in table.rows]
KNOWN = [pytest.param(row, id=f"{table.number} {row.label}") for table, row in ROWS if row.by_test_set]


def test_the_tables_with_experiments():
    assert list(TABLES) == [1, 3, 5, 6, 7, 8, 9, 10]
    assert all(number == table.number for number, table in TABLES.items())


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: str(table.number))
def test_rows_are_apart_and_baselines_are_rows_of_equal_weights(table):
    rows = {row.label: row for row in table.rows}
    assert len(rows) == len(table.rows)
    for row in table.rows:
        if row.baseline:
            baseline = rows[row.baseline]
            assert baseline.weightings == ("equal",)
            assert (baseline.models, baseline.schedule) == (row.models, row.schedule)


def test_weightings_are_canonical():
    assert all(canonical(name) == name for _, row in ROWS for name in row.weightings)


@pytest.mark.parametrize("row", KNOWN)
def test_values_by_test_set_average_to_the_printed_average(row):
    average = sum(row.by_test_set.values()) / len(row.by_test_set)
    slip = -0.03 if row.label == "SRResNet-S" else 0  # which the list of slips has
    assert average == pytest.approx(row.psnr + slip, abs=0.0051)


def test_one_experiment_has_one_number():
    assert TABLES[1].rows[0].psnr == TABLES[6].rows[0].psnr
    best = {row.weightings[0]: row.psnr for row in TABLES[5].rows}["art"]
    assert TABLES[1].rows[-1].psnr == best == TABLES[6].rows[1].psnr


def test_what_the_rows_of_the_ablations_are():
    def weightings(number):
        return [create(row.weightings[0]) for row in TABLES[number].rows]

    def bare(**options):
        return ArtAblation(guarded=False, normalize="mean", **options)

    equal, *variants = weightings(1)
    assert equal == EqualWeighting(normalize="mean")
    assert variants == [
        bare(rate="raw", correction="none"),
        bare(rate="smoothed", correction="none"),
        bare(rate="none", correction="ratio"),
        bare(rate="none", correction="log_quotient"),
        Art(normalize="mean"),
    ]
    assert [weighting.decay for weighting in weightings(3)[1:]] == [0.999, 0.99, 0.9]
    assert [weighting.temperature for weighting in weightings(5)] == [0.1, 1, 3, 7, 10]


def test_slips():
    assert len(SLIPS) == len(set(SLIPS)) >= 5
