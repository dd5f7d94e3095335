#!/bin/sh
# What a kernel with NVIDIA's driver shows of two GPUs, as mounts of this host alone: the machine's own kernel and modules are never asked.
# `boot` at each start of the host, otherwise in the place of modprobe for NVIDIA's modules. What is loaded stays until it is removed or the host starts
# anew, whatever dpkg and DKMS do meanwhile; whoever was given a GPU holds the modules.
set -eu
own=/run/simulated-kernel

load() {
  [ -s $own/loaded ] || modinfo --field version nvidia >$own/loaded
  version=$(cat $own/loaded)
  mkdir -p /proc/driver/nvidia
  echo "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  $version  Release Build  (simulated)" >/proc/driver/nvidia/version
  for module in nvidia "$@"; do
    mkdir -p "/sys/module/$module"
    echo "$version" >"/sys/module/$module/version"
  done
}

boot() {
  mkdir -p $own/module
  : >$own/loaded
  cat /proc/sys/kernel/random/uuid >$own/boot_id
  mount --bind $own/boot_id /proc/sys/kernel/random/boot_id
  mount --bind /sys/module $own/module
  for place in /sys/bus/pci/devices /sys/module /proc/driver; do
    mount -t tmpfs simulated $place
  done
  ln -s $own/module/* /sys/module/
  for address in 0000:01:00.0 0000:41:00.0; do
    card=/sys/bus/pci/devices/$address
    mkdir "$card"
    echo 0x10de >"$card/vendor"
    echo 0x26b9 >"$card/device"
    echo 0x030200 >"$card/class"
  done
  ! modinfo nvidia >/dev/null 2>&1 || load nvidia_uvm
}

case "$*" in
boot) boot ;;
"--remove nvidia"*)
  if grep --quiet --null-data '^SIMULATED_GPU_' /proc/[0-9]*/environ 2>/dev/null; then
    echo "modprobe: FATAL: Module $2 is in use." >&2
    exit 1
  fi
  rm -rf "/sys/module/$2"
  [ "$2" != nvidia ] || {
    rm -rf /proc/driver/nvidia
    : >$own/loaded
  }
  ;;
nvidia*) load "$1" ;;
*) exec /usr/sbin/modprobe "$@" ;;
esac
