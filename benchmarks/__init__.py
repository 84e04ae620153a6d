"""How fast the judge is, beside other ways to run the same model. Run from a checkout: `python -m benchmarks`."""
