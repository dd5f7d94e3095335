#!/bin/sh
# Sees to it that what the test fleet stands on is there: a Docker engine that answers, mmdebstrap, an SSH client.
# Installs Debian's packages where something is missing; leaves a running engine alone.
set -eu

answers() {
    python3 - <<'PYTHON'
import socket, sys
engine = socket.socket(socket.AF_UNIX)
engine.settimeout(5)
try:
    engine.connect("/var/run/docker.sock")
    engine.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
    sys.exit(b" 200 " not in engine.recv(64))
except OSError:
    sys.exit(1)
PYTHON
}

packages=
for pair in ip:iproute2 mmdebstrap:mmdebstrap ssh:openssh-client openssl:openssl gpg:gpg gpg-agent:gpg-agent; do
    command -v "${pair%%:*}" >/dev/null || packages="$packages ${pair#*:}"
done
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || packages="$packages debian-archive-keyring"
if ! answers && ! command -v dockerd >/dev/null; then
    packages="$packages docker.io iptables"
fi
if [ -n "$packages" ]; then
    echo "fleet: installing$packages" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of package names
    apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

# Testinfra looks into containers with the docker command, which some releases of Debian package apart from the engine.
if ! command -v docker >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker-cli >/dev/null
fi

answers && exit 0
if [ -d /run/systemd/system ] && systemctl start docker && answers; then
    exit 0
fi
echo "fleet: starting the Docker engine" >&2
log=/var/log/onprem-llm-dockerd.log
setsid dockerd --storage-driver=overlay2 >"$log" 2>&1 </dev/null &
for _ in $(seq 60); do
    answers && exit 0
    sleep 0.5
done
echo "fleet: the Docker engine did not answer within 30 s; its log: $log" >&2
tail -n 20 "$log" >&2
exit 1
