"""Run the command line as `python -m prefreg`."""

from prefreg.cli.entry import main

if __name__ == "__main__":
    main()
