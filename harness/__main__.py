"""`python -m harness`: the command line without its script."""

from harness.cli import main

main()
