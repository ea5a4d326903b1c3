#!/bin/bash
# The last module: takes out what others put in and nothing of this initrd uses. Every MiB is hashed about ten
# times on the way to the kernel (firmware, shim, stub, kernel; several banks each).

check() {
    return 255
}

depends() {
    echo dm crypt tpm2-tss
}

install() {
    local lib
    # tpm2-tools and the feature API bring an HTTP client and its relatives; unlocking needs neither.
    rm -f "$initdir"/usr/bin/tpm2* "$initdir"/usr/bin/curl
    for lib in libtss2-fapi libtss2-tcti-cmd libtss2-tcti-mssim libtss2-tcti-swtpm libcurl libgnutls libp11-kit \
        libunistring libidn2 libnghttp2 libssh2 libldap liblber libsasl2 libgssapi_krb5 libkrb5 libkrb5support \
        libk5crypto libkeyutils librtmp libpsl libbrotlicommon libbrotlidec libnettle libhogweed libgmp libtasn1 \
        libffi; do
        rm -f "$initdir"/usr/lib/x86_64-linux-gnu/"$lib".so* "$initdir"/usr/lib/x86_64-linux-gnu/"$lib"-*.so*
    done
    # Nor do security keys, old ciphers, BPF programs, file systems other than the root's, loop devices, and hardware
    # that a virtual machine does not have.
    for lib in libfido2 libcbor libbpf libelf; do
        rm -f "$initdir"/usr/lib/x86_64-linux-gnu/"$lib".so* "$initdir"/usr/lib/x86_64-linux-gnu/"$lib"-*.so*
    done
    rm -f "$initdir"/usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so "$initdir"/usr/sbin/fsck.{minix,fat,cramfs} \
        "$initdir"/usr/sbin/losetup "$initdir"/usr/lib/udev/{fido,ata,cdrom,dmi_memory,v4l}_id \
        "$initdir"/usr/lib/udev/mtd_probe
    rm -f "$initdir"/usr/lib/udev/rules.d/{60-autosuspend,60-cdrom_id,60-drm,60-evdev,60-fido-id,60-input-id}.rules \
        "$initdir"/usr/lib/udev/rules.d/60-persistent-{alsa,input,storage-tape,v4l}.rules \
        "$initdir"/usr/lib/udev/rules.d/{60-sensor,64-btrfs,70-joystick,70-memory,70-mouse,70-touchpad}.rules \
        "$initdir"/usr/lib/udev/rules.d/{70-uaccess,71-seat,73-seat-late,75-probe_mtd,78-sound-card}.rules
    # Of the drivers for disks made of disks, only encryption's.
    find "$initdir"/usr/lib/modules/*/kernel/drivers/md -type f ! -name 'dm-mod.ko*' ! -name 'dm-crypt.ko*' -delete
    rm -f "$initdir"/usr/lib/modules/*/kernel/crypto/tcrypt.ko* "$initdir"/usr/lib/modules/*/kernel/lib/raid6/*.ko* \
        "$initdir"/usr/lib/modules/*/kernel/lib/zstd/zstd_compress.ko*
    # Generators that never have anything to generate here; each is a process on every boot.
    rm -f "$initdir"/usr/lib/systemd/system-generators/systemd-{debug,hibernate-resume,veritysetup,integritysetup}-generator
    # Units whose work somebody else does: dracut loads dm_mod, the kernel makes the device nodes, root owns them.
    rm -f "$initdir"/usr/lib/systemd/system/sysinit.target.wants/{kmod-static-nodes,systemd-sysusers,systemd-sysctl,systemd-modules-load}.service \
        "$initdir"/usr/lib/systemd/system/timers.target.wants/* \
        "$initdir"/usr/lib/systemd/system/sockets.target.wants/systemd-journald-audit.socket
}
