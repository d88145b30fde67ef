#!/bin/sh
# Pre script for SQLite: takes a write lock on every database and holds it until the post script.
#
#   pre.sh [-s SECONDS] DATABASE…
#
# Readers go on; writers wait, as for any other writer (their busy time-out should be longer than a
# backup holds them, some 10 s). In WAL mode the log is copied into the database first. The locks end by
# themselves after SECONDS (60), also if nobody runs the post script.
seconds=60
if [ "$1" = -s ]; then
  seconds=$2
  shift 2
fi
run=/run/kluis-sqlite
sh "${0%/*}/post.sh" || exit 1
mkdir -m 700 "$run" || exit 1
number=0
for database in "$@"; do
  [ -n "$database" ] || continue
  number=$((number + 1))
  [ -f "$database" ] || exit 1
  sqlite3 -cmd '.timeout 10000' "$database" 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null || exit 1
  # One session keeps its transaction open as long as its standard input is.
  mkfifo "$run/$number" || exit 1
  sqlite3 -bail -cmd '.timeout 10000' "$database" <"$run/$number" >/dev/null 2>&1 &
  echo $! >>"$run/pids"
  sleep "$seconds" >"$run/$number" &
  echo $! >>"$run/pids"
  # With -bail the second line is reached only if the first has succeeded.
  printf 'BEGIN IMMEDIATE;\n.shell : >%s\n' "$run/$number.locked" >"$run/$number"
done
tries=0
while [ $number -gt 0 ]; do
  until [ -e "$run/$number.locked" ]; do
    if [ $tries -gt 1200 ]; then
      sh "${0%/*}/post.sh"
      exit 1
    fi
    sleep 0.01
    tries=$((tries + 1))
  done
  number=$((number - 1))
done
