#!/bin/sh
# Make a Debian package of collab from a wheelhouse.
#   build.sh WHEELHOUSE OUT     writes OUT/collab-node_VERSION-REVISION_ARCHITECTURE.deb
#   REVISION=2                  of the packaging, to be newer than the same version before
# Needs dpkg-deb alone; the processor may be another than this one.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
wheelhouse=${1:?name a wheelhouse, as "make wheelhouse" makes it}
out=${2:?name a directory to write to}

python=$(cat "$wheelhouse/python")
next=${python%.*}.$((${python#*.} + 1))
name=${wheelhouse##*/}
version=$(echo "$name" | cut -d- -f2)-${REVISION:-1}
case ${name##*-} in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) echo "build: no Debian name for the processor of $name" >&2; exit 1 ;;
esac

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
umask 022
home=$tree/usr/lib/collab
doc=$tree/usr/share/doc/collab-node
mkdir -p "$tree/DEBIAN" "$home" "$tree/usr/bin" "$tree/usr/lib/systemd/system" \
    "$tree/usr/lib/sysusers.d" "$tree/usr/lib/tmpfiles.d" "$tree/etc/collab" "$doc/examples"

cp -r "$wheelhouse" "$home/wheelhouse"
find "$home" -type f -exec chmod 644 {} +
chmod 755 "$home/wheelhouse/install-offline.sh"
ln -s ../lib/collab/venv/bin/collab "$tree/usr/bin/collab"
for unit in "$here"/../systemd/*.service; do
    sed 's#/opt/collab/venv#/usr/lib/collab/venv#' "$unit" >"$tree/usr/lib/systemd/system/${unit##*/}"
done
cp "$here/../systemd/collab.sysusers" "$tree/usr/lib/sysusers.d/collab.conf"
cp "$here/../systemd/collab.tmpfiles" "$tree/usr/lib/tmpfiles.d/collab.conf"
cp "$here/../systemd/controller.env" "$tree/etc/collab/controller.env"
cp "$here/../systemd/node.toml" "$here/../systemd/accelerator.conf" "$doc/examples"
cp "$here/copyright" "$doc/copyright"
printf 'collab-node (%s) stable; urgency=medium\n\n  * As released.\n\n -- collab maintainers <collab@example.org>  Thu, 01 Jan 2026 00:00:00 +0000\n' \
    "$version" | gzip -9n >"$doc/changelog.Debian.gz"

size=$(du -sk --exclude=DEBIAN "$tree" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" \
    -e "s/@PYTHON@/$python/" -e "s/@NEXT@/$next/" "$here/control" >"$tree/DEBIAN/control"
echo /etc/collab/controller.env >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "$here/$script" "$tree/DEBIAN/$script"
done
(cd "$tree" && find usr etc -type f -exec md5sum {} + | sort -k 2 >DEBIAN/md5sums)

mkdir -p "$out"
file=collab-node_${version}_$architecture.deb
# Wheels are compressed already.
dpkg-deb --root-owner-group -Zgzip -z1 --build "$tree" "$out/$file.new" >/dev/null
mv "$out/$file.new" "$out/$file"
echo "$out/$file"
