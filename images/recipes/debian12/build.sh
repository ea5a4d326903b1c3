# Runs mkosi in the tree $1. Its sandbox wants a root that is a mount point; the mounts end with their namespace.
set -e
mount --bind "$1" "$1"
cd "$1"
mount --rbind /dev dev
mount -t proc proc proc
mount --rbind /sys sys
exec chroot . env HOME=/root LANG=C.UTF-8 mkosi --directory /stock build
