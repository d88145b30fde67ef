#!/bin/sh
# VMSnapshotLinux, the part of Kluis in a Linux guest: docs/design/extension.md.
#
#   extension.sh inspect FILE… -- FILE…   what the files are; of the first ones also the content
#   extension.sh pre TOKEN HOLD PRE… POST…  starts a supervisor, and waits for what becomes of pre
#   extension.sh pre-result TOKEN         waits for what becomes of a pre that was begun
#   extension.sh post TOKEN               orders post, and waits for what becomes of it
#   extension.sh order TOKEN              orders post, to be run at once or after pre
#   extension.sh note LINE…               keeps what the last backup came to
#   extension.sh status                   prints that
#   extension.sh remove                   takes all of it out of the guest
#
# The files of a round lie in RUN/TOKEN. The rule for all verbs: post of a round that was begun is
# ordered until it ended, and a round in which it has not is never forgotten.
#
# PRE and POST are each: time over all tries, most tries, command line.
# Times are in hundredths of a second. Results of a round lie in memory (/run), so that nothing waits
# for a file system that is frozen.
export PATH="$PATH:/usr/sbin:/usr/bin:/sbin:/bin"
umask 077
version=1.4
rounds=/run/kluis
home=${0%/*}
content_max=65536

now() {
  read -r uptime rest </proc/uptime
  now=${uptime%.*}${uptime#*.}
}

# A short wait, also where sleep takes whole seconds only.
pause() {
  sleep "$1" 2>/dev/null || sleep 1
}

# One line per file: what it is, owner, mode, size and, where it is wanted, the content.
inspect() {
  with_content=yes
  for path in "$@"; do
    if [ "$path" = -- ]; then
      with_content=no
      continue
    fi
    if [ ! -e "$path" ]; then
      echo missing
      continue
    fi
    kind=other
    [ -f "$path" ] && kind=file
    facts=$(stat -L -c '%u %a %s' "$path") || exit 3
    set -- $facts
    content=-
    if [ $with_content = yes ] && [ $kind = file ] && [ "$3" -le $content_max ]; then
      content=$(base64 <"$path" | tr -d '\n') || exit 3
    fi
    echo "$kind $1 $2 $3 ${content:--}"
  done
}

# Supervisors that live, as /proc/PID/stat: one that was killed stays there until its parent has seen it.
supervisors() {
  grep -slE '\(ks-[0-9a-f]{12}\) [^ZX]' /proc/[0-9]*/stat
}

# Writes $2 into file $1, which appears whole; fails where it is there already. Of several one succeeds.
claim() {
  echo "$2" >"$1.$$" && ln "$1.$$" "$1"
} 2>/dev/null

# Sets `claims` to how many supervisors round $1 has had, each in the place of one that was killed, and
# `supervisor` to the last one's process.
find_supervisor() {
  claims=0
  supervisor=none
  while [ -e "$rounds/$1/supervisor.$((claims + 1))" ]; do
    claims=$((claims + 1))
    read -r supervisor <"$rounds/$1/supervisor.$claims"
  done
}

# Whether the supervisor of round $1 lives.
is_supervised() {
  find_supervisor "$1"
  grep -qs "(ks-$1) [^ZX]" "/proc/$supervisor/stat"
}

# Whether round $1 was begun, has not run post, and nobody will.
is_lost() {
  ! is_supervised "$1" && [ "$claims" -gt 0 ] && [ ! -e "$rounds/$1/post.result" ]
}

# Supervisors that somebody stopped go on, and so does what they wait for: each leads a group, in which
# its sleep is too.
wake_supervisors() {
  for entry in $(supervisors); do
    entry=${entry#/proc/}
    kill -CONT "-${entry%/stat}" 2>/dev/null
  done
}

# Has all rounds run their posts, waits for their end for at most $1, and forgets them; fails where one
# has not run it by then.
end_rounds() {
  for round in "$rounds"/*; do
    [ -d "$round" ] && order "${round##*/}"
  done
  now
  patience_ends=$((now + $1))
  while [ -n "$(supervisors)" ]; do
    now
    [ "$now" -lt "$patience_ends" ] || return
    pause 0.05
  done
  for round in "$rounds"/*; do
    is_lost "${round##*/}" && return 1
  done
  rm -rf "$rounds"
}

