"""`python -m genenet` is the program `genenet`."""

from genenet.cli import main

main()
