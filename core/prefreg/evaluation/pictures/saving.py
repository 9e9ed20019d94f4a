"""Where the picture that a command's --plot asked for goes."""

from pathlib import Path

from matplotlib.figure import Figure

from prefreg.errors import OutputError


def save_plot(figure: Figure, destination: Path) -> None:
    """Write the picture.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        figure.savefig(destination, dpi=150)
    except OSError as error:
        raise OutputError(
            f"{destination} cannot be written: {error.strerror}. Name another file with --plot."
        ) from error
