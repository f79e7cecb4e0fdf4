"""`python -m gateway` is the command `faregate`."""

from gateway.cli import main

main()
