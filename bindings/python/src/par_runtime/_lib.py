"""Loads libpar and turns its calling convention into Python's: bytes in, bytes out, errors raised.

The library is the one in the package; `PAR_LIBRARY` names another. Nothing is ever downloaded.
"""

import ctypes
import os
import sys
from ctypes import byref, c_size_t, c_ssize_t, c_void_p, string_at
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


def check(function, *arguments):
    """Calls a function that gives back nothing but a status."""
    err = c_void_p()
    status = function(*arguments, byref(err))
    if status < 0:
        fail(status, err)
    return status


def fetch(function, *arguments):
    """Calls a function that gives back a text: its status, and the text as bytes, or None."""
    out, size, err = c_void_p(), c_size_t(), c_void_p()
    status = function(*arguments, byref(out), byref(size), byref(err))
    if status == 0:
        text = string_at(out, size.value)
        _free(out)
        return 0, text
    if status < 0:
        fail(status, err)
    return status, None


def create(function, *arguments):
    """Calls a function that gives back a handle."""
    out, err = c_void_p(), c_void_p()
    status = function(*arguments, byref(out), byref(err))
    if status < 0:
        fail(status, err)
    return out


def descriptor(function, handle):
    """Calls a function that gives back a file descriptor."""
    fd, err = c_ssize_t(), c_void_p()
    status = function(handle, byref(fd), byref(err))
    if status < 0:
        fail(status, err)
    return fd.value