# $1 token, $2 longest time from the end of pre to post, then PRE and POST.
pre() {
  end_rounds 1000 || {
    echo "the scripts of an earlier backup are still running"
    exit 4
  }
  directory=$rounds/$1
  # For another supervisor, where this one is killed.
  mkdir -p "$directory" && echo "$6 $7" >"$directory/post.limits" &&
    printf '%s' "$8" >"$directory/post.command" || exit 5
  # What is dirty now need not be written while the application is quiesced.
  sync
  start_supervisor supervise "$@"
  [ -e "$directory/supervisor.1" ] || {
    echo "the supervisor does not start"
    exit 5
  }
  await_result "$directory/pre.result"
}

# For who lost the answer to `pre`, with the agent that had it.
pre_result() {
  [ -d "$rounds/$1" ] || unknown_round
  await_result "$rounds/$1/pre.result"
}

post() {
  order "$1" || unknown_round
  await_result "$rounds/$1/post.result"
}

unknown_round() {
  echo "the round is not known here"
  exit 6
}

# What every supervisor does first; $1 token. It goes on as the only one that lives.
begin() {
  token=$1
  directory=$rounds/$token
  oom=$(cat /proc/$$/oom_score_adj)
  # The agent's service would take it along when it ends.
  for group in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/systemd/cgroup.procs; do
    [ -w "$group" ] && echo $$ >"$group"
  done
  echo -1000 >/proc/$$/oom_score_adj
  # Not ignored: the scripts would inherit that.
  trap : HUP INT TERM PIPE
  cd /
  echo "ks-$token" >/proc/$$/comm
  is_supervised "$token" && exit
  [ ! -e "$directory/post.result" ] || exit
  claim "$directory/supervisor.$((claims + 1))" $$ || exit
}

# $1 token, $2 longest time from the end of pre to post, then PRE and POST.
supervise() {
  begin "$1"
  hold=$2
  run_script pre "$3" "$4" "$5"
  now
  deadline=$((now + hold))
  trigger=ordered
  until [ -e "$directory/order" ]; do
    now
    if [ "$now" -ge "$deadline" ]; then
      trigger=late
      thaw_all
      break
    fi
    pause 0.03
  done
  run_script post "$6" "$7" "$8"
  if [ $trigger = late ]; then
    write_status "status=interrupted" "error=the post script was run by the guest, for nobody ordered it in time"
  fi
}

