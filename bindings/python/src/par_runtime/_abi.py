"""Generated from include/par_ffi.h by bindings/generate.py; do not edit."""

from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int32, c_int64, c_size_t, c_ssize_t, c_uint32, c_uint64, c_void_p

CALLBACK = CFUNCTYPE(None, c_size_t, c_uint64, c_void_p, c_size_t)
DESTROY = CFUNCTYPE(None, c_size_t)

ABI_VERSION = 0x00010000

OK = 0
PENDING = 1
TIMEOUT = 2
END = 3
WOKEN = 4
ERR_NULL_ARG = -1
ERR_INVALID_ARG = -2
ERR_UTF8 = -3
ERR_JSON = -4
ERR_SCHEMA = -5
ERR_TOO_LARGE = -6
ERR_ABI = -7
ERR_UNSUPPORTED = -8
ERR_BAD_HANDLE = -30
ERR_CLOSED = -31
ERR_BUSY = -32
ERR_WOULD_DEADLOCK = -33
ERR_FORKED = -34
ERR_STALE_TOKEN = -35
ERR_NO_HANDLER = -36
ERR_NOT_FOUND = -37
ERR_EXISTS = -38
ERR_LIMIT = -39
ERR_CANCELLED = -60
ERR_DEADLINE = -61
ERR_PROVIDER = -62
ERR_RATE_LIMITED = -63
ERR_AUTH = -64
ERR_NETWORK = -65
ERR_TOOL = -66
ERR_GUARD = -67
ERR_CONTENT_FILTER = -68
ERR_CONTEXT_LENGTH = -69
ERR_PERSISTENCE = -70
ERR_MCP = -71
ERR_WORKFLOW = -72
ERR_APPROVAL = -73
ERR_UNSUPPORTED_BY_PROVIDER = -74
ERR_INVALID_OUTPUT = -75
ERR_INTERNAL = -90
ERR_PANIC = -91
ERR_OUT_OF_MEMORY = -92
ERR_IO = -93

#: name: (result, arguments)
FUNCTIONS = {
    "par_abi_version": (c_uint32, ()),
    "par_version": (c_char_p, ()),
    "par_build_info": (c_char_p, ()),
    "par_status_name": (c_char_p, (c_int32,)),
    "par_free": (None, (c_void_p,)),
    "par_error_status": (c_int32, (c_void_p,)),
    "par_error_message": (c_char_p, (c_void_p,)),
    "par_error_json": (c_char_p, (c_void_p,)),
    "par_error_free": (None, (c_void_p,)),
    "par_runtime_create": (c_int32, (c_uint32, c_char_p, c_size_t, POINTER(c_void_p), POINTER(c_void_p),)),
    "par_runtime_info": (c_int32, (c_void_p, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_runtime_close": (c_int32, (c_void_p, c_int64, POINTER(c_void_p),)),
    "par_runtime_free": (None, (c_void_p,)),
    "par_register_agent": (c_int32, (c_void_p, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_unregister_agent": (c_int32, (c_void_p, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_register_tool": (c_int32, (c_void_p, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_unregister_tool": (c_int32, (c_void_p, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_register_provider": (c_int32, (c_void_p, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_list": (c_int32, (c_void_p, c_char_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_invoke": (c_int32, (c_void_p, c_char_p, c_size_t, c_int64, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_call": (c_int32, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_int64, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_call_start": (c_int32, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, POINTER(c_void_p), POINTER(c_void_p),)),
    "par_stream_start": (c_int32, (c_void_p, c_char_p, c_size_t, POINTER(c_void_p), POINTER(c_void_p),)),
    "par_stream_poll": (c_int32, (c_void_p, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_stream_wait": (c_int32, (c_void_p, c_int64, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_stream_drain": (c_int32, (c_void_p, c_uint32, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_stream_result": (c_int32, (c_void_p, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_stream_info": (c_int32, (c_void_p, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_stream_cancel": (c_int32, (c_void_p, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_stream_wake": (c_int32, (c_void_p,)),
    "par_stream_fd": (c_int32, (c_void_p, POINTER(c_ssize_t), POINTER(c_void_p),)),
    "par_stream_free": (None, (c_void_p,)),
    "par_run_cancel": (c_int32, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_run_steer": (c_int32, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_run_status": (c_int32, (c_void_p, c_char_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_tool_complete": (c_int32, (c_void_p, c_uint64, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_tool_fail": (c_int32, (c_void_p, c_uint64, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_tool_progress": (c_int32, (c_void_p, c_uint64, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_approval_resolve": (c_int32, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, POINTER(c_void_p),)),
    "par_inbox_poll": (c_int32, (c_void_p, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_inbox_wait": (c_int32, (c_void_p, c_int64, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_inbox_drain": (c_int32, (c_void_p, c_uint32, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
    "par_inbox_wake": (c_int32, (c_void_p,)),
    "par_inbox_fd": (c_int32, (c_void_p, POINTER(c_ssize_t), POINTER(c_void_p),)),
    "par_on_tool": (c_int32, (c_void_p, CALLBACK, c_size_t, DESTROY, POINTER(c_void_p),)),
    "par_on_approval": (c_int32, (c_void_p, CALLBACK, c_size_t, DESTROY, POINTER(c_void_p),)),
    "par_on_event": (c_int32, (c_void_p, CALLBACK, c_size_t, DESTROY, POINTER(c_void_p),)),
    "par_on_log": (c_int32, (c_void_p, c_int32, CALLBACK, c_size_t, DESTROY, POINTER(c_void_p),)),
    "par_on_wakeup": (c_int32, (c_void_p, CALLBACK, c_size_t, DESTROY, POINTER(c_void_p),)),
    "par_echo": (c_int32, (c_char_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_void_p),)),
}
