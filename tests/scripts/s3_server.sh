#!/bin/sh
# A real S3-compatible server for the integration tests: moto (https://docs.getmoto.org), which can check signatures.
#
#   s3_server.sh install [DIR]        installs it into DIR
#   s3_server.sh run [DIR] PORT       serves on 127.0.0.1:PORT in the foreground, from memory
#   s3_server.sh installed [DIR]      exit status 0 when `run` would work
#
# DIR defaults to ${XDG_CACHE_HOME:-$HOME/.cache}/libpar-test. Nothing is installed outside it.
set -eu

default_dir=${XDG_CACHE_HOME:-$HOME/.cache}/libpar-test

die() { echo "s3_server.sh: $*" >&2; exit 1; }

installed() { [ -x "$dir/s3/bin/moto_server" ]; }

install() {
    installed && return
    command -v python3 >/dev/null || die "needs python3"
    mkdir -p "$dir"
    rm -rf "$dir/s3"
    python3 -m venv "$dir/s3"
    "$dir/s3/bin/pip" install --quiet --disable-pip-version-check 'moto[server,s3,iam]'
    installed || die "moto has no server"
}

# Whoever starts it makes a key, and then has signatures checked: POST 0 to /moto-api/reset-auth.
run() {
    installed || die "not installed in $dir: run '$0 install $dir' first"
    INITIAL_NO_AUTH_ACTION_COUNT=1000000 exec "$dir/s3/bin/moto_server" -H 127.0.0.1 -p "$port"
}

command=${1:-help}
[ $# -eq 0 ] || shift
dir=$default_dir
case "${1:-}" in *[!0-9]*) dir=$1; shift ;; esac # a port is digits, a directory is not
case $dir in /*) ;; *) dir=$PWD/$dir ;; esac
case $command in
    install | installed) "$command" ;;
    run)
        port=${1:?"usage: s3_server.sh run [DIR] PORT"}
        run ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0"; [ "$command" = help ] || exit 2 ;;
esac
