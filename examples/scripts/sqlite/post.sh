#!/bin/sh
# Post script for SQLite: lets go of the locks that pre.sh holds. Does nothing where there are none.
run=/run/kluis-sqlite
[ -s "$run/pids" ] && while read -r pid; do kill "$pid" 2>/dev/null; done <"$run/pids"
rm -rf "$run"
