#!/bin/sh
# Runs inside the new system after the parts of the UKI were taken out.
set -eu
find /boot -mindepth 1 -maxdepth 1 ! -name efi -exec rm -rf {} +
rm -rf /var/cache/apt /var/lib/apt/lists /var/cache/debconf /var/log/dpkg.log /var/log/apt /var/log/alternatives.log
rm -rf /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info
# Sources and proxy settings are the build machine's business.
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/apt/apt.conf.d/99mmdebstrap
rm -rf /var/tmp/*
