"""The one error that users are meant to read, and what a training run's exit status says."""

FINISHED = 0
REFUSED = 2  # an InputError: another try changes nothing
STOPPED = 143  # by SIGTERM, with a checkpoint; there is more to do


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the value found, what was expected and what to do. The command line
    prints it and exits with status 2; library users can catch it.
    """
