#!/bin/bash
set -euo pipefail
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    initdb -U "$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") --auth=scram-sha-256 --no-sync >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    # Over the socket alone, so that nobody takes this server for the real one before the database is there.
    pg_ctl -w start -o "-c listen_addresses=''" >/dev/null
    PGPASSWORD=$POSTGRES_PASSWORD createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -w stop >/dev/null
fi
exec "$@" -c listen_addresses='*'
