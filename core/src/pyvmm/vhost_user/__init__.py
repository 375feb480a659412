"""vhost-user: virtio devices that another process serves, over a Unix socket (QEMU's docs/interop/vhost-user.rst)."""
