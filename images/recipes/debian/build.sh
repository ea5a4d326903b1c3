# Runs mkosi in the tree $1 for the image $2 of the release $3, whose root file system is $4. Its sandbox wants a root that is
# a mount point; the mounts end with their namespace.
set -e
mount --bind "$1" "$1"
cd "$1"
mount --rbind /dev dev
mount -t proc proc proc
mount --rbind /sys sys
inside() {
	chroot . env HOME=/root LANG=C.UTF-8 "$@"
}
inside mkosi --directory /stock --image-id "$2" --hostname "$2" --release "$3" build
# An XFS cannot be made smaller: its partition is made larger, for the LUKS2 header.
if [ "$4" = xfs ]; then
	inside systemd-repart --dry-run=no --offline=yes --size=auto --definitions=/stock/room "/stock/out/$2.raw"
fi
