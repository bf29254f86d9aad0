#!/usr/bin/env python3
"""Generates what follows from include/par_ffi.h: include/par.abi.json, and the low-level layer of every binding.

    generate.py          writes
    generate.py --check  fails if a file is not what would be written

A function's tags (@thread, @blocks, @returns, @since) are part of the description; one that lacks a tag is an error.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "include" / "par_ffi.h"

FUNCTION = re.compile(r"/\*((?:(?!\*/).)*)\*/\s*PAR_EXPORT\s+([\w\s]+?[\s*]+)(par_\w+)\(([^)]*)\);", re.S)
STATUS = re.compile(r"#define (PAR_(?:OK|PENDING|TIMEOUT|END|WOKEN|ERR_\w+))\s+\(?(-?\d+)\)?")


def parse_parameter(text):
    text = " ".join(text.split())
    match = re.fullmatch(r"(.*?)(\w+)", text)
    return {"name": match[2], "type": match[1].strip()}


def parse_tags(comment, name):
    tags = dict(re.findall(r"@(thread|blocks|returns|since)\s+([^@\n]+)", comment))
    tags = {tag: " ".join(value.split()) for tag, value in tags.items()}
    if "@blocks" in comment and "blocks" not in tags:
        tags["blocks"] = "yes"
    for tag in ("thread", "blocks", "since"):
        if tag not in tags:
            sys.exit(f"{HEADER.name}: {name} has no @{tag}")
    return tags


def describe(header):
    functions = []
    for comment, result, name, parameters in FUNCTION.findall(header):
        parameters = [] if parameters.strip() == "void" else [parse_parameter(p) for p in parameters.split(",")]
        functions.append({
            "name": name,
            "result": " ".join(result.split()),
            "parameters": parameters,
            "blocks": not (tags := parse_tags(comment, name))["blocks"].startswith("never"),
            "tags": tags,
        })
    if len(functions) != header.count("PAR_EXPORT ", header.index('extern "C"')):
        sys.exit("a declaration of the header was not understood")
    abi_version = int(re.search(r"PAR_ABI_VERSION (0x[0-9a-f]+)u", header)[1], 16)
    statuses = {name: int(number) for name, number in STATUS.findall(header)}
    return {"abi_version": abi_version, "statuses": statuses, "functions": functions}


CTYPES = {
    "void": "None", "int32_t": "c_int32", "uint32_t": "c_uint32", "int64_t": "c_int64", "uint64_t": "c_uint64",
    "size_t": "c_size_t", "uintptr_t": "c_size_t", "par_status_t": "c_int32", "par_callback_t": "CALLBACK",
    "par_destroy_t": "DESTROY", "const char *": "c_char_p", "intptr_t *": "POINTER(c_ssize_t)",
    "size_t *": "POINTER(c_size_t)",
}


def python(abi):
    """Handles and strings that come out are c_void_p: c_char_p would lose the pointer that par_free wants."""
    def ctype(type_, is_result=False):
        if type_ == "const char *" and is_result:
            return "c_char_p"
        return CTYPES.get(type_) or ("POINTER(c_void_p)" if type_.endswith("**") else "c_void_p")

    lines = [
        '"""Generated from include/par_ffi.h by bindings/generate.py; do not edit."""',
        "",
        "from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int32, c_int64, c_size_t, c_ssize_t, c_uint32, c_uint64, c_void_p",
        "",
        "CALLBACK = CFUNCTYPE(None, c_size_t, c_uint64, c_void_p, c_size_t)",
        "DESTROY = CFUNCTYPE(None, c_size_t)",
        "",
        f"ABI_VERSION = {abi['abi_version']:#010x}",
        "",
    ]
    lines += [f"{name.removeprefix('PAR_')} = {number}" for name, number in abi["statuses"].items()]
    lines += ["", "#: name: (result, arguments)", "FUNCTIONS = {"]
    for function in abi["functions"]:
        arguments = ", ".join(ctype(p["type"]) for p in function["parameters"])
        lines.append(f'    "{function["name"]}": ({ctype(function["result"], True)}, ({arguments}{"," if arguments else ""})),')
    lines += ["}", ""]
    return "\n".join(lines)


def main():
    abi = describe(HEADER.read_text())
    files = {
        ROOT / "include" / "par.abi.json": json.dumps(abi, indent=1) + "\n",
        ROOT / "bindings" / "python" / "src" / "par_runtime" / "_abi.py": python(abi),
    }
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit("out of date, run bindings/generate.py: " + ", ".join(str(path.relative_to(ROOT)) for path in stale))
        return
    for path in stale:
        path.write_text(files[path])
        print(f"wrote {path.relative_to(ROOT)}")


main()
