"""Columns of tables are declared by the metrics."""

import pytest

from toolkit.contracts import Column, Metric
from toolkit.metrics import PSNR
from toolkit.metrics.columns import columns_of, heading, registered_columns
from toolkit.registry import METRICS
from toolkit.training.validation import score_rows


@pytest.fixture
def sharpness():
    """A registered metric, as a plugin's is once it is in use."""
    @METRICS.register_module()
    class Sharpness(PSNR):
        higher_is_better = {"sharpness": True}
        columns = {"sharpness": Column("sharpness", ".1f", factor=10, unit="%")}

    yield Sharpness
    del METRICS.module_dict["Sharpness"]


def test_a_score_of_a_new_metric_has_its_own_column(sharpness):
    header, rows = score_rows({"tokenizer": {"psnr": 20.0, "sharpness": 1.23}})
    assert header == ["", "PSNR (dB)", "sharpness (%)"] and rows == [["tokenizer", "20.00", "12.3"]]


def test_every_declared_column_is_of_a_score(sharpness):
    for metric in METRICS.module_dict.values():
        assert issubclass(metric, Metric) and metric.columns
    assert registered_columns()["lpips_vgg"] == Column("LPIPS (VGG)", ".3f")


def test_a_metric_without_columns_shows_every_score_under_its_name():
    metric = PSNR()
    metric.columns, metric.higher_is_better = {}, {"psnr": True, "other": False}
    assert columns_of(metric) == {"psnr": Column("psnr"), "other": Column("other")}
    assert heading(Column("PSNR", unit="dB")) == "PSNR (dB)"
