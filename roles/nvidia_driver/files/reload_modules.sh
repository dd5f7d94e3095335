#!/bin/sh
# Unload NVIDIA's modules and load those on the disk. Whoever uses a GPU stops it, with nothing changed; the services that only watch are
# started again in any case.
set -u
watchers=$(systemctl list-units --plain --no-legend --state=active 'nvidia-persistenced.service' 'nvidia-fabricmanager.service' 'nvidia-dcgm.service' |
  cut -d ' ' -f 1)
# shellcheck disable=SC2086 # one word a unit
[ -z "$watchers" ] || systemctl stop $watchers
status=0
for module in nvidia_drm nvidia_modeset nvidia_peermem nvidia_uvm nvidia; do
  [ ! -d "/sys/module/$module" ] || modprobe --remove "$module" || status=1
done
modprobe nvidia && modprobe nvidia_uvm || status=1
# shellcheck disable=SC2086 # one word a unit
[ -z "$watchers" ] || systemctl start $watchers
exit "$status"
