#!/bin/sh
# Runs inside the new system, after its packages are installed and the overlay is in place. Leaves what it boots from
# in /boot, from where the build takes it: the installed system has no kernel of its own.
set -eu

name=$(cat /etc/hostname)
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" > /etc/hosts
: > /etc/machine-id
rm -f /etc/ssh/ssh_host_*_key* /var/lib/dbus/machine-id
mkdir -p /boot/efi /root
chmod 0700 /root

systemctl --quiet enable systemd-networkd.service ssh.service ssh-host-key.service
systemctl --quiet disable systemd-networkd-wait-online.service
systemctl --quiet set-default multi-user.target
# What a test machine never needs costs boot time on every run: most of a boot without KVM is processes starting.
systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer man-db.timer systemd-tmpfiles-clean.timer \
    getty@tty1.service getty-static.service systemd-logind.service systemd-user-sessions.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-initctl.socket \
    systemd-hwdb-update.service systemd-pstore.service systemd-rfkill.service systemd-rfkill.socket \
    systemd-network-generator.service systemd-sysusers.service systemd-random-seed.service \
    systemd-binfmt.service systemd-firstboot.service systemd-repart.service systemd-machine-id-commit.service \
    systemd-journal-flush.service systemd-journald-audit.socket systemd-modules-load.service \
    systemd-remount-fs.service systemd-sysctl.service systemd-tmpfiles-setup-dev.service \
    systemd-tmpfiles-setup-dev-early.service ldconfig.service systemd-update-done.service \
    systemd-journal-catalog-update.service systemd-hibernate-clear.service systemd-creds.socket \
    systemd-hostnamed.socket systemd-sysext.socket systemd-pcrlock.socket systemd-pcrextend.socket \
    systemd-networkd-persistent-storage.service systemd-udev-load-credentials.service tmp.mount run-lock.mount \
    modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service \
    modprobe@fuse.service modprobe@loop.service kmod-static-nodes.service dracut-shutdown.service \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-tracing.mount sys-kernel-debug.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount \
    proc-sys-fs-binfmt_misc.mount
mkdir -p /etc/systemd/system-generators
# From 253 on, the one that finds partitions by their types has the root file system measured.
auto=gpt-auto
[ ! -e /usr/lib/systemd/systemd-pcrextend ] || auto=
for generator in $auto bless-boot cryptsetup debug hibernate-resume integritysetup rc-local run ssh \
    system-update sysv tpm2 veritysetup; do
    ln -s /dev/null "/etc/systemd/system-generators/systemd-$generator-generator"
done
# Rules for hardware that a virtual machine does not have.
for rules in 60-autosuspend 60-cdrom_id 60-evdev 60-fido-id 60-input-id 60-persistent-alsa \
    60-persistent-input 60-persistent-storage-tape 60-persistent-v4l 60-sensor 64-btrfs 70-camera 70-joystick \
    70-memory 70-mouse 70-touchpad 75-probe_mtd 78-sound-card 90-console-setup 90-iocost 96-e2scrub; do
    [ ! -e "/usr/lib/udev/rules.d/$rules.rules" ] || ln -s /dev/null "/etc/udev/rules.d/$rules.rules"
done
rm -rf /var/log/journal

rm -f /usr/lib/udev/hwdb.bin /etc/udev/hwdb.bin
set -- /boot/vmlinuz-*
kernel=${1#/boot/vmlinuz-}
# The kernel brings /dev/console itself, and a builder without root cannot make devices.
DRACUT_NO_MKNOD=1 dracut --quiet --force --kver "$kernel" /boot/initrd
mv "/boot/vmlinuz-$kernel" /boot/vmlinuz
rm -f /boot/System.map-* /boot/initrd.img* /vmlinuz* /initrd.img*
modules=/usr/lib/grub/x86_64-efi
if [ ! -d "$modules" ]; then
    cp /usr/lib/systemd/boot/efi/linuxx64.efi.stub /boot/stub.efi
else
    # Modules are built in, since Secure Boot loads none: of those that start a kernel, and of those that read snippets, what
    # this version has.
    starters=
    for module in linuxefi peimage blsuki; do
        [ ! -e "$modules/$module.mod" ] || starters="$starters $module"
    done
    version=$(grub-mkimage --version)
    version=${version##* }
    sed -i "s/@GRUB@/${version%%-*}/" /sbat.csv
    # shellcheck disable=SC2086
    grub-mkimage --format=x86_64-efi --output=/boot/grub.efi --prefix=/EFI/rocky --sbat=/sbat.csv \
        all_video boot cat configfile echo ext2 fat font gettext gfxterm gzio halt linux $starters loadenv minicmd \
        normal part_gpt reboot regexp search search_fs_file search_fs_uuid search_label serial sleep test tpm true xfs
    # What GRUB was made from is not needed any more.
    rm -rf /usr/lib/grub /usr/share/grub /sbat.csv /boot/grub
fi
echo "$kernel" > /boot/kernel-version
cp /usr/lib/os-release /boot/os-release
dpkg-query --show --showformat='${Package} ${Version}\n' > /boot/packages
