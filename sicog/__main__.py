"""`python -m sicog`, for launchers such as torchrun that start modules."""

from sicog.cli import main

main()
