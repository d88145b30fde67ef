#!/bin/sh
# Post script for PostgreSQL: pre.sh holds nothing, so there is nothing to let go. It says whether the
# server goes on.
user=${1:-postgres}
port=${2:-5432}
su "$user" -s /bin/sh -c "psql -X -q -A -t -p $port -d postgres -c 'SELECT 1'" >/dev/null
