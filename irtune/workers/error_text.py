"""The texts of errors, in the line that is shown of them."""

NO_ERROR = "no error was recorded; its process may have been killed, or the disk full"


def last_line(error: str) -> str:
    """The line of a traceback that says what happened."""
    return (error.strip() or NO_ERROR).splitlines()[-1]
