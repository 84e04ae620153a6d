"""Lets `python -m recipe.cli` stand for `sre`, for launchers such as accelerate."""

from recipe.cli.main import main

if __name__ == "__main__":
    main()
