"""The shell command `knowsub`."""

from knowsub.cli.app import app as app
