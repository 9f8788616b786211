"""The command `ui`: MLflow's pages on this machine, opened at the saved view of the runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

import typer

from knowsub.config import load_params
from knowsub.tracking import view

QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""What the pages need not start."""


def serve(port: int, browser: bool) -> int:
    """Print and open the address of the saved view; serve until interrupted, return the status.

    Raises ValueError if params.yaml is mistaken or the store cannot be read.
    """
    uri, path = view(load_params())
    address = uri if uri.startswith("http") else f"http://127.0.0.1:{port}"
    shown = f"{address.rstrip('/')}/{path}"
    typer.echo(f"One row per experiment: {shown}")
    if address == uri:  # a server that runs already
        return 0 if not browser or webbrowser.open(shown) else 1
    if browser:
        threading.Thread(target=open_when_there, args=(address, shown), daemon=True).start()
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "ui", "--host", "127.0.0.1"]
    command = [*mlflow, "--port", str(port), "--workers", "1", "--backend-store-uri", uri]
    try:
        return subprocess.run(command, env=os.environ | QUIET, check=False).returncode
    except KeyboardInterrupt:
        return 0


def open_when_there(address: str, shown: str, seconds: float = 60.0) -> bool:
    """Open a page once its server answers; return whether it did within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=1):
                return webbrowser.open(shown)
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    return False
