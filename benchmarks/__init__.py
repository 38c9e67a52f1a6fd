"""What produces the numbers in docs/: ``python -m benchmarks --help``, or ``make bench``."""
