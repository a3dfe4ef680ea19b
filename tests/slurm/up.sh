#!/usr/bin/env bash
# up.sh -- install (once) and start a private, loopback-only, single-host Slurm
# with several logical nodes (one slurmd each). Run as root. Idempotent: a second call
# returns at once, restarts only what died, and resumes nodes that are down or drained.
#   stdout: lines to eval   (eval "$(bash up.sh)")      stderr: progress
#   stop:   bash down.sh
# Settings (environment):
#   SLURM_ONE_DIR=${TMPDIR:-/tmp}/slurm-one  config, keys, logs, spool, pid files: all below it (keep it short)
#   SLURM_ONE_NODES=2  _CPUS=4  _MEM=8000 (MB)  _GPUS=2    per-node size; need not match the hardware
#   SLURM_ONE_PORT=16817  base port: ctld=base, dbd=base+1, mysql=base+2, slurmd i=base+10+i, srun=base+100..+299
#   SLURM_ONE_DBD=0    1: also run slurmdbd + a private mariadbd, so that sacct works
#   SLURM_ONE_UTS=auto auto|0: give every slurmd its own hostname (n1, n2, ...) with unshare -u
#   SLURM_ONE_PREFIX=n  node names; a second Slurm on the same machine needs another prefix, port and dir
#   SLURM_ONE_PROCTRACK=auto  cgroup (v1 freezer only; kills all a job left behind) where it works, else linuxproc
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
D=${SLURM_ONE_DIR:-${TMPDIR:-/tmp}/slurm-one}; NODES=${SLURM_ONE_NODES:-2}; CPUS=${SLURM_ONE_CPUS:-4}
MEM=${SLURM_ONE_MEM:-8000}; GPUS=${SLURM_ONE_GPUS:-2}; PORT=${SLURM_ONE_PORT:-16817}
DBD=${SLURM_ONE_DBD:-0}; UTS=${SLURM_ONE_UTS:-auto}; N=${SLURM_ONE_PREFIX:-n}; PT=${SLURM_ONE_PROCTRACK:-auto}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
H=$(uname -n); H=${H%%.*}
say() { printf 'slurm_up: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
[ "$(id -u)" = 0 ] || die "must be root (jobs then run as root too)"
[ ${#D} -le 60 ] || die "SLURM_ONE_DIR too long: unix sockets below it hit the 108-byte limit"

# ---- 1. packages -----------------------------------------------------------------
pk=()
for c in munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client; do
  command -v "${c%%:*}" >/dev/null || pk+=("${c##*:}")
done
if [ "$DBD" = 1 ]; then
  command -v slurmdbd >/dev/null || pk+=(slurmdbd)
  [ -e /usr/lib/x86_64-linux-gnu/slurm-wlm/accounting_storage_mysql.so ] || pk+=(slurm-wlm-mysql-plugin)
  command -v mariadbd >/dev/null || pk+=(mariadb-server-core mariadb-client-core)   # the servers without their system service
fi
if [ ${#pk[@]} -gt 0 ]; then
  say "installing ${pk[*]}"
  prc=
  if [ ! -e /usr/sbin/policy-rc.d ]; then          # keep the packages from starting system daemons
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; prc=1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >&2 || say "apt-get update failed, going on"
  rc=0; apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "${pk[@]}" >&2 || rc=$?
  [ -z "$prc" ] || rm -f /usr/sbin/policy-rc.d
  [ "$rc" = 0 ] || die "apt-get install failed ($rc)"
fi

# ---- 2. directories, fake GPUs, names --------------------------------------------
mkdir -p "$D"; chmod 755 "$D"                       # munged refuses group/other-writable parents without sticky bit
exec 9>"$D/.lock"; flock 9                          # two callers at once: second waits
mkdir -p "$D"/{etc,state,spool,log,run,munge,dev}
names=(); for ((i=1;i<=NODES;i++)); do names+=("$N$i"); mkdir -p "$D/spool/$N$i"; done
uts=0; if [ "$UTS" != 0 ] && unshare -u true 2>/dev/null; then uts=1; fi
# Names must resolve to loopback: NoInAddrAny binds every daemon to the address of its own hostname.
want="127.0.0.1 ${names[*]}"
case "$(getent ahostsv4 "$H" | head -1)" in 127.*) ;; *) want="$want $H" ;; esac
tag="# slurm-one:$D"
if ! grep -qxF "$want $tag" /etc/hosts; then
  { awk -v t=" $tag" 'substr($0, length($0)-length(t)+1) != t' /etc/hosts; echo "$want $tag"; } >"$D/hosts.new"
  cat "$D/hosts.new" >/etc/hosts; rm -f "$D/hosts.new"   # cat, not mv: /etc/hosts may be a bind mount
fi
if [ "$PT" = auto ]; then                           # can we make a v1 freezer group? (v2 needs systemd, do not try)
  PT=linuxproc; g=/sys/fs/cgroup/freezer
  if [ -e $g/tasks ] && mkdir "$g/slurm_probe.$$" 2>/dev/null; then rmdir "$g/slurm_probe.$$"; PT=cgroup; fi
fi
gresline=; gresnode=
if [ "$GPUS" -gt 0 ]; then
  for ((i=0;i<GPUS;i++)); do
    [ -e "$D/dev/nvidia$i" ] || mknod "$D/dev/nvidia$i" c 1 3 2>/dev/null || : >"$D/dev/nvidia$i"  # a /dev/null each
  done
  gresline="NodeName=${N}[1-$NODES] Name=gpu File=$D/dev/nvidia[0-$((GPUS-1))]"; gresnode="Gres=gpu:$GPUS"
fi

# ---- 3. configuration ------------------------------------------------------------
[ -s "$D/munge/munge.key" ] || (umask 077; head -c 128 /dev/urandom >"$D/munge/munge.key")
if [ "$DBD" = 1 ]; then
  acct="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT+1))
AccountingStoragePass=$D/munge/munge.socket
AccountingStorageTRES=gres/gpu"   # Pass: to slurmdbd, munge takes its socket from here, not from AuthInfo
else acct="AccountingStorageType=accounting_storage/none"; fi
conf="ClusterName=one
SlurmctldHost=$H(127.0.0.1)
SlurmctldPort=$PORT
SrunPortRange=$((PORT+100))-$((PORT+299))
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$D/munge/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.%n.log
ProctrackType=proctrack/$PT
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
$acct
JobCompType=jobcomp/filetxt
JobCompLoc=$D/log/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdTimeout=10
BatchStartTimeout=10
KillWait=3
MinJobAge=3600
ReturnToService=1
JobRequeue=1
SlurmdParameters=config_overrides
${gresnode:+GresTypes=gpu
}$(for ((i=1;i<=NODES;i++)); do h=$H; [ "$uts" = 0 ] || h=$N$i
  echo "NodeName=$N$i NodeHostname=$h NodeAddr=127.0.0.1 Port=$((PORT+10+i)) CPUs=$CPUS RealMemory=$MEM $gresnode State=UNKNOWN"; done)
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=DEFAULT Nodes=ALL DefaultTime=60 MaxTime=INFINITE State=UP
PartitionName=main Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=high PriorityTier=9 PreemptMode=OFF"
if [ -e "$D/etc/slurm.conf" ] && [ "$conf" != "$(cat "$D/etc/slurm.conf")" ]; then
  say "configuration changed: restarting"; SLURM_ONE_DIR="$D" SLURM_ONE_UP=1 bash "$HERE/down.sh" >&2 9>&-
fi
printf '%s\n' "$conf" >"$D/etc/slurm.conf"
printf 'AutoDetect=off\n%s\n' "$gresline" >"$D/etc/gres.conf"
# Without a cgroup.conf, 22.05 has no mount point at all: "cgroup namespace 'freezer' not mounted", and the nodes drain.
# cgroup/v1 also where nothing uses it (linuxproc): the v2 plugin wants systemd.
printf 'CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n' >"$D/etc/cgroup.conf"
export SLURM_CONF=$D/etc/slurm.conf

# ---- 4. daemons (each known by its pid file, its name and $D in its command line or environment) --
alive() { # pidfile comm -- a zombie (pid 1 may be slow to reap) has an empty cmdline and environ, so it counts as dead
  local p; p=$(cat "$1" 2>/dev/null) || return 1
  [ -n "$p" ] && [ "$(cat "/proc/$p/comm" 2>/dev/null)" = "$2" ] &&
    cat "/proc/$p/cmdline" "/proc/$p/environ" 2>/dev/null | tr '\0' '\n' | grep -qF -- "$D/"
}
wait_for() { # seconds command...
  local end=$((SECONDS+$1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}
m=$D/munge
alive "$m/munged.pid" munged || { say "starting munged"; rm -f "$m/munge.socket" "$m/munge.socket.lock"
  munged --key-file="$m/munge.key" --socket="$m/munge.socket" --pid-file="$m/munged.pid" \
         --log-file="$m/munged.log" --seed-file="$m/munged.seed" 9>&-; }
wait_for 10 munge -S "$m/munge.socket" -n || die "munged does not answer, see $m/munged.log"

if [ "$DBD" = 1 ]; then
  b=$D/db; [ -s "$b/pass" ] || { mkdir -p "$b"; (umask 077; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$b/pass"); }
  if ! alive "$D/run/mariadbd.pid" mariadbd; then
    say "starting mariadbd"
    [ -d "$b/data/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$b/data" --skip-test-db --auth-root-authentication-method=socket >"$D/log/mariadb-install.log" 2>&1
    setsid mariadbd --no-defaults --user=root --datadir="$b/data" --socket="$b/s.sock" --pid-file="$D/run/mariadbd.pid" \
      --bind-address=127.0.0.1 --port=$((PORT+2)) --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 \
      --log-error="$D/log/mariadbd.log" </dev/null >/dev/null 2>&1 9>&- &
    wait_for 60 mariadb --no-defaults -S "$b/s.sock" -e "select 1" || die "mariadbd does not answer, see $D/log/mariadbd.log"
  fi
  mariadb --no-defaults -S "$b/s.sock" -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
    CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY '$(cat "$b/pass")';
    CREATE USER IF NOT EXISTS slurm@'localhost' IDENTIFIED BY '$(cat "$b/pass")';
    GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1'; GRANT ALL ON slurm_acct_db.* TO slurm@'localhost'"
  (umask 077; cat >"$D/etc/slurmdbd.conf" <<X
AuthType=auth/munge
AuthInfo=socket=$m/munge.socket
DbdHost=$H
DbdAddr=127.0.0.1
DbdPort=$((PORT+1))
SlurmUser=root
PidFile=$D/run/slurmdbd.pid
LogFile=$D/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT+2))
StorageUser=slurm
StoragePass=$(cat "$b/pass")
StorageLoc=slurm_acct_db
CommunicationParameters=NoInAddrAny
X
  )
  alive "$D/run/slurmdbd.pid" slurmdbd || { say "starting slurmdbd"; slurmdbd 9>&-; }   # finds slurmdbd.conf beside $SLURM_CONF
  wait_for 60 sacctmgr -n show cluster || die "slurmdbd does not answer, see $D/log/slurmdbd.log"
  [ -n "$(sacctmgr -nP show cluster one)" ] || sacctmgr -i add cluster one >&2
fi

if alive "$D/run/slurmctld.pid" slurmctld; then kill -CONT "$(cat "$D/run/slurmctld.pid")"; else say "starting slurmctld"; slurmctld -c -f "$SLURM_CONF" 9>&-; fi   # -c: drop old jobs and node states, keep counting job ids
wait_for 20 sh -c 'scontrol ping | grep -q "is UP"' || die "slurmctld does not answer, see $D/log/slurmctld.log"
for n in "${names[@]}"; do
  if alive "$D/run/slurmd.$n.pid" slurmd; then kill -CONT "$(cat "$D/run/slurmd.$n.pid")"; continue; fi   # CONT: a test may have left it stopped
  say "starting slurmd $n"
  if [ "$uts" = 1 ]; then unshare -u sh -c 'hostname "$1" && exec slurmd -f "$2" -N "$1"' sh "$n" "$SLURM_CONF" 9>&-
  else slurmd -f "$SLURM_CONF" -N "$n" 9>&-; fi
done
up() { # every node registered and usable; resume what an earlier test left down or drained
  local st; st=$(sinfo -h -N -o '%N %T') || return 1
  while read -r n t; do case $t in
      down*|drained*|draining*) scontrol update nodename="$n" state=resume || true; return 1 ;;
      idle|mixed|allocated|completing) ;; *) return 1 ;; esac; done <<<"$st"   # idle*, unknown, ...: not yet
  [ "$(wc -l <<<"$st")" -ge "$NODES" ]
}
wait_for 40 up || { sinfo -N -l >&2; sinfo -R >&2; die "nodes are not idle, see $D/log"; }
say "$(sinfo -h -p main -o '%P %D nodes %T %c cpus %m MB %G')"
printf 'export SLURM_CONF=%q SLURM_ONE_DIR=%q\n' "$SLURM_CONF" "$D"