# In the place of a supervisor that was killed: ends the script that it left, and runs post. $1 token.
supervise_post() {
  begin "$1"
  for left in "$directory"/*.try; do
    [ -s "${left%try}exit" ] || end_script "${left%try}leader"
  done
  read -r limit tries_most <"$directory/post.limits"
  trigger=ordered
  run_script post "$limit" "$tries_most" "$(cat "$directory/post.command")"
}

thaw_all() {
  while read -r device mount rest; do
    case $device in
      //*) ;;
      /*) fsfreeze --unfreeze "$(printf '%b' "$mount")" ;;
    esac
  done </proc/mounts
}

# $1 pre or post, $2 time over all tries, $3 most tries, $4 command. Leaves NAME.result: outcome, exit
# code or -, tries, start, end, and for post whether it was ordered.
run_script() {
  now
  start=$now
  end=$((now + $2))
  tries=0
  outcome=failed
  while [ $outcome = failed ] && [ $tries -lt "$3" ]; do
    tries=$((tries + 1))
    try_script "$1" $end "$4"
  done
  # A post that was cut off may have left the application at rest: once more, in a time of its own.
  if [ "$1" = post ] && was_cut_off; then
    tries=$((tries + 1))
    now
    try_script post $((now + $2)) "$4"
  fi
  now
  echo "$outcome $code $tries $start $now ${trigger:--}" >"$directory/$1.part"
  mv "$directory/$1.part" "$directory/$1.result"
}

# Whether the last try was ended by the time or by a signal.
was_cut_off() {
  [ $outcome = timed-out ] && return
  [ "$code" -gt 128 ] && [ "$code" -le 192 ]
}

try_script() {
  # Of this try alone: one that was ended may still leave its code.
  try=$directory/$1.$$.$tries
  exited=$try.exit
  leader=$try.leader
  : >"$try.try"
  (
    echo "$oom" >/proc/self/oom_score_adj
    # It is no supervisor, and may outlive one.
    echo "kr-$token" >/proc/self/comm
    # Who ends the script takes the claim before it: then it is not run.
    setsid sh -c 'echo $$ >"$1.$$" && ln "$1.$$" "$1" || [ ! -e "$1" ] || exit
      eval "exec $2"' kluis "$leader" "$3"
    echo $? >"$exited"
  ) </dev/null >/dev/null 2>&1 &
  looks=0
  while [ ! -s "$exited" ]; do
    now
    [ "$now" -ge "$2" ] && break
    if [ $looks -lt 20 ]; then
      pause 0.02
    else
      # A script that somebody stopped goes on: the application waits for it.
      [ -s "$leader" ] && read -r group <"$leader" && kill -CONT "-$group"
      pause 0.1
    fi
    looks=$((looks + 1))
  done
  outcome=timed-out
  code=-
  if [ ! -s "$exited" ]; then
    end_script "$leader"
    return
  fi
  read -r code <"$exited"
  outcome=failed
  [ "$code" = 0 ] && outcome=succeeded
}

# A script that is out of time, $1 its leader's claim: it must not go on, or begin, beside the post script.
end_script() {
  claim "$1" ended && return
  read -r group <"$1" || return
  kill -TERM "-$group"
  waits=0
  while kill -0 "-$group" && [ $waits -lt 20 ]; do
    pause 0.1
    waits=$((waits + 1))
  done
  kill -KILL "-$group"
}

await_result() {
  looks=0
  until [ -e "$1" ]; do
    if [ $((looks % 25)) = 24 ]; then
      wake_supervisors
      if [ -z "$(supervisors)" ] && [ ! -e "$1" ]; then
        echo "the supervisor has ended"
        exit 6
      fi
    fi
    if [ $looks -lt 50 ]; then pause 0.02; else pause 0.1; fi
    looks=$((looks + 1))
  done
  cat "$1"
}

order() {
  [ -d "$rounds/$1" ] || return
  : >"$rounds/$1/order"
  wake_supervisors
  is_lost "$1" || return 0
  start_supervisor supervise-post "$1"
}

# $1 what it does, $2 token, and what else it is told; waits until it has begun.
start_supervisor() {
  setsid sh "$0" "$@" </dev/null >/dev/null 2>&1 &
  tries=0
  until is_supervised "$2" || [ -e "$rounds/$2/post.result" ]; do
    [ $tries -lt 300 ] || return
    pause 0.02
    tries=$((tries + 1))
  done
}

note() {
  end_rounds 0
  write_status "$@"
}

remove() {
  end_rounds 1000 || {
    echo "a script of the last backup is still running"
    exit 4
  }
  rm -rf "$home" || exit 5
  rmdir "${home%/*}" 2>/dev/null
  exit 0
}

write_status() {
  { printf '%s\n' "$@"; echo "at=$(date -u +%Y-%m-%dT%H:%M:%SZ)"; } >"$home/status.part" &&
    mv "$home/status.part" "$home/status"
}

verb=$1
shift
case $verb in
  inspect) inspect "$@" ;;
  pre) pre "$@" ;;
  pre-result) pre_result "$@" ;;
  post) post "$@" ;;
  supervise) supervise "$@" ;;
  supervise-post) supervise_post "$@" ;;
  order) order "$@" ;;
  note) note "$@" ;;
  remove) remove ;;
  status) [ ! -e "$home/status" ] || cat "$home/status" ;;
  *) exit 2 ;;
esac
