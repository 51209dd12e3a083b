"""`python -m sonic` is the `sonic` command."""

from sonic.cli import main

main()
