#!/bin/sh
# Post script for MariaDB and MySQL: ends the session that holds the lock. Does nothing where there is none.
run=/run/kluis-mariadb
[ -s "$run/pids" ] && while read -r pid; do kill "$pid" 2>/dev/null; done <"$run/pids"
rm -rf "$run"
