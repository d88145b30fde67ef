#!/bin/sh
# Pre script for PostgreSQL: writes out what is dirty, so that a restored server has little to replay.
#
#   pre.sh [USER [PORT]]
#
# PostgreSQL recovers by its write-ahead log from one instant of all its disks, which a recovery point of
# Kluis is; nothing has to be held back, and no write waits. (pg_backup_start is for copies that are not
# of one instant: https://www.postgresql.org/docs/current/backup-file.html.) Every transaction that was
# acknowledged before the instant is there after a restore, unless synchronous_commit or fsync is off:
# then this script refuses.
user=${1:-postgres}
port=${2:-5432}
query() {
  su "$user" -s /bin/sh -c "psql -X -q -A -t -v ON_ERROR_STOP=1 -p $port -d postgres -c \"$1\""
}
[ "$(query 'SHOW fsync')" = on ] || exit 1
[ "$(query 'SHOW synchronous_commit')" != off ] || exit 1
query 'CHECKPOINT'
