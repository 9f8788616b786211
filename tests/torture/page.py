"""The table of what was tried, and the page that it is published on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence

from tests.pipeline.conftest import ROOT
from tests.torture.ground import Outcome

HEAD = """# What survives

`make torture` does on tiny settings what may go wrong overnight, and compares with a run that was
left alone. Results are compared byte for byte; dates, seconds, commits and identifiers of runs are
left out of what is text.

"""
LIMITS = """
## What does not survive, or not by itself

- **A power cut.** Masks and checkpoints are on the disk before they take their name. Other files of
  a stage are not: if the machine, not the process, stops within seconds after a stage, look at
  `dvc status` and run `dvc repro --force` for stages whose files are empty.
- **The stage that was killed starts again.** `train`, and finetuning runs above some seconds, go on
  from their last checkpoint; the other stages start afresh.
- **`dvc` killed alone leaves its stage running.** Run `dvc repro` again: the new stage says which
  process it waits for, then does the work again. `kill` that process to be faster.
- **A lock of DVC whose process number was given to another process.** DVC says that a path is busy
  and names the process; if that process is not DVC: `rm .dvc/tmp/rwlock`.
- **Two `dvc exp run` in the same second.** One of them says "Unable to acquire lock" and ends
  before any work; start it again, or begin with `dvc --wait-for-lock`.
- **The columns of `curve.csv`** stand in another order if a search went on from a checkpoint; its
  figures, the mask and the summary are the same.
- **A queue whose worker is killed.** The task stays "Running" for DVC: `dvc queue kill --all`, then
  `dvc queue start` and queue it again. What it computed is in DVC's cache and in its checkpoint.
- **Several machines on one checkout.** Locks are those of the system; a network file system that
  does not support them supports no two writers.
- **Another machine, build of torch or number of threads** rounds differently, so masks differ in
  some weights there. What is promised is: the same commit, machine and threads, the same bytes.
"""


def table(found: Sequence[Outcome]) -> str:
    """Return the outcomes as a table in Markdown."""
    lines = ["| case | tried | survived | lost |", "|---|---:|---:|---:|"]
    for one in found:
        survived = one.tried - len(one.lost)
        tried = f"{one.tried:,}" if one.tried else "–"
        lines.append(f"| {one.case} | {tried} | {max(0, survived):,} | {len(one.lost):,} |")
    lost = [f"- {one.case}: {line}" for one in found for line in one.lost]
    notes = [f"- {one.case.partition(':')[0]}: {one.note}" for one in found if one.note]
    for title, entries in (("Lost", lost), ("Notes", notes)):
        if entries:
            lines += ["", f"**{title}**", "", *entries]
    return "\n".join(lines) + "\n"


def page(found: Sequence[Outcome], seconds: float) -> str:
    """Return the page with its date."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    where = f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    when = f"{today}, commit `{commit}`, {where}, {seconds / 60:.0f} minutes.\n\n"
    return HEAD + when + table(found) + LIMITS
