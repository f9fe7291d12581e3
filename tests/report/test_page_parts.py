"""Tables and figures of a page."""

import base64
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from recmtl.evaluate import Interval
from recmtl.report.elements import Heading, Picture, Table, Text, gallery, table_cell
from recmtl.report.figures import image, steps_picture


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (0.12345, "AUC", "0.1235"),
        (1234567, "rows", "1,234,567"),
        (1234567.0, "positives", "1,234,567"),
        (0.000012345, "mean", "1.234e-05"),
        (123456.0, "mean", "123456.0000"),
        (0.0, "mean", "0.0000"),
        (0.0421, "missing, train", "4.21%"),
        (0.000012, "p, Holm", "1.2e-05"),
        (np.nan, "AUC", "–"),
        (None, "AUC", "–"),
        (pd.NA, "vocabulary", "–"),
        (True, "same", "yes"),
        (3, "expert", "3"),
    ],
)
def test_values_are_formatted_by_column(value: object, column: str, text: str) -> None:
    assert table_cell(value, column).text == text


def test_an_interval_shows_its_ends_and_is_sorted_by_its_estimate() -> None:
    shown = table_cell(Interval(0.7, 0.00001, 0.9))
    assert (shown.text, shown.range, shown.key) == ("0.7000", "0.0000 to 0.9000", 0.7)
    assert table_cell(Interval(0.7, np.nan, np.nan)).range == ""


def test_missing_values_have_no_sort_key() -> None:
    table = Table.of(pd.DataFrame({"a": ["x", None], "rows": [1.0, np.nan]}), "")
    assert [[c.key for c in row] for row in table.rows] == [["x", 1.0], [None, None]]


def test_consecutive_pictures_are_grouped() -> None:
    pictures = [Picture(str(i), "", "", None) for i in range(3)]  # type: ignore[arg-type]
    parts = [Heading("a"), pictures[0], pictures[1], Text("b"), pictures[2]]
    assert gallery(parts) == [parts[:1], parts[1:3], parts[3:4], parts[4:]]


def test_a_task_named_like_a_column_keeps_its_numbers() -> None:
    norms = {"share": ([1, 2], [0.5, 0.0323]), "rows": ([1, 2], [0.25, 0.75])}
    table = steps_picture("norms", "norm", norms).table
    assert [[cell.text for cell in row] for row in table.rows] == [["1", "0.5000", "0.2500"], ["2", "0.0323", "0.7500"]]


def test_characters_that_xml_forbids_are_replaced() -> None:
    uri = image(lambda axes: axes.set_title("a\x00b\x0bc\ufffe<"))
    prefix, _, content = uri.partition(",")
    assert prefix == "data:image/svg+xml;base64"
    svg = base64.b64decode(content).decode()
    assert "a\ufffdb\ufffdc\ufffd&lt;" in svg
    ElementTree.fromstring(svg)
