#!/usr/bin/env bash
# node.sh crash|hang|wake|start NODE|ctl -- failures for tests, on the Slurm of up.sh.
#   crash  power cut: kill -9 slurmd, every slurmstepd and every job process of NODE (all that share its hostname namespace)
#   hang   network cut: SIGSTOP the slurmd only; the jobs go on running while slurmctld declares the node down
#   wake   SIGCONT after hang          start   bring a crashed node back
#   NODE "ctl": the same for slurmctld (start recovers its jobs; up.sh would start it with none)
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
D=${SLURM_ONE_DIR:-${TMPDIR:-/tmp}/slurm-one}; act=$1; n=$2; HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ "$n" = ctl ]; then
  p=$(cat "$D/run/slurmctld.pid")
  case $act in start) exec slurmctld -R -f "$D/etc/slurm.conf" ;; esac
  [ "$(cat /proc/"$p"/comm)" = slurmctld ] && grep -qF "$D/" "/proc/$p/cmdline"
  case $act in crash) kill -9 "$p" ;; hang) kill -STOP "$p" ;; wake) kill -CONT "$p" ;; esac; exit 0
fi
p=$(cat "$D/run/slurmd.$n.pid"); [ "$act" = start ] || { [ "$(cat /proc/"$p"/comm)" = slurmd ] && grep -qF "$D/" "/proc/$p/cmdline"; }
case $act in
  crash) ns=$(readlink "/proc/$p/ns/uts"); [ "$ns" != "$(readlink /proc/self/ns/uts)" ] || { echo "needs SLURM_ONE_UTS=auto" >&2; exit 1; }
    kill -9 "$p"                                   # slurmd first, so that it reports nothing
    for _ in 1 2 3; do for f in /proc/[0-9]*/ns/uts; do
      [ "$(readlink "$f" 2>/dev/null)" = "$ns" ] || continue
      q=${f#/proc/}; kill -9 "${q%%/*}" 2>/dev/null || true
    done; done ;;
  hang) kill -STOP "$p" ;;
  wake) kill -CONT "$p" ;;
  start) SLURM_ONE_DIR="$D" exec bash "$HERE/up.sh" ;;
esac
