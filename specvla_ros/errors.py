"""The one base of the errors that are the user's to fix."""


class SpecVLAError(ValueError):
    """
    Bad input: the message names the value found, the values allowed and what to do.

    The command line prints it as one line and exits with code 2; a node logs it and publishes
    nothing.
    """
