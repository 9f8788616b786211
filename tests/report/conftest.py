from __future__ import annotations

import pytest

from knowsub.report.collect import read_mask_results
from knowsub.report.cross import with_dominance
from knowsub.report.page import write_report
from tests.report.setting import SEEDS, TARGETS, make_report, write_outputs


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The stages' outputs."""
    folder = tmp_path_factory.mktemp("data")
    write_outputs(folder)
    return folder


@pytest.fixture(scope="session")
def results(data):
    return with_dominance(read_mask_results(data, TARGETS, SEEDS))


@pytest.fixture(scope="session")
def report(data, results, tmp_path_factory):
    """The folder of a written report."""
    out = tmp_path_factory.mktemp("report")
    write_report(out, make_report(data, results))
    return out
