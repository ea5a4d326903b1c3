#!/bin/sh
# Runs inside the new system, after its packages are installed and the overlay is in place. Leaves the parts of
# the UKI in /boot, from where the build takes them: the installed system has no kernel of its own.
set -eu

echo rlc9-uki > /etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 rlc9-uki\n' > /etc/hosts
: > /etc/machine-id
rm -f /etc/ssh/ssh_host_*_key* /var/lib/dbus/machine-id
mkdir -p /boot/efi /root
chmod 0700 /root

systemctl --quiet enable systemd-networkd.service ssh.service ssh-host-key.service
systemctl --quiet disable systemd-networkd-wait-online.service
# What a test machine never needs costs boot time on every run.
systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer man-db.timer getty@tty1.service systemd-hwdb-update.service systemd-pstore.service \
    systemd-rfkill.service systemd-rfkill.socket systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-logind.service dev-hugepages.mount

rm -f /usr/lib/udev/hwdb.bin /etc/udev/hwdb.bin
set -- /boot/vmlinuz-*
kernel=${1#/boot/vmlinuz-}
dracut --quiet --force --kver "$kernel" /boot/initrd
mv "/boot/vmlinuz-$kernel" /boot/vmlinuz
rm -f /boot/System.map-* /boot/initrd.img* /vmlinuz* /initrd.img*
cp /usr/lib/systemd/boot/efi/linuxx64.efi.stub /boot/stub.efi
echo "$kernel" > /boot/kernel-version
cp /usr/lib/os-release /boot/os-release
dpkg-query --show --showformat='${Package} ${Version}\n' > /boot/packages
