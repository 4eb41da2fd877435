#!/bin/sh
# For every Debian image, with the tree's path as $1: what the installation left
# behind and no program of the guest needs.
set -eu
root=$1
# How this machine reaches its mirror is nobody else's business.
rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/apt/sources.list
rm -rf "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
rm -rf "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/var/log/*
# One look into the cache finds every library.
chroot "$root" ldconfig
