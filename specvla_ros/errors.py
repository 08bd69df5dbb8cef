"""The one base of the errors that are the user's to fix, and how they show a value."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8


class SpecVLAError(ValueError):
    """
    Bad input: the message names the value found, the values allowed and what to do.

    The command line prints it as one line and exits with code 2; a node logs it and publishes
    nothing.
    """


def shown(value: object) -> str:
    """Return a value as a message shows it: one short line, whatever it is."""
    return ' '.join(_SHORT.repr(value).split())
