#!/bin/busybox sh
# PID 1 of the emulated machine: modules, the job's root, the job, power off.
# Whatever fails here ends the shell, so the kernel panics and the machine is gone
# without having reported a status: a failure for the waiting xtask.
set -eu
busybox=/bin/busybox

$busybox mount -t devtmpfs dev /dev
$busybox mount -t sysfs sys /sys
while read -r module; do
    $busybox insmod "/modules/$module"
done < /modules/order

# The disk appears while its driver's module is being inserted, or soon after.
until [ -b /dev/vda ]; do $busybox sleep 0.05; done
$busybox mount -t ext4 -o noatime /dev/vda /root
cd /root
$busybox mount -t proc proc proc
$busybox mount -t sysfs sys sys
$busybox mount -t devtmpfs dev dev
$busybox mkdir -p dev/pts dev/shm
$busybox mount -t devpts devpts dev/pts
$busybox ifconfig lo 127.0.0.1 up

port() {
    for port in /sys/class/virtio-ports/*; do
        read -r name < "$port/name"
        [ "$name" != "$1" ] || echo "dev/${port##*/}"
    done
}
exec > "$(port output)" 2>&1 3> "$(port status)" 4> "$(port threads)" < /dev/null
echo up >&3
$busybox chroot . /bin/sh /job
$busybox poweroff -f
