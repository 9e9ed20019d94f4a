"""Run the command line as `python -m prefreg`."""

from prefreg.cli import main

if __name__ == "__main__":
    main()
