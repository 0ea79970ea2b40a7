# The package in a booted machine: install, serve, upgrade, remove, purge.
. /trial/steps.sh
collab=/usr/lib/collab/venv/bin/collab

dpkg -i /packages/collab-node_*-1_*.deb || fail "not installed"
collab --version | grep -q '^collab [0-9]' || fail "the command is not there"
[ "$(systemctl is-enabled collab-node)" = enabled ] || fail "the node is not enabled"
expect_state collab-node inactive # there are no settings yet
enrol_and_start
deploy_and_ask

sum() { find /var/lib/collab/identity /etc/collab -type f -exec sha256sum {} + | sort; }
kept=$(sum)
old=$(systemctl show --value -p MainPID collab-node)
dpkg -i /packages/collab-node_*-2_*.deb || fail "not upgraded"
expect_state collab-node active
expect_state collab-controller active
[ "$(systemctl show --value -p MainPID collab-node)" != "$old" ] || fail "the upgrade left the old program running"
[ "$(sum)" = "$kept" ] || fail "the upgrade changed keys or settings"
ask # the plan is there again, without a new deployment

dpkg --remove collab-node
[ ! -e /usr/bin/collab ] && [ ! -L /usr/bin/collab ] && [ ! -e /usr/lib/collab ] || fail "the program is still there"
[ "$(systemctl is-active collab-node)" != active ] || fail "the node still runs"
[ "$(sum)" = "$kept" ] || fail "removing took keys or settings"

dpkg -i /packages/collab-node_*-2_*.deb || fail "not installed again"
expect_state collab-node active # settings and state were kept
operator nodes --peers 127.0.0.1:7070 --json | grep -q pi-1 || fail "the node is not the one it was"

dpkg --purge collab-node
for left in /etc/collab /var/lib/collab /var/lib/collab-controller /var/lib/collab-serve /usr/lib/collab; do
    [ ! -e $left ] || fail "$left is left"
done
! id collab 2>/dev/null || fail "the user is left"
echo "trial: passed"
