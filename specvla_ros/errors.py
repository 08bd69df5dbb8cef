"""The one base of the errors that are the user's to fix, and how messages show a value."""

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


def one_line(said: object, most: int | None = None) -> str:
    """Return an error or a text in one line, cut to `most` characters; an empty error's type."""
    line = ' '.join(str(said).split())[:most]
    return line or (type(said).__name__ if isinstance(said, BaseException) else '')


def counted(count: int, noun: str, several: str = '') -> str:
    """Return a number with its noun: '1 frame', '2 frames'; several: the plural, if not with s."""
    return f'{count} {noun if count == 1 else several or noun + "s"}'


def shown(value: object) -> str:
    """Return a value as a message shows it: one short line, whatever it is."""
    return one_line(_SHORT.repr(value))
