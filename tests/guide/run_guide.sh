#!/bin/bash
# Runs the guide: every ```sh run block of a page, in order, in a clean Debian under systemd, as a user with sudo.
#
#   sudo tests/guide/run_guide.sh [PAGE]        default: docs/raspberry-pi.md
#
# Takes a few minutes and 1 GB below $TMPDIR. Needs root, mmdebstrap and systemd-container, a Debian mirror
# ($DEBIAN_MIRROR) and a package index; pip's settings and certificates of this machine are lent to the container.
# It stops at the first command that fails. What needs a board or a camera is in blocks that are not marked, and not run.
set -euo pipefail

repository=$(cd "$(dirname "$0")/../.." && pwd)
page=${1:-$repository/docs/raspberry-pi.md}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
suite=${DEBIAN_SUITE:-bookworm}
for tool in mmdebstrap systemd-nspawn git; do
    command -v "$tool" >/dev/null || { echo "error: $tool is not installed (apt-get install mmdebstrap systemd-container git)" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "error: needs root, for a container of its own" >&2; exit 2; }

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT

echo "== a clean $suite from $mirror"
mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,sudo,ca-certificates "$suite" "$root" "$mirror"

echo "== a user with sudo, and this repository at its last commit"
chroot "$root" useradd --create-home --shell /bin/bash pi
echo guide >"$root/etc/hostname"
echo '127.0.0.1 localhost guide' >"$root/etc/hosts"
echo 'pi ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/pi"
mkdir "$root/home/pi/leukoscope"
git -C "$repository" archive HEAD | tar -x -C "$root/home/pi/leukoscope"
for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then cp --dereference "$file" "$root$file"; fi
done

{
    echo 'set -eux'
    echo 'cd ~/leukoscope'
    awk '/^```sh run$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$page"
    echo ': every block ran'
} >"$root/home/pi/guide.sh"
chroot "$root" chown -R pi:pi /home/pi

cat >"$root/etc/systemd/system/guide.service" <<'UNIT'
[Unit]
Wants=network.target
After=network.target
[Service]
Type=oneshot
User=pi
Environment=LANG=C.UTF-8 PYTHONUNBUFFERED=1
ExecStart=/bin/bash /home/pi/guide.sh
StandardOutput=file:/var/log/guide
StandardError=inherit
TimeoutStartSec=1200
ExecStopPost=+/bin/sh -c 'journalctl -b -u "leukoscope-*" --no-pager >/var/log/units; systemctl poweroff --no-block'
[Install]
WantedBy=multi-user.target
UNIT
ln -s ../guide.service "$root/etc/systemd/system/multi-user.target.wants/guide.service" 2>/dev/null \
    || chroot "$root" systemctl enable guide.service

echo "== $page"
systemd-nspawn --quiet --directory="$root" --machine=guide --register=no --keep-unit --boot \
    --resolv-conf=copy-host --console=pipe </dev/null >"$root.console" 2>&1 || true
cat "$root/var/log/guide"
echo "== what the services said"
cat "$root/var/log/units"
tail -n 1 "$root/var/log/guide" | grep -q 'every block ran' || { echo "error: the guide stopped; console: $root.console" >&2; exit 1; }
rm -f "$root.console"
