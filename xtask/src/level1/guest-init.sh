#!/bin/busybox sh
# PID 1 of a guest with a distribution's kernel, until the image's root is mounted:
# its drivers for our devices are modules.
set -eu
busybox=/bin/busybox

$busybox mount -t devtmpfs dev /dev
$busybox mount -t proc proc /proc
while read -r module; do
    $busybox insmod "/modules/$module"
done < /modules/order

init=/sbin/init
for word in $($busybox cat /proc/cmdline); do
    case $word in
        init=*) init=${word#init=} ;;
    esac
done
until [ -b /dev/vda ]; do $busybox sleep 0.05; done
$busybox mount -t ext4 -o noatime /dev/vda /root
$busybox umount /proc
$busybox umount /dev
exec $busybox switch_root /root "$init"
