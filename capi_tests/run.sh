#!/bin/sh
# Runs test programs, several at the same time, although some fail; then names those that failed.
#
#   run.sh JOBS LOGS [COMMAND...] -- PROGRAM...    COMMAND stands before each program; LOGS is the folder for their output
#
# Each program's output is printed when it has ended, in one piece. Exit code 1 if one failed.
set -u

jobs=$1 logs=$2
shift 2
before=
while [ $# -gt 0 ] && [ "$1" != -- ]; do before="$before $1"; shift; done
shift
rm -rf "$logs"
mkdir -p "$logs"

PAR_RUN_LOGS=$logs PAR_RUN_BEFORE=$before
export PAR_RUN_LOGS PAR_RUN_BEFORE
printf '%s\n' "$@" | xargs -P "$jobs" -I PROGRAM sh -c '
    name=$(basename PROGRAM)
    # Leaks are not counted in fork, where the library forgets by contract what it cannot end in a child, and in threads, where
    # tokio cannot take back a start that the system refused.
    case "$name $PAR_RUN_BEFORE" in "fork "*valgrind* | "threads "*valgrind*) PAR_RUN_BEFORE="$PAR_RUN_BEFORE --leak-check=no" ;; esac
    began=$(date +%s)
    $PAR_RUN_BEFORE PROGRAM >"$PAR_RUN_LOGS/$name" 2>&1 || echo "$name" >>"$PAR_RUN_LOGS/FAILED"
    printf "== %s (%s s)\n%s\n" "$name" $(($(date +%s) - began)) "$(cat "$PAR_RUN_LOGS/$name")"'
if [ -s "$logs/FAILED" ]; then
    echo "FAILED: $(sort "$logs/FAILED" | tr '\n' ' ')"
    exit 1
fi
