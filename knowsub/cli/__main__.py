"""`python -m knowsub.cli` is the command `knowsub`."""

from knowsub.cli.app import app

app(prog_name="knowsub")
