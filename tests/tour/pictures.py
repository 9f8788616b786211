"""Pictures of MLflow's UI: the list of experiments, and two of them side by side.

python -m tests.tour.pictures <checkout with the store> <folder for the pictures>
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from knowsub.tracking import view_path
from tests.browser import Page, browser
from tests.tour.store import all_runs, experiments

BEFORE = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
"""Keeps the pane of MLflow's assistant closed."""
DIFFERENCES = "document.querySelectorAll('button[role=switch]').forEach((one) => one.click())"
"""Shows differing parameters, figures and tags alone on the page that compares runs."""
FOLD = """
const headings = [...document.querySelectorAll('[role=button]')];
headings.find((one) => one.innerText == 'Visualizations').click()
"""
"""Folds the charts of that page."""


@contextmanager
def ui(folder: Path) -> Iterator[str]:
    """MLflow's UI over the store of a clone, on loopback; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            *command,
            "--backend-store-uri",
            f"sqlite:///{folder}/mlflow/mlflow.db",
        ],
        env=os.environ
        | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", process)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, "mlflow ui has ended"
        assert time.monotonic() < deadline, "mlflow ui does not answer"
        try:
            with urllib.request.urlopen(address):
                return
        except urllib.error.URLError:
            time.sleep(0.3)


def open_list(page: Page, address: str, folder: Path) -> str:
    """Open the saved view of the run list; return its text."""
    group, _ = all_runs(folder)
    page.open(f"{address}/{view_path(group)}", 2080, 620, BEFORE)
    return page.wait_for("mean/target_ppl_ratio", *experiments(folder))


def open_comparison(page: Page, address: str, folder: Path, names: tuple[str, str]) -> str:
    """Open the page that compares two experiments; return its text."""
    group, _ = all_runs(folder)
    known = experiments(folder)
    runs = json.dumps([known[name].info.run_id for name in names])
    place = f'#/compare-runs?runs={runs}&experiments=["{group}"]&workflowType=machine_learning'
    page.open(f"{address}/{place}", 1300, 1150, BEFORE)
    return page.wait_for("Comparing 2 Runs", "Show diff only", *names, "mean/")


def take(folder: Path, out: Path) -> None:
    """Save both pictures: all experiments, and the newest beside the oldest.

    Args:
        folder: Checkout with the store.
        out: Folder for `mlflow-runs.png` and `mlflow-comparison.png`.
    """
    out.mkdir(parents=True, exist_ok=True)
    newest, *_, oldest = experiments(folder)
    listed, compared = out / "mlflow-runs.png", out / "mlflow-comparison.png"
    with (
        tempfile.TemporaryDirectory() as profile,
        ui(folder) as address,
        browser(Path(profile)) as page,
    ):
        open_list(page, address, folder)
        page.picture(listed)
        open_comparison(page, address, folder, (oldest, newest))
        page.value(FOLD)
        page.value(DIFFERENCES)
        page.picture(compared)
    for path in (listed, compared):
        Image.open(path).convert("RGB").quantize(160).save(path, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
