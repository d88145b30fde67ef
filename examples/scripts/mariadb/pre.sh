#!/bin/sh
# Pre script for MariaDB and MySQL: takes the global read lock and holds it until the post script, so
# that tables without transactions are whole as well. With InnoDB alone none of this is needed.
#
#   pre.sh [DEFAULTS-FILE [SECONDS]]
#
# DEFAULTS-FILE names user and password, mode 600 (default /root/.my.cnf). Writers wait. The lock ends by
# itself after SECONDS (60), also if nobody runs the post script.
defaults=${1:-/root/.my.cnf}
seconds=${2:-60}
run=/run/kluis-mariadb
client=$(command -v mariadb || command -v mysql) || exit 1
sh "${0%/*}/post.sh" || exit 1
mkdir -m 700 "$run" || exit 1
# The lock lives as long as its session, and that as long as its standard input is open.
mkfifo "$run/orders" || exit 1
"$client" "--defaults-extra-file=$defaults" --batch --unbuffered --skip-column-names \
  <"$run/orders" >"$run/said" 2>&1 &
echo $! >>"$run/pids"
sleep "$seconds" >"$run/orders" &
echo $! >>"$run/pids"
echo "SET SESSION lock_wait_timeout = 20; FLUSH TABLES WITH READ LOCK; SELECT 'locked';" >"$run/orders"
tries=0
until [ "$(head -n 1 "$run/said")" = locked ]; do
  if [ -s "$run/said" ] || [ $tries -gt 250 ]; then
    sh "${0%/*}/post.sh"
    exit 1
  fi
  sleep 0.1
  tries=$((tries + 1))
done
