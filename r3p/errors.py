"""The one error that users are meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the value found, what was expected and what to do. The command line
    prints it and exits with status 2; library users can catch it.
    """
