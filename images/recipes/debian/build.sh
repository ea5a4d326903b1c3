# Runs mkosi in the tree $1 for the image $2 of the release $3. Its sandbox wants a root that is a mount point; the
# mounts end with their namespace.
set -e
mount --bind "$1" "$1"
cd "$1"
mount --rbind /dev dev
mount -t proc proc proc
mount --rbind /sys sys
exec chroot . env HOME=/root LANG=C.UTF-8 \
	mkosi --directory /stock --image-id "$2" --hostname "$2" --release "$3" build
