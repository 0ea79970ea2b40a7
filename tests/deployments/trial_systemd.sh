# install.sh in a machine that systemd has booted: install, serve, watchdog, upgrade, uninstall, purge.
. /trial/steps.sh
collab=/usr/local/bin/collab

/source/deployments/systemd/install.sh --wheelhouse /wheelhouse
[ "$(stat -c %U:%a /var/lib/collab)" = collab:700 ] || fail "the state's directory is not the node's own"
systemctl start collab-node
expect_state collab-node inactive # there are no settings yet
enrol_and_start
collab=/opt/collab/venv/bin/collab
deploy_and_ask

echo "status of the node's process:"
grep -E 'NoNewPrivs|Seccomp:|CapEff' "/proc/$(systemctl show --value -p MainPID collab-node)/status"
systemd-analyze security --no-pager collab-node.service | tail -1

# A process that stops beating is started again.
mkdir -p /etc/systemd/system/collab-node.service.d
printf '[Service]\nWatchdogSec=4\n' >/etc/systemd/system/collab-node.service.d/soon.conf
systemctl daemon-reload
systemctl restart collab-node
before=$(systemctl show --value -p MainPID collab-node)
kill -STOP "$before"
for _ in $(seq 120); do
    now=$(systemctl show --value -p MainPID collab-node)
    [ "$now" = "$before" ] || [ "$now" = 0 ] || [ "$(systemctl is-active collab-node)" != active ] || break
    sleep 0.25
done
[ "$now" != "$before" ] || fail "the watchdog did not start the node again"
echo "watchdog: $(systemctl show -p NRestarts collab-node)"
rm -r /etc/systemd/system/collab-node.service.d
ask # the plan is there again, without a new deployment

sum() { find /var/lib/collab/identity /etc/collab -type f ! -name '*.example' -exec sha256sum {} + | sort; }
kept=$(sum)
/source/deployments/systemd/install.sh --wheelhouse /wheelhouse
expect_state collab-node active
[ "$(systemctl show --value -p MainPID collab-node)" != "$now" ] || fail "the upgrade left the old program running"
[ "$(sum)" = "$kept" ] || fail "the upgrade changed keys or settings"
ask

# Wrong settings are said once, not in a loop.
echo 'lisen = []' >>/etc/collab/node.toml
systemctl restart collab-node && fail "a misspelt setting was taken"
expect_state collab-node failed
journalctl --no-pager --unit=collab-node | grep -q 'lisen' || fail "the journal does not name the setting"

/source/deployments/systemd/install.sh --uninstall
[ ! -e /opt/collab ] && [ ! -e /usr/local/bin/collab ] || fail "the program is still there"
[ "$(sum)" != "" ] || fail "uninstalling took the state"
/source/deployments/systemd/install.sh --purge
for left in /etc/collab /var/lib/collab /var/lib/collab-controller /var/lib/collab-serve; do
    [ ! -e $left ] || fail "$left is left"
done
! id collab 2>/dev/null || fail "the user is left"
! ls /etc/systemd/system/collab-* 2>/dev/null || fail "units are left"
echo "trial: passed"
