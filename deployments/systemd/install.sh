#!/bin/sh
# Install collab as services on Raspberry Pi OS and Debian, or bring it up to date.
#
#   install.sh [--wheelhouse DIR] [--python PYTHON]   install or upgrade
#   install.sh --uninstall                            remove the program; settings and state stay
#   install.sh --purge                                remove settings, state, keys and users too
#
# Without --wheelhouse pip fetches the pinned packages from its own index. The program goes to
# /opt/collab, because the system's Python belongs to the system; settings are in /etc/collab,
# state is in /var/lib/collab*. What is there of the two is never overwritten.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
home=/opt/collab
venv=$home/venv
units="collab-node.service collab-controller.service collab-serve.service"
users="collab collab-controller collab-serve"
python=python3
wheelhouse=
action=install

die() {
    echo "install: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --wheelhouse) [ $# -ge 2 ] || die "--wheelhouse: name a directory"; wheelhouse=$2; shift ;;
        --python) [ $# -ge 2 ] || die "--python: name an interpreter"; python=$2; shift ;;
        --uninstall) action=uninstall ;;
        --purge) action=purge ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown option '$1'; see --help" ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || die "run it as root (sudo)"

# The service manager may be absent, as while an image is made.
running() { [ -d /run/systemd/system ]; }

# make_wheelhouse DIR: what `make wheelhouse` makes, for this machine and by its own pip.
make_wheelhouse() {
    root=$here/../..
    [ -f "$root/requirements/device.txt" ] || die "run it in a checkout, or give --wheelhouse"
    "$python" -m venv "$1/venv" || die "install python3-venv first"
    pip="$1/venv/bin/python -m pip --quiet --no-input --disable-pip-version-check"
    $pip download --require-hashes --only-binary=:all: --no-deps --dest "$1/wheels" \
        --requirement "$root/requirements/device.txt"
    $pip install --no-index --find-links "$1/wheels" setuptools
    mkdir "$1/source"
    cp -r "$root/pyproject.toml" "$root/LICENSE" "$root/collab" "$1/source"
    $pip wheel --no-deps --no-index --no-build-isolation --wheel-dir "$1/wheels" "$1/source"
    wheel=$(echo "$1"/wheels/collab-*.whl)
    version=${wheel##*/collab-}
    {
        cat "$root/requirements/device.txt"
        echo "collab==${version%%-*} --hash=sha256:$(sha256sum "$wheel" | cut -d' ' -f1)"
    } >"$1/pins.txt"
    "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' >"$1/python"
    cp "$root/deployments/wheelhouse/install-offline.sh" "$1"
}

remove_program() {
    for unit in $units; do
        if running; then systemctl --quiet disable --now "$unit" 2>/dev/null || true; fi
        rm -f "/etc/systemd/system/$unit" "/etc/systemd/system/multi-user.target.wants/$unit"
    done
    rm -rf "$home"
    rm -f /etc/sysusers.d/collab.conf /etc/tmpfiles.d/collab.conf
    [ "$(readlink /usr/local/bin/collab)" != "$venv/bin/collab" ] || rm -f /usr/local/bin/collab
    if running; then systemctl daemon-reload; fi
}

if [ $action != install ]; then
    remove_program
    if [ $action = purge ]; then
        rm -rf /etc/collab
        for user in $users; do
            rm -rf "/var/lib/${user:?}" "/etc/systemd/system/${user:?}.service.d"
            if id "$user" >/dev/null 2>&1; then userdel "$user"; fi
        done
        rm -rf /etc/systemd/system/collab-node.service.d
        echo "removed collab with its settings, state and keys"
    else
        echo "removed collab; /etc/collab and /var/lib/collab* are as they were"
    fi
    exit 0
fi

command -v systemd-sysusers >/dev/null || die "systemd is missing; deploying.md has ways without it"

if [ -n "$wheelhouse" ]; then
    [ -x "$wheelhouse/install-offline.sh" ] || die "--wheelhouse $wheelhouse: there is no install-offline.sh in it"
    PYTHON=$python "$wheelhouse/install-offline.sh" "$venv"
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    make_wheelhouse "$folder"
    PYTHON=$python "$folder/install-offline.sh" "$venv"
fi

install -D -m 644 "$here/collab.sysusers" /etc/sysusers.d/collab.conf
install -D -m 644 "$here/collab.tmpfiles" /etc/tmpfiles.d/collab.conf
systemd-sysusers /etc/sysusers.d/collab.conf
systemd-tmpfiles --create /etc/tmpfiles.d/collab.conf
install -d -m 755 /etc/collab
install -m 644 "$here/node.toml" /etc/collab/node.toml.example
[ -e /etc/collab/controller.env ] || install -m 644 "$here/controller.env" /etc/collab/controller.env
for unit in $units; do
    install -m 644 "$here/$unit" "/etc/systemd/system/$unit"
done
ln -sfn "$venv/bin/collab" /usr/local/bin/collab

if running; then
    systemctl daemon-reload
    for unit in $units; do
        # What runs goes on with the new program; what does not run is left alone.
        systemctl try-restart "$unit"
    done
fi
cat <<END
next: enrol this device, as the user that the node runs as
    sudo -u collab collab cluster join --identity /var/lib/collab/identity collab1-…
then say where it listens, and start it
    sudo cp /etc/collab/node.toml.example /etc/collab/node.toml
    sudo systemctl enable --now collab-node
END
