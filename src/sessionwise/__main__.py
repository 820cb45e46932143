"""``python -m sessionwise``: the command line of this very Python, where no script is on the path."""

from sessionwise.cli import main

if __name__ == "__main__":
    main()
