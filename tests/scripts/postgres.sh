#!/bin/sh
# A PostgreSQL server for the tests that are not written in Rust (those start their own: tests/support/postgres.rs).
#
#   postgres.sh run COMMAND...    makes a cluster in a temporary folder, runs COMMAND with PAR_TEST_PG_URL, and removes it
#
# The programs are those of PAR_TEST_PG_BIN, of Debian's postgresql-*, or of the path. Without them COMMAND runs without the
# variable, unless PAR_TEST_REQUIRE_ALL is set. The server refuses to run as root: there it runs as postgres, or nobody.
set -eu

[ "${1:-}" = run ] && [ $# -gt 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
shift

bin=
for folder in "${PAR_TEST_PG_BIN:-}" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) $(echo "$PATH" | tr : ' '); do
    if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then bin=$folder; break; fi
done
if [ -z "$bin" ]; then
    [ -z "${PAR_TEST_REQUIRE_ALL:-}" ] || { echo "postgres.sh: PostgreSQL is needed: apt-get install postgresql" >&2; exit 1; }
    echo "SKIPPED: what needs PostgreSQL (apt-get install postgresql)" >&2
    exec "$@"
fi

as=
if [ "$(id -u)" = 0 ]; then
    if id postgres >/dev/null 2>&1; then user=postgres; else user=nobody; fi
    as="setpriv --reuid=$user --regid=nogroup --clear-groups --"
fi

folder=$(mktemp -d)
chmod 777 "$folder"
stop() {
    status=$?
    (cd / && $as "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null 2>&1) || true
    rm -rf "$folder"
    exit $status
}
trap stop EXIT
trap 'exit 1' INT TERM

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
(cd / && $as "$bin/initdb" -A trust -U postgres -E UTF8 --locale C -N -D "$folder/data" >/dev/null)
(cd / && $as "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/log" \
    -o "-p $port -k $folder -c listen_addresses=127.0.0.1 -c max_connections=300" start >/dev/null)
PAR_TEST_PG_URL="postgres://postgres@127.0.0.1:$port/postgres" "$@"
