"""vhost-user: virtio devices on the other side of a Unix socket (QEMU's docs/interop/vhost-user.rst)."""
