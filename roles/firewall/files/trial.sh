#!/bin/sh
# A change of the firewall on trial: what was there before comes back by itself unless a new SSH connection confirms the change in time.
#   arm SECONDS       keep what is there and start the clock; prints the SSH connection that asks, nothing where it is none
#   force SECONDS DELETE...  put the change in force while the clock stands ready, started anew with SECONDS (0: without a trial): UFW's rules
#                     "PORT PROTOCOL FROM" go, then UFW is enabled or reloaded. Fails where what was there before is back already.
#   confirm FORMER    stop the clock; fails on the connection that armed (FORMER), and where what was there before is back already
#   revert            bring back what was there before; what the clock does when it runs out
#   unload            take the rules of ours out of the kernel that UFW does not take out itself
set -eu

place=/var/lib/onprem-llm/firewall-trial
unit=onprem-llm-firewall-trial
lock=/run/onprem-llm-firewall-trial.lock
mark='onprem\.llm '
record=etc/onprem-llm/firewall.json

# Of the SSH connection that this process descends from: the client's address and port, the server's address and port.
connection() {
    pid=$$
    while [ "$pid" -gt 1 ]; do
        found=$(tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | sed -n 's/^SSH_CONNECTION=//p')
        [ -z "$found" ] || break
        pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status")
    done
    echo "$found"
}

arm() {
    asking=$(connection)
    [ -n "$asking" ] || exit 0
    # A trial that nobody ended goes on with what was there before it began.
    if [ ! -e "$place/before.tar" ]; then
        mkdir -p "$place"
        chmod 0700 "$place"
        cp "$0" "$place/trial.sh"
        chmod 0700 "$place/trial.sh"
        if ufw status | grep -qx 'Status: active'; then echo active; else echo inactive; fi >"$place/status"
        for tool in iptables ip6tables; do
            $tool -S | sed -n 's/^-P //p' >"$place/policies.$tool"
        done
        kept="etc/ufw etc/default/ufw"
        [ ! -e "/$record" ] || kept="$kept $record"
        # shellcheck disable=SC2086  # a list of paths
        tar -C / -cf "$place/unfinished" $kept
        mv "$place/unfinished" "$place/before.tar"
    fi
    start_clock "$1"
    echo "$asking"
}

# Files, not transient units: the clock goes on after a reboot.
start_clock() {
    cat >"/etc/systemd/system/$unit.service" <<UNIT
[Unit]
Description=Former rules of the firewall, as nobody confirmed the new ones
[Service]
Type=oneshot
ExecStart=$place/trial.sh revert
UNIT
    cat >"/etc/systemd/system/$unit.timer" <<UNIT
[Unit]
Description=Time to confirm the new rules of the firewall
[Timer]
OnActiveSec=$1
AccuracySec=1
[Install]
WantedBy=timers.target
UNIT
    systemctl daemon-reload
    systemctl enable --quiet "$unit.timer"
    systemctl restart "$unit.timer"
}

disarm() {
    systemctl disable --quiet --now "$unit.timer" || :
    rm -rf "/etc/systemd/system/$unit.service" "/etc/systemd/system/$unit.timer" "$place"
    rmdir /var/lib/onprem-llm 2>/dev/null || :
    systemctl daemon-reload
    rm -f "$lock"
}

alone() {
    exec 9>"$lock"
    flock 9
    if [ ! -e "$place/before.tar" ]; then
        rm -f "$lock"
        echo "no change is on trial: its time ran out, and the former rules are back" >&2
        exit 3
    fi
}

force() {
    if [ "$1" != 0 ]; then
        alone
        start_clock "$1"
    fi
    shift
    for rule in "$@"; do
        echo "$rule" | {
            read -r port protocol from
            ufw --force delete allow proto "$protocol" from "$from" to any port "$port"
        }
    done
    # Its children would keep the lock.
    if ufw status 9>&- | grep -qx 'Status: active'; then ufw reload 9>&-; else ufw --force enable 9>&-; fi
}

confirm() {
    alone
    asking=$(connection)
    if [ -z "$asking" ] || [ "$asking" = "$1" ]; then
        echo "the connection is not a new one ($asking); ControlPath in ansible_ssh_args stands in the way" >&2
        exit 4
    fi
    disarm
}

unload() {
    for tool in iptables ip6tables; do
        saved=$($tool-save -t filter)
        rules=$(printf '%s\n' "$saved" | sed -n "/^-A ONPREM-LLM/d; /--comment \"$mark/s/^-A /-D /p")
        chains=$(printf '%s\n' "$saved" | sed -n 's/^:\(ONPREM-LLM[^ ]*\) .*/\1/p')
        if [ -n "$rules$chains" ]; then
            {
                echo '*filter'
                printf '%s\n' "$rules"
                for chain in $chains; do echo "-F $chain"; done
                for chain in $chains; do echo "-X $chain"; done
                echo COMMIT
            } | $tool-restore -w --noflush
            echo "deleted by $tool"
        fi
        # Docker and others lead to their chain; one that is empty and that nothing leads to was made for us.
        $tool -X DOCKER-USER 2>/dev/null || :
    done
}

revert() {
    alone
    status=$(cat "$place/status")
    [ "$status" = active ] || ufw --force disable
    tar -tf "$place/before.tar" | grep -qx "$record" || rm -f "/$record"
    tar -C / -xpf "$place/before.tar"
    if [ "$status" = active ]; then
        ufw reload
        grep -q ONPREM-LLM /etc/ufw/after.rules || unload
    else
        unload
        for tool in iptables ip6tables; do
            while read -r chain policy; do $tool -P "$chain" "$policy"; done <"$place/policies.$tool"
        done
    fi
    disarm
    echo "the former rules of the firewall are back"
}

action=$1
shift
case $action in
    arm | force | confirm | revert | unload) "$action" "$@" ;;
    *) echo "unknown: $action" >&2; exit 2 ;;
esac
