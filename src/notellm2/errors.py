"""The one exception that means "the input is wrong", so that every face of the project reports it alike."""


class InputError(ValueError):
    """Something a user gave is wrong, and the message says what, where, and what to do.

    The message names the file, row or field, what was expected, and the next step. The command line prints it
    without a traceback and exits with 2; a flow's task fails at once, without retries.
    """
