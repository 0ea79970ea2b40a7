#!/bin/sh
# Install collab from the wheels beside this script; no network is used.
#   install-offline.sh [DIRECTORY]     where the virtual environment goes (default /opt/collab/venv)
#   PYTHON=python3.11                  the interpreter, if python3 is another version
# DIRECTORY becomes a link to DIRECTORY-TIME. It changes when the new environment is complete,
# so what runs keeps its files; the environment before it stays, to go back to.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=${1:-/opt/collab/venv}
wanted=$(cat "$here/python")
python=${PYTHON:-python3}

die() {
    echo "install-offline: $*" >&2
    exit 1
}

have=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || die "cannot run '$python'; set PYTHON"
[ "$have" = "$wanted" ] || die "these wheels are for Python $wanted and '$python' is $have: set PYTHON, or make others"
"$python" -c 'import ensurepip, venv' 2>/dev/null || die "install python$wanted-venv first"
[ -L "$target" ] || [ ! -e "$target" ] || die "$target is not a link that this script made; name another place"

previous=$(readlink "$target" || true)
new=$target-$(date +%Y%m%d%H%M%S)
[ ! -e "$new" ] || new=$new-$$
trap 'rm -rf "$new" "$target.new"' EXIT
trap 'exit 1' INT TERM
mkdir -p "$(dirname "$target")"
"$python" -m venv "$new" || die "'$python -m venv $new' failed"
# Settings of this machine's pip, such as another index, do not count here.
PIP_CONFIG_FILE=/dev/null "$new/bin/python" -m pip install --isolated --quiet --no-input \
    --disable-pip-version-check --no-cache-dir --no-index --no-deps --only-binary=:all: \
    --require-hashes --find-links "$here/wheels" --requirement "$here/pins.txt" ||
    die "pip failed, see above"
"$new/bin/collab" --version >/dev/null || die "what was installed does not run"
ln -s "$(basename "$new")" "$target.new"
mv -T "$target.new" "$target"
trap - EXIT INT TERM

for old in "$target"-2*; do
    case $(basename "$old") in
        "$(basename "$new")" | "$previous") ;;
        *) rm -rf "$old" ;;
    esac
done
echo "installed $("$target/bin/collab" --version) into $target"
