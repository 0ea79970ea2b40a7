#!/bin/bash
# Builds a folder in which qemu-user runs an aarch64 Python with collab's core
# dependencies, so that tests on an x86 machine meet a second runtime class
# (Cortex-A72).  Nothing is installed for arm64 on this system: packages come by a
# private apt state that reuses the system's own sources, wheels by pip.
#
#   tests/arm/build_prefix.sh [PREFIX]     prints PREFIX; at once when it is up to date
#   PREFIX/python script.py                runs a script there
#
# PREFIX defaults to ${XDG_CACHE_HOME:-$HOME/.cache}/collab/arm.  $PYTHON (python3)
# must have pip.  The stamp covers this script and requirements/core.txt.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/collab/arm}
python=${PYTHON:-python3}
requirements=$here/../../requirements/core.txt
stamp=$(cat "${BASH_SOURCE[0]}" "$requirements" | sha256sum | cut -d' ' -f1)

packages=(
    libc6 libgcc-s1 libstdc++6                                # the C and C++ runtimes
    python3.11-minimal libpython3.11-minimal libpython3.11-stdlib
    libbz2-1.0 libcrypt1 libexpat1 libffi8 liblzma5           # what the standard library loads
    libsqlite3-0 libssl3 libuuid1 zlib1g
)

say() { echo "build_prefix: $*" >&2; }
fail() { say "$*"; exit 1; }

need_programs() {
    local missing=()
    command -v qemu-aarch64-static >/dev/null || missing+=(qemu-user-static)
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" -eq 0 ] || fail "install first, as root: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    apt-get -qq update >&2
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >&2
}

# Unpacks the arm64 packages into the folder $1, with apt's own state in $2.
fetch_packages() {
    local root=$1 state=$2
    mkdir -p "$state"/{lists/partial,cache/archives/partial,debs}
    # An empty status file means: nothing is installed, whatever this system has.
    : >"$state/status"
    cat >"$state/apt.conf" <<CONF
APT::Architecture "arm64";
#clear APT::Architectures;
APT::Architectures { "arm64"; };
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Dir::State "$state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
Debug::NoLocking "1";
CONF
    APT_CONFIG=$state/apt.conf apt-get -qq update >&2
    (cd "$state/debs" && APT_CONFIG=$state/apt.conf apt-get -qq download "${packages[@]}" >&2)
    local deb
    for deb in "$state"/debs/*.deb; do dpkg-deb --extract "$deb" "$root"; done
    rm -rf "$root/usr/share/doc" "$root/usr/share/man" "$root/usr/share/lintian"
}

# pip judges the markers of a requirement by the Python that it runs on, so they are
# resolved here for the Python in the prefix.
resolve_markers() {
    "$python" - "$requirements" <<'PYTHON'
import sys
from pip._vendor.packaging.requirements import Requirement

there = {
    "python_version": "3.11",
    "python_full_version": "3.11.2",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "aarch64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
text = "".join(line for line in open(sys.argv[1]) if not line.lstrip().startswith("#"))
for entry in text.replace("\\\n", " ").splitlines():
    name, *hashes = entry.split(" --hash=")
    if name.strip():
        wanted = Requirement(name)
        if wanted.marker is None or wanted.marker.evaluate(there):
            wanted.marker = None
            print(wanted, *(f"--hash={value.strip()}" for value in hashes))
PYTHON
}

fetch_wheels() {
    local root=$1 locked=$2 glibc platforms=()
    resolve_markers >"$locked"
    # Debian 12 has glibc 2.36; pip does not know that a newer one serves older wheels.
    for glibc in $(seq 36 -1 17); do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
    "$python" -m pip install --quiet --no-warn-conflicts --no-deps --no-compile --only-binary=:all: \
        "${platforms[@]}" --platform manylinux2014_aarch64 --python-version 3.11 --implementation cp \
        --require-hashes --requirement "$locked" --target "$root/usr/lib/python3/dist-packages" >&2
}

# What a Raspberry Pi 4 (Cortex-A72) says of its cores.
write_cpuinfo() {
    local core
    mkdir -p "$1/proc"
    for core in 0 1; do
        cat <<CORE
processor	: $core
BogoMIPS	: 108.00
Features	: fp asimd evtstrm crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3

CORE
    done >"$1/proc/cpuinfo"
}

write_launcher() {
    cat >"$1/python" <<'LAUNCHER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec qemu-aarch64-static -cpu cortex-a72 -L "$here" "$here/usr/bin/python3.11" "$@"
LAUNCHER
    chmod +x "$1/python"
}

if [ "$(cat "$prefix/stamp" 2>/dev/null)" = "$stamp" ] && command -v qemu-aarch64-static >/dev/null; then
    echo "$prefix"
    exit
fi
[ -z "$(ls -A "$prefix" 2>/dev/null)" ] || [ -e "$prefix/stamp" ] ||
    fail "$prefix holds something else; name an empty folder"
command -v apt-get >/dev/null || fail "needs apt-get and Debian 12's package sources"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; set PYTHON to one that has"
need_programs

mkdir -p "$(dirname "$prefix")"
work=$(mktemp -d "$prefix.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"
chmod 755 "$work/root"
say "fetching ${#packages[@]} packages"
fetch_packages "$work/root" "$work/apt"
say "fetching wheels"
fetch_wheels "$work/root" "$work/locked.txt"
write_cpuinfo "$work/root"
write_launcher "$work/root"
"$work/root/python" -c "import ssl, sqlite3, ctypes, numpy, ai_edge_litert.interpreter"
echo "$stamp" >"$work/root/stamp"
rm -rf "$prefix"
mv "$work/root" "$prefix"
echo "$prefix"
