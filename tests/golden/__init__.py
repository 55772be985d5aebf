"""Cases from real upstream implementations, run through the project: `python -m tests.golden DIR`."""
