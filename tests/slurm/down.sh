#!/usr/bin/env bash
# down.sh [--purge] -- cancel all jobs and stop what up.sh started, by pid file only.
# A pid is signalled only if its name is the daemon's and its command line or environment names $D.
#   --purge  also removes $D (config, keys, logs, state, database)
set -uo pipefail
PATH=$PATH:/usr/sbin:/sbin
D=${SLURM_ONE_DIR:-${TMPDIR:-/tmp}/slurm-one}
export SLURM_CONF=$D/etc/slurm.conf
[ -e "$D/etc/slurm.conf" ] || exit 0
say() { printf 'slurm_down: %s\n' "$*" >&2; }
ours() { # pid comm
  [ "$(cat "/proc/$1/comm" 2>/dev/null)" = "$2" ] &&
    cat "/proc/$1/cmdline" "/proc/$1/environ" 2>/dev/null | tr '\0' '\n' | grep -qF -- "$D/"
}
# slurmstepds of this Slurm (they work in $D/log), and job processes that outlived theirs (our SLURM_CONF and a job id).
jobpids() {
  local f p
  for f in /proc/[0-9]*/environ; do
    p=${f#/proc/}; p=${p%/environ}
    if [ "$(cat "/proc/$p/comm" 2>/dev/null)" = slurmstepd ]; then   # it overwrites its environment
      [ "$(readlink "/proc/$p/cwd")" = "$(readlink -f "$D/log")" ] && echo "$p"
    else tr '\0' '\n' <"$f" 2>/dev/null | awk -v c="SLURM_CONF=$SLURM_CONF" '$0==c{a=1} /^SLURM_JOB_ID=/{b=1} END{exit !(a&&b)}' && echo "$p"; fi
  done 2>/dev/null
}
if [ -z "${SLURM_ONE_UP:-}" ]; then exec 9>"$D/.lock"; flock -w 60 9 || say "lock busy, going on"; fi   # up.sh holds it
for f in "$D"/run/slurmctld.pid "$D"/run/slurmd.*.pid; do   # a test may have left them stopped
  p=$(cat "$f" 2>/dev/null) && { ours "$p" slurmd || ours "$p" slurmctld; } && kill -CONT "$p"
done
if ours "$(cat "$D/run/slurmctld.pid" 2>/dev/null || echo x)" slurmctld; then
  timeout 10 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 20 scancel 2>/dev/null
  for ((i=0;i<60;i++)); do [ -z "$(timeout 10 squeue -h -t R,CG -o %A 2>/dev/null)" ] && break; sleep 0.2; done
fi
stop() { # pidfile comm
  local p; p=$(cat "$1" 2>/dev/null) || return 0
  if [ -n "$p" ] && ours "$p" "$2"; then
    kill "$p" 2>/dev/null
    for ((i=0;i<100;i++)); do ours "$p" "$2" || break; sleep 0.1; done
    ours "$p" "$2" && { say "$2 $p ignored TERM, killing"; kill -9 "$p"; }
  fi
  rm -f "$1"
}
for f in "$D"/run/slurmd.*.pid; do [ -e "$f" ] && stop "$f" slurmd; done
stop "$D/run/slurmctld.pid" slurmctld
left=$(jobpids | grep -vx $$); [ -z "$left" ] || { say "killing left-over job processes:" $left; kill -9 $left 2>/dev/null; }
stop "$D/run/slurmdbd.pid" slurmdbd
stop "$D/run/mariadbd.pid" mariadbd
stop "$D/munge/munged.pid" munged
for n in $(sed -n 's/^NodeName=\([^ ]*\).*/\1/p' "$D/etc/slurm.conf"); do        # empty freezer groups of proctrack/cgroup
  [ ! -d "/sys/fs/cgroup/freezer/slurm_$n" ] || find "/sys/fs/cgroup/freezer/slurm_$n" -depth -type d -exec rmdir {} \; 2>/dev/null
done
tag=" # slurm-one:$D"
if [ -z "${SLURM_ONE_UP:-}" ] && grep -qF "$tag" /etc/hosts; then
  awk -v t="$tag" 'substr($0, length($0)-length(t)+1) != t' /etc/hosts >"$D/hosts.new"; cat "$D/hosts.new" >/etc/hosts; rm -f "$D/hosts.new"
fi
[ "${1:-}" != --purge ] || rm -rf "$D"
say "stopped"
