"""`python -m pruneopt` is the `pruneopt` command."""

from pruneopt.cli import main

if __name__ == "__main__":
    main()
