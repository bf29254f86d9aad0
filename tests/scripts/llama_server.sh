#!/bin/sh
# A real OpenAI-compatible server for the integration tests: Debian's prebuilt llama.cpp with a tiny random model.
#
#   llama_server.sh install [DIR]        fetches and makes what is missing in DIR, then prints how to use it
#   llama_server.sh run [DIR] PORT       serves on 127.0.0.1:PORT in the foreground (more llama-server options may follow)
#   llama_server.sh installed [DIR]      exit status 0 when `run` would work
#
# DIR defaults to ${XDG_CACHE_HOME:-$HOME/.cache}/libpar-test. Nothing is installed outside it: the packages are
# unpacked, not installed, and run on the C library they were built for. Each step that is done is not done again.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
default_dir=${XDG_CACHE_HOME:-$HOME/.cache}/libpar-test
suite=sid
packages="llama.cpp-tools libllama0 libggml0 libc6 libgcc-s1 libstdc++6 libssl3t64 libgomp1 zlib1g libzstd1"

die() { echo "llama_server.sh: $*" >&2; exit 1; }

# Fails early where the package manager or the processor family is another.
need() { for tool in "$@"; do command -v "$tool" >/dev/null || die "needs $tool"; done; }

mirror() {
    found=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -m1 -E '/debian/?$' || true)
    [ -n "$found" ] || die "apt has no Debian mirror configured"
    echo "$found"
}

# apt-get with its own lists and cache, blind to what the machine has installed.
private_apt() {
    apt-get -qq \
        -o Dir::Etc::SourceList="$dir/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache" -o Dir::State::Status=/dev/null \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

fetch_server() {
    [ -x "$dir/llama/usr/bin/llama-server" ] && return
    need apt-get dpkg-deb
    echo "fetching llama-server from Debian $suite" >&2
    rm -rf "$dir/apt" "$dir/llama.partial"
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/apt/debs" "$dir/llama.partial"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keyring] $(mirror) $suite main" >"$dir/apt/sources.list"
    private_apt update
    # shellcheck disable=SC2086 # the list is meant to be split
    (cd "$dir/apt/debs" && private_apt download $packages)
    for package in "$dir"/apt/debs/*.deb; do dpkg-deb -x "$package" "$dir/llama.partial"; done
    [ -x "$dir/llama.partial/usr/bin/llama-server" ] || die "Debian's packages hold no llama-server"
    mv "$dir/llama.partial" "$dir/llama" # whole, or not there
    rm -rf "$dir/apt"
}

make_model() {
    [ -s "$dir/tiny.gguf" ] && [ ! "$here/tiny_gguf.py" -nt "$dir/tiny.gguf" ] && return
    need python3
    if ! "$dir/venv/bin/python" -c 'import gguf, numpy' 2>/dev/null; then
        echo "installing gguf and numpy into $dir/venv" >&2
        python3 -m venv --clear "$dir/venv"
        "$dir/venv/bin/pip" install --quiet --disable-pip-version-check gguf numpy
    fi
    "$dir/venv/bin/python" "$here/tiny_gguf.py" "$dir/tiny.gguf.partial" >&2
    mv "$dir/tiny.gguf.partial" "$dir/tiny.gguf"
}

install() {
    mkdir -p "$dir"
    fetch_server
    make_model
    cat <<END
server: $dir/llama/usr/bin/llama-server
model:  $dir/tiny.gguf (as "tiny")
run:    $here/llama_server.sh run $dir PORT
then:   OPENAI_BASE_URL=http://127.0.0.1:PORT/v1 OPENAI_API_KEY=any
END
}

installed() { [ -x "$dir/llama/usr/bin/llama-server" ] && [ -s "$dir/tiny.gguf" ]; }

# The unpacked loader starts the unpacked server with the unpacked libraries; ggml finds its processor code by itself
# only in the system's place, so it is told: the newest variant this processor has the instructions for.
run() {
    installed || die "not installed in $dir: run '$0 install $dir' first"
    root=$(cd "$dir/llama" && pwd -P)
    loader=$(find "$root/usr/lib" "$root/lib" -name 'ld-linux*.so.*' 2>/dev/null | head -n1)
    libraries=$(find "$root/usr/lib" -name '*.so*' -not -path '*/backends*' -not -path '*/gconv/*' -exec dirname {} + | sort -u | paste -sd: -)
    variant=x64
    grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo && variant=haswell
    backend=$(find "$root" -name "libggml-cpu-$variant.so" | head -n1)
    if [ -n "$backend" ]; then export GGML_BACKEND_PATH="$backend"; fi
    exec "$loader" --library-path "$libraries" "$root/usr/bin/llama-server" \
        -m "$dir/tiny.gguf" --alias tiny --host 127.0.0.1 --port "$port" \
        --jinja -c 16384 -np 2 -t 1 --no-warmup --seed 1 "$@"
}

command=${1:-help}
[ $# -eq 0 ] || shift
dir=$default_dir
case "${1:-}" in *[!0-9]*) dir=$1; shift ;; esac # a port is digits, a directory is not
case $dir in /*) ;; *) dir=$PWD/$dir ;; esac
case $command in
    install | installed) "$command" ;;
    run)
        port=${1:?"usage: llama_server.sh run [DIR] PORT"}
        shift
        run "$@" ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0"; [ "$command" = help ] || exit 2 ;;
esac
