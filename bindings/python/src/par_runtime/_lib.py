"""Loads libpar and turns its calling convention into Python's: bytes in, bytes out, errors raised.

The library is the one in the package; `PAR_LIBRARY` names another. Nothing is ever downloaded.
"""

import ctypes
import json
import os
import sys
from ctypes import c_size_t, c_ssize_t, c_void_p, string_at
from pathlib import Path

from . import _abi
from .errors import error_from_json

_NAMES = {"darwin": "libpar.dylib", "win32": "par.dll"}


def _load():
    path = os.environ.get("PAR_LIBRARY") or str(Path(__file__).parent / _NAMES.get(sys.platform, "libpar.so"))
    try:
        lib = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"libpar cannot be loaded from {path}: {error}. Reinstall par-runtime, or set PAR_LIBRARY.") from error
    for name, (result, arguments) in _abi.FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


lib = _load()

_error_json, _error_free, _free = lib.par_error_json, lib.par_error_free, lib.par_free


def fail(status, err):
    """Raises the error of a call, and frees its object."""
    text = _error_json(err)
    _error_free(err)
    raise error_from_json(status, text)


#: Where a call puts its text, the text's length and its error. Kept for the next call, since making the three costs as
#: much as a call; a list's `pop` and `append` are atomic, so a thread or a signal handler takes what nobody else has.
#: Wherever a pointer is expected, ctypes takes the object itself and passes its address: that is quicker than `byref`.
_spare: "list[tuple[c_void_p, c_size_t, c_void_p]]" = []


def check(function, *arguments):
    """Calls a function that gives back nothing but a status."""
    err = c_void_p()
    status = function(*arguments, err)
    if status < 0:
        fail(status, err)
    return status


def fetch(function, *arguments):
    """Calls a function that gives back a text: its status, and the text as bytes, or None."""
    try:
        outs = _spare.pop()
    except IndexError:
        outs = c_void_p(), c_size_t(), c_void_p()
    status = function(*arguments, *outs)
    out, size, err = outs
    text = None
    if status == 0:
        text = string_at(out, size.value)
        _free(out)
    elif status < 0:
        fail(status, err)
    _spare.append(outs)
    return status, text


def create(function, *arguments):
    """Calls a function that gives back a handle."""
    out, err = c_void_p(), c_void_p()
    status = function(*arguments, out, err)
    if status < 0:
        fail(status, err)
    return out


def descriptor(function, handle):
    """Calls a function that gives back a file descriptor."""
    fd, err = c_ssize_t(), c_void_p()
    status = function(handle, fd, err)
    if status < 0:
        fail(status, err)
    return fd.value


# ---- JSON
#
# What the library writes is one compact UTF-8 value, so the decoder need not look for an encoding or for white space, as
# `json.loads` does for longer than a small event takes; and the encoder is made once, not for every request.

_decode_value = json.JSONDecoder().raw_decode
_encode_value = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def decode(text: bytes):
    """A value as the library wrote it."""
    return _decode_value(text.decode())[0]


def decode_last(events: bytes):
    """The last event of an array, without decoding the others. None if it takes decoding them to find it.

    What looks like the beginning of an event may be one that a tool's input or a tag has inside: then it ends too early.
    """
    start = events.rfind(b'{"v":1,"seq":')
    if start < 0:
        return None
    last = events[start:-1].decode()
    event, end = _decode_value(last)
    return event if end == len(last) else None


def encode(value) -> bytes:
    """A value for the library."""
    return _encode_value(value).encode()
